# SPDX-License-Identifier: Apache-2.0
"""Keeps the newest camera frame, unconverted, and joins depth to it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from segzero_core.errors import CancelledError, NoImageError, StaleFrameError

DEPTH_LAG_S = 0.5  # depth may come so much later than the image it belongs to
HISTORY = 15  # images, and depth images, that wait for one another: as many as come in that time
GRACE_S = 0.2  # for the depth of an image that has just come, on a machine that is busy


@dataclass(frozen=True)
class Frame:
    """What the camera saw at one moment.

    Attributes:
        image: The message as it came.
        received: When it came, ``time.monotonic()``.
        depth: The depth image that belongs to it, as it came, if there is one.
        no_depth: Why there is none, for people.
        info: The newest calibration, if there is one.
    """

    image: Image | CompressedImage
    received: float
    depth: Image | CompressedImage | None = None
    no_depth: str = ''
    info: CameraInfo | None = None


class FrameBuffer:
    """Filled by the subscriptions, read by the worker.

    message_filters would do the joining, but holds its lock while it calls back, and is not
    among the ROS wheels.
    """

    def __init__(
        self, slop: float | None, patience: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Start empty.

        Args:
            slop: Stamps of image and depth may differ by this many seconds; ``None`` if there
                is no depth camera.
            patience: For so many seconds from now, and from the first image on, ``newest`` waits
                for a first complete frame: a camera may come up after us, and DDS finds its
                topics one by one.
            clock: Seconds, of the clock that images are stamped by.
        """
        self._slop = slop
        self._patience = patience
        self._clock = clock
        self._patient_until = time.monotonic() + patience
        self._changed = threading.Condition()
        self._images: deque[Frame] = deque(maxlen=1 if slop is None else HISTORY)
        self._depths: deque[Image | CompressedImage] = deque(maxlen=HISTORY)
        self._complete: Frame | None = None
        self._received: dict[str, float] = {}  # when each topic's newest message came
        self._count = 0
        self._info: CameraInfo | None = None

    def add_image(self, message: Image | CompressedImage) -> None:
        """Keep an image."""
        with self._changed:
            now = self._received['image'] = time.monotonic()
            if not self._images:
                self._patient_until = now + self._patience
            self._images.append(Frame(message, now))
            while len(self._images) > 1 and now - self._images[0].received > DEPTH_LAG_S:
                self._images.popleft()
            self._count += 1
            self._join()

    def add_depth(self, message: Image | CompressedImage) -> None:
        """Keep a depth image."""
        with self._changed:
            self._received['depth'] = time.monotonic()
            self._depths.append(message)
            self._join()

    def add_info(self, message: CameraInfo) -> None:
        """Keep a calibration; it replaces the last one."""
        with self._changed:
            self._received['camera_info'] = time.monotonic()
            self._info = message
            self._changed.notify_all()

    def newest(self, cancel: threading.Event) -> Frame:
        """Return the newest frame: with its depth, unless depth has fallen behind.

        Raises:
            NoImageError: No image has come.
            CancelledError: ``cancel`` was set while waiting.
        """
        with self._changed:
            deadline = max(self._patient_until, time.monotonic() + GRACE_S)
            while not self._ready() and time.monotonic() < deadline:
                self._changed.wait(0.05)
                if cancel.is_set():
                    raise CancelledError('cancelled while waiting for an image')
            if not self._images:
                raise NoImageError(
                    'no image has come: is the camera running, is the topic remapped, and does '
                    'image.reliability fit (a best_effort camera needs best_effort)?'
                )
            frame = self._fresh_complete() or self._images[-1]
            why = '' if frame.depth or self._slop is None else self._why_no_depth(frame)
            return replace(frame, info=self._info, no_depth=why)

    def check_age(self, frame: Frame, most: float) -> None:
        """Refuse a frame that is too old, or comes from a clock that cannot tell.

        Args:
            frame: From ``newest``.
            most: Seconds between its stamp and now; 0 is any.

        Raises:
            StaleFrameError: It is older, or stamped so far in the future.
        """
        if not most:
            return
        stamp = stamp_seconds(frame.image.header)
        age = self._clock() - stamp
        if abs(age) > most:
            when = f'{age:.3f} s ago' if age > 0 else f'{-age:.3f} s in the future'
            raise StaleFrameError(
                f'the newest frame was stamped {when} (at {stamp:.3f}), more than '
                f'image.max_age = {most:g} s: has the camera stopped, is its clock set, and, '
                'for a bag, is use_sim_time?'
            )

    @property
    def count(self) -> int:
        """How many images have come."""
        with self._changed:
            return self._count

    def age(self, topic: str = 'image') -> float | None:
        """Return the seconds since a topic's newest message came; ``None`` before the first.

        Args:
            topic: ``image``, ``depth`` or ``camera_info``.
        """
        with self._changed:
            received = self._received.get(topic)
            return None if received is None else time.monotonic() - received

    def _ready(self) -> bool:
        if self._slop is None:
            return bool(self._images)
        return self._fresh_complete() is not None and self._info is not None

    def _fresh_complete(self) -> Frame | None:
        """Return the newest frame with depth, unless the images have left it behind."""
        complete = self._complete
        if complete and self._images[-1].received - complete.received <= DEPTH_LAG_S:
            return complete
        return None

    def _why_no_depth(self, frame: Frame) -> str:
        stamp = stamp_seconds(frame.image.header)
        gaps = [stamp_seconds(depth.header) - stamp for depth in self._depths]
        if not gaps:
            return (
                'no depth image has come: is the depth camera running, is depth remapped to its '
                'topic, and is depth.transport what that carries?'
            )
        if not stamp:
            return 'the image has no stamp, so no depth image belongs to it: let the driver stamp'
        gap = min(gaps, key=abs)
        return (
            f'the nearest depth image is stamped {abs(gap):.3f} s '
            f'{"before" if gap < 0 else "after"} the image (at {stamp:.3f}), more than '
            f'depth.sync_slop = {self._slop:g} s: does depth keep up, do both have one clock, '
            'and is depth.sync_slop at least half a frame?'
        )

    def _join(self) -> None:
        """Find the newest image that has a depth image; of several, the nearest in time.

        What came before the two is of no use any more.
        """
        self._changed.notify_all()
        if self._slop is None or not self._depths:
            return
        for frame in reversed(self._images):
            stamp = stamp_seconds(frame.image.header)
            if not stamp:  # no time at all: that of another moment would fit as well
                continue
            depth = min(self._depths, key=lambda d: abs(stamp_seconds(d.header) - stamp))
            if abs(stamp_seconds(depth.header) - stamp) <= self._slop:
                self._complete = replace(frame, depth=depth)
                while self._images[0] is not frame:
                    self._images.popleft()
                while self._depths[0] is not depth:
                    self._depths.popleft()
                return


def stamp_seconds(header: Header) -> float:
    """Return a header's stamp in seconds."""
    return float(header.stamp.sec + header.stamp.nanosec * 1e-9)
