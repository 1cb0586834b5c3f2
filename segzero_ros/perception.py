# SPDX-License-Identifier: Apache-2.0
"""One sentence, answered: the newest frame through the codec, the pipeline and the depth."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from std_msgs.msg import Header

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.errors import OutOfMemoryError, SegZeroError, TargetError
from segzero_core.grasping.target import GraspTarget, find_target
from segzero_core.pipeline import check_found
from segzero_core.runtime.memory import free_memory, is_out_of_memory
from segzero_core.types import Image, Segmentation, Size
from segzero_ros.frames import Frame, FrameBuffer
from segzero_ros.images import load_codec
from segzero_ros.messages import PerceptionResult, read_lens
from segzero_ros.settings import NodeSettings
from segzero_ros.transforms import TargetFrame, move_target, rectification

_MEMORY_REMEDY = 'end what else runs on the device, or take smaller models'


@dataclass
class Query:
    """A sentence to answer.

    Attributes:
        query: As it came.
        frames: Where the frame is taken from when the job starts.
        settings: As they were when the sentence came.
        stream: Called with each new piece of the reasoner's text.
        repeat: How often it had been answered before, in continuous mode.
        header: Of that frame; empty until then.
    """

    query: str
    frames: FrameBuffer
    settings: NodeSettings
    stream: Callable[[str], None]
    repeat: int = 0
    header: Header = field(default_factory=Header)


class Perception:
    """Codec and models, loaded as the settings say."""

    def __init__(
        self,
        settings: NodeSettings,
        progress: Callable[[str], None],
        target_frame: TargetFrame | None = None,
    ) -> None:
        """Load everything; with real models it takes from seconds to minutes.

        Args:
            settings: Which codec and models.
            progress: Called with the name of each model before it is loaded, at last with ''.
            target_frame: Where metric targets are wanted; ``None`` = the camera's frame.

        Raises:
            OutOfMemoryError: The models do not fit.
            SegZeroError: The codec or a model cannot be used; the message says what to do.
        """
        self._codec = load_codec(settings.codec)
        self._target_frame = target_frame
        try:
            self._segzero = _load(settings, progress)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            message = f'the models do not fit: {_MEMORY_REMEDY} ({error})'
            raise OutOfMemoryError(message) from None
        progress('')

    def answer(self, job: Query, cancel: threading.Event) -> PerceptionResult:
        """Answer a sentence with the frame that is the newest now.

        Args:
            job: Its ``header`` is set as soon as the frame is chosen.
            cancel: Set it from another thread to stop.

        Raises:
            NoImageError: There is no frame.
            StaleFrameError: It is older than ``image.max_age``.
            AnswerError: Nothing is found: the reasoner says so, or the mask is empty.
            OutOfMemoryError: Not even with a smaller image there is enough.
            SegZeroError: See ``Codec.rgb`` and ``SegZero``.
        """

        def on_text(piece: str) -> None:
            if not cancel.is_set():
                job.stream(piece)

        frame = job.frames.newest(cancel)
        job.header = frame.image.header
        job.frames.check_age(frame, job.settings.max_age)
        start = time.monotonic()
        image = self._codec.rgb(frame.image)
        converted = time.monotonic()
        found = self._find(image, job.query, on_text, cancel)
        segmented = time.monotonic()
        target = None if job.settings.slop is None else self._locate(frame, found, job.settings)
        timings = {
            **found.timings,
            'frame_age': start - frame.received,
            'convert': converted - start,
            'locate': time.monotonic() - segmented,
        }
        return PerceptionResult(job.header, image, found, target, timings)

    def _find(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None],
        cancel: threading.Event,
    ) -> Segmentation:
        try:
            found = self._segzero(image, query, on_text, cancel)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return check_found(found)
        found = self._find_smaller(image, query, on_text, cancel)
        return check_found(
            replace(found, repairs=(*found.repairs, 'the image was shrunk to fit into memory'))
        )

    def _find_smaller(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None],
        cancel: threading.Event,
    ) -> Segmentation:
        """Try again with all memory there is, and the reasoner's image at half its size."""
        free_memory()
        reasoner = self._segzero.reasoner
        task = reasoner.task
        reasoner.task = task.smaller()
        try:
            return self._segzero(image, query, on_text, cancel)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            message = f'no memory for even a smaller image: {_MEMORY_REMEDY} ({error})'
            raise OutOfMemoryError(message) from None
        finally:
            reasoner.task = task

    def close(self) -> None:
        """Free the models."""
        self._segzero.close()

    def _locate(
        self, frame: Frame, found: Segmentation, settings: NodeSettings
    ) -> GraspTarget | SegZeroError:
        """Return the metric target, or why there is none: the mask is worth having without."""
        try:
            if frame.depth is None:
                raise TargetError('no_depth', frame.no_depth)
            if frame.info is None:
                raise TargetError('no_camera_info', 'no camera_info has come: is it remapped?')
            height, width = found.mask.shape
            size = Size(width, height)
            intrinsics, distortion = read_lens(frame.info, size, settings.rectified)
            target = find_target(
                found.mask,
                self._codec.depth(frame.depth),
                intrinsics,
                found.points,
                settings.depth_range,
                settings.min_valid,
                distortion,
            )
            if not settings.rectified and (turn := rectification(frame.info)):
                target = move_target(target, turn)
            if self._target_frame is not None:
                target = self._target_frame.move(target, frame.image.header)
            return target
        except SegZeroError as error:
            return error


def _load(settings: NodeSettings, progress: Callable[[str], None]) -> SegZero:
    with contextlib.ExitStack() as undo:
        progress(f'the reasoner {settings.reasoner.name}')
        reasoner = load_reasoner(settings.reasoner.engine, **settings.reasoner.options)
        undo.callback(reasoner.close)
        progress(f'the segmenter {settings.segmenter.name}')
        segmenter = load_segmenter(settings.segmenter.engine, **settings.segmenter.options)
        undo.pop_all()
        segzero = SegZero(reasoner, segmenter)
        undo.callback(segzero.close)
        progress('the first run of both')
        try:
            segzero.warm_up()
        except Exception as error:
            if not is_out_of_memory(error):  # for that there is a remedy, with the image at hand
                raise
        undo.pop_all()
        return segzero
