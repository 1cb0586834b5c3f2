# SPDX-License-Identifier: Apache-2.0
"""One sentence, answered: the newest frame through the codec, the pipeline and the depth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from std_msgs.msg import Header

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.errors import SegZeroError
from segzero_core.types import Segmentation, Size
from segzero_ros.frames import Frame, FrameBuffer
from segzero_ros.grasp import Target, TargetError, find_target
from segzero_ros.images import load_codec
from segzero_ros.messages import Answer, read_lens
from segzero_ros.parameters import Settings


@dataclass
class Job:
    """A sentence to answer.

    Attributes:
        query: As it came.
        frames: Where the frame is taken from when the job starts.
        settings: As they were when the sentence came.
        header: Of that frame; empty until then.
    """

    query: str
    frames: FrameBuffer
    settings: Settings
    header: Header = field(default_factory=Header)


class Answerer:
    """Codec and models, loaded as the settings say."""

    def __init__(self, settings: Settings, progress: Callable[[str], None]) -> None:
        """Load everything; with real models it takes from seconds to minutes.

        Args:
            settings: Which codec and models.
            progress: Called with the name of each model before it is loaded.

        Raises:
            SegZeroError: The codec or a model cannot be used; the message says what to do.
        """
        self._codec = load_codec(settings.codec)
        progress(f'the reasoner {settings.reasoner.name}')
        reasoner = load_reasoner(settings.reasoner.engine, **settings.reasoner.options)
        try:
            progress(f'the segmenter {settings.segmenter.name}')
            segmenter = load_segmenter(settings.segmenter.engine, **settings.segmenter.options)
        except BaseException:
            reasoner.close()
            raise
        self._segzero = SegZero(reasoner, segmenter)

    def answer(self, job: Job, on_text: Callable[[str], None], cancel: threading.Event) -> Answer:
        """Answer a sentence with the frame that is the newest now.

        Args:
            job: Its ``header`` is set as soon as the frame is chosen.
            on_text: Called with each new piece of the reasoner's text.
            cancel: Set it from another thread to stop.

        Raises:
            NoImageError: There is no frame.
            StaleFrameError: It is older than ``image.max_age``.
            SegZeroError: See ``Codec.rgb`` and ``SegZero``.
        """
        frame = job.frames.newest(cancel)
        job.header = frame.image.header
        job.frames.check_age(frame, job.settings.max_age)
        start = time.monotonic()
        image = self._codec.rgb(frame.image)
        converted = time.monotonic()
        found = self._segzero(image, job.query, on_text, cancel)
        segmented = time.monotonic()
        target = None if job.settings.slop is None else self._locate(frame, found, job.settings)
        timings = {
            **found.timings,
            'frame_age': start - frame.received,
            'convert': converted - start,
            'locate': time.monotonic() - segmented,
        }
        return Answer(job.header, image, found, target, timings)

    def close(self) -> None:
        """Free the models."""
        self._segzero.close()

    def _locate(
        self, frame: Frame, found: Segmentation, settings: Settings
    ) -> Target | SegZeroError:
        """Return the metric target, or why there is none: the mask is worth having without."""
        try:
            if frame.depth is None:
                raise TargetError(
                    'no_depth',
                    'no depth image with the stamp of the image: is the depth camera running, '
                    'and is depth.sync_slop at least half a frame?',
                )
            if frame.info is None:
                raise TargetError('no_camera_info', 'no camera_info has come: is it remapped?')
            height, width = found.mask.shape
            size = Size(width, height)
            intrinsics, distortion = read_lens(frame.info, size, settings.rectified)
            return find_target(
                found.mask,
                self._codec.depth(frame.depth),
                intrinsics,
                found.points,
                settings.depth_range,
                settings.min_valid,
                distortion,
            )
        except SegZeroError as error:
            return error
