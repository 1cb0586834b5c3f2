# SPDX-License-Identifier: Apache-2.0
"""Keeps the newest camera frame, undecoded, and joins depth to it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from segzero_core.errors import CancelledError, NoImageError, UnknownFrameError

DEPTH_LAG_S = 0.5  # depth may arrive this much later than its image
GRACE_S = 0.2  # for the depth of an image that has just arrived, on a busy machine


@dataclass(frozen=True)
class Frame:
    """One image and everything that belongs to it.

    Attributes:
        image: The message as it came.
        received: Time of arrival, ``time.monotonic()``.
        offset: Seconds from its stamp to the node's clock when it arrived; ``None`` if it has no
            stamp.
        depth: The depth image of the same moment, as it came, if there is one.
        no_depth: The reason why there is none, for people.
        info: The newest calibration, if there is one.
        is_newest: Whether it is the newest frame, and not one that a sentence has named.
    """

    image: Image | CompressedImage
    received: float
    offset: float | None = None
    depth: Image | CompressedImage | None = None
    no_depth: str = ''
    info: CameraInfo | None = None
    is_newest: bool = True


class FrameBuffer:
    """Filled by the subscriptions, read by the worker.

    It joins depth itself because message_filters calls back with its lock held, and is not among
    the ROS wheels.
    """

    def __init__(
        self, slop: float | None, patience: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Start empty.

        Args:
            slop: Maximum difference between the stamps of image and depth, in seconds; ``None``
                without a depth camera.
            patience: Seconds, from now and from the first image on, that ``newest`` waits for a
                first complete frame: a camera may start after the node, and DDS discovers its
                topics one by one.
            clock: Returns seconds, by the clock of the images' stamps.
        """
        self._slop = slop
        self._patience = patience
        self._clock = clock
        self._patient_until = time.monotonic() + patience
        self._changed = threading.Condition()
        self._images: deque[Frame] = deque(maxlen=1 if slop is None else None)
        self._depths: deque[tuple[float, Image | CompressedImage]] = deque()  # with their arrival
        self._complete: Frame | None = None
        self._kept: Frame | None = None  # a sentence may name its stamp
        self._received: dict[str, float] = {}  # arrival of each topic's newest message
        self._count = 0
        self._info: CameraInfo | None = None

    def add_image(self, message: Image | CompressedImage) -> None:
        """Keep an image."""
        stamp = stamp_seconds(message.header)
        offset = self._clock() - stamp if stamp else None
        with self._changed:
            now = self._received['image'] = time.monotonic()
            if not self._images:
                self._patient_until = now + self._patience
            self._images.append(Frame(message, now, offset))
            while len(self._images) > 1 and now - self._images[0].received > DEPTH_LAG_S:
                self._images.popleft()
            self._count += 1
            self._join()

    def add_depth(self, message: Image | CompressedImage) -> None:
        """Keep a depth image."""
        with self._changed:
            now = self._received['depth'] = time.monotonic()
            self._depths.append((now, message))
            while len(self._depths) > 1 and now - self._depths[0][0] > DEPTH_LAG_S:
                self._depths.popleft()
            self._join()

    def add_info(self, message: CameraInfo) -> None:
        """Keep a calibration; it replaces the last one."""
        with self._changed:
            self._received['camera_info'] = time.monotonic()
            self._info = message
            self._changed.notify_all()

    def newest(self, cancel: threading.Event) -> Frame:
        """Return the newest frame: the newest with depth, unless depth has fallen behind.

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
            return self._completed(self._fresh_complete() or self._images[-1])

    def at(self, stamp: Time) -> Frame:
        """Return the frame of a stamp: one that still waits for depth, or the one kept last.

        Raises:
            UnknownFrameError: It is not there any more, or never was.
        """
        with self._changed:
            frames = [self._kept, self._complete, *self._images]
            for frame in frames:
                if frame is not None and frame.image.header.stamp == stamp:
                    return replace(self._completed(frame), is_newest=False)
        known = {_dotted(frame.image.header.stamp) for frame in frames if frame is not None}
        raise UnknownFrameError(
            f'the frame stamped {_dotted(stamp)} is not kept: only the newest frame and the one '
            f'of the last answer are ({", ".join(sorted(known)) or "none yet"})'
        )

    def keep(self, frame: Frame) -> None:
        """Keep an answered frame, so that another sentence can name its stamp."""
        with self._changed:
            self._kept = frame

    def now(self) -> float:
        """Return the time by the clock of the images' stamps, seconds."""
        return self._clock()

    @property
    def newest_stamp(self) -> Time | None:
        """Stamp of the newest image; ``None`` before the first."""
        with self._changed:
            return self._images[-1].image.header.stamp if self._images else None

    @property
    def has_depth(self) -> bool:
        """Whether a depth image has joined an image."""
        with self._changed:
            return self._complete is not None

    @property
    def count(self) -> int:
        """Number of images that have come."""
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

    def _completed(self, frame: Frame) -> Frame:
        why = '' if frame.depth or self._slop is None else self._why_no_depth(frame)
        return replace(frame, info=self._info, no_depth=why)

    def _fresh_complete(self) -> Frame | None:
        """Return the newest frame with depth, unless depth has fallen far behind the images."""
        complete = self._complete
        if complete and self._images[-1].received - complete.received <= DEPTH_LAG_S:
            return complete
        return None

    def _why_no_depth(self, frame: Frame) -> str:
        stamp = stamp_seconds(frame.image.header)
        gaps = [stamp_seconds(depth.header) - stamp for _, depth in self._depths]
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

        Images and depth images from before these two are dropped.
        """
        self._changed.notify_all()
        if self._slop is None or not self._depths:
            return
        stamps = [stamp_seconds(depth.header) for _, depth in self._depths]
        for frame in reversed(self._images):
            stamp = stamp_seconds(frame.image.header)
            if not stamp:  # depth of any other moment would fit just as well
                continue
            nearest = min(range(len(stamps)), key=lambda i: abs(stamps[i] - stamp))
            if abs(stamps[nearest] - stamp) <= self._slop:
                for _ in range(nearest):
                    self._depths.popleft()
                self._complete = replace(frame, depth=self._depths[0][1])
                while self._images[0] is not frame:
                    self._images.popleft()
                return


def stamp_seconds(header: Header) -> float:
    """Return a header's stamp in seconds; 0 where a driver left it empty."""
    return float(header.stamp.sec + header.stamp.nanosec * 1e-9)


def _dotted(stamp: Time) -> str:
    return f'{stamp.sec}.{stamp.nanosec:09}'
