# SPDX-License-Identifier: Apache-2.0
"""Answers one sentence: decodes the frame, runs the pipeline, and finds the metric target."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from std_msgs.msg import Header

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.errors import OutOfMemoryError, SegZeroError, TargetError
from segzero_core.grasping.camera_model import read_lens
from segzero_core.grasping.target import GraspTarget, find_target
from segzero_core.pipeline import check_found
from segzero_core.runtime.memory import free_memory, is_out_of_memory
from segzero_core.types import Image, ResultWarning, Segmentation, Size
from segzero_ros.frame_checks import (
    check_age,
    check_frame_ids,
    depth_warnings,
    frame_warnings,
)
from segzero_ros.frames import Frame, FrameBuffer, stamp_seconds
from segzero_ros.images import load_codec
from segzero_ros.messages import PerceptionResult
from segzero_ros.query_request import QueryRequest
from segzero_ros.settings import NodeSettings
from segzero_ros.transforms import TargetFrame, move_target, rectification

log = logging.getLogger(__name__)

_MEMORY_REMEDY = 'end what else runs on the device, or take smaller models'


@dataclass
class QueryJob:
    """A sentence to answer.

    Attributes:
        request: The sentence, its id, and the stamp of the frame it is about.
        frames: Where the frame is taken from when the query starts to run.
        settings: As they were when the sentence came.
        stream: Called with each new piece of the reasoner's text.
        repeat: Number of times it was answered before, in continuous mode.
        header: Of the chosen frame; empty until then.
        warnings: About the chosen frame; empty until then.
    """

    request: QueryRequest
    frames: FrameBuffer
    settings: NodeSettings
    stream: Callable[[str], None]
    repeat: int = 0
    header: Header = field(default_factory=Header)
    warnings: tuple[ResultWarning, ...] = ()


class TextStream:
    """Passes the reasoner's text on, and does not repeat itself if the reasoner starts again.

    The text of a second attempt is held back as long as it equals that of the first. Where the two
    differ, the whole second text follows on a line of its own.
    """

    def __init__(self, publish: Callable[[str], None]) -> None:
        """Pass the pieces of text on to ``publish``."""
        self._publish = publish
        self._sent, self._text = '', ''

    def __call__(self, piece: str) -> None:
        """Take the next piece of text."""
        self._text += piece
        if self._text.startswith(self._sent):
            new, self._sent = self._text[len(self._sent) :], self._text
        elif self._sent.startswith(self._text):
            return
        else:
            new, self._sent = f'\n{self._text}', self._text
        if new:
            self._publish(new)

    def restart(self) -> None:
        """The reasoner begins again with the same sentence."""
        self._text = ''


class Perception:
    """The codec and the models that the settings name."""

    def __init__(
        self,
        settings: NodeSettings,
        progress: Callable[[str], None],
        target_frame: TargetFrame | None = None,
    ) -> None:
        """Load everything; with real models it takes from seconds to minutes.

        Args:
            settings: Which codec and models.
            progress: Called with the name of each model before it is loaded, and with '' at the
                end.
            target_frame: Moves metric targets to another frame; ``None`` = the camera's frame.

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

    def answer(self, job: QueryJob, cancel: threading.Event) -> PerceptionResult:
        """Answer a sentence about the frame that it names, or the newest frame.

        Args:
            job: Its ``header`` and ``warnings`` are set as soon as the frame is chosen.
            cancel: Set it from another thread to stop.

        Raises:
            NoImageError: No frame has come.
            UnknownFrameError: The frame that the sentence names is not kept.
            StaleFrameError: The frame is too old; see ``check_age``.
            AnswerError: Nothing is found: the reasoner says so, or the mask is empty.
            OutOfMemoryError: There is not enough memory even for a smaller image.
            SegZeroError: See ``Codec.rgb`` and ``SegZero``.
        """

        def publish(piece: str) -> None:
            if not cancel.is_set():
                job.stream(piece)

        on_text = TextStream(publish)
        frame = self._choose(job, cancel)
        start = time.monotonic()
        image = self._codec.rgb(frame.image)
        converted = time.monotonic()
        found = self._find(image, job.request.query, on_text, cancel)
        log.debug('the reasoner wrote %r', found.text)
        job.frames.keep(frame)  # the pipeline keeps its embedding
        segmented = time.monotonic()
        target: GraspTarget | SegZeroError | None = None
        doubts: list[ResultWarning] = []
        if job.settings.slop is not None:
            target, doubts = self._locate(frame, found, job.settings)
        timings = {
            **found.timings,
            'frame_age': start - frame.received,
            'convert': converted - start,
            'locate': time.monotonic() - segmented,
        }
        warnings = (*job.warnings, *found.warnings, *doubts)
        return PerceptionResult(job.header, image, found, target, timings, warnings)

    def _choose(self, job: QueryJob, cancel: threading.Event) -> Frame:
        stamp = job.request.stamp
        frame = job.frames.newest(cancel) if stamp is None else job.frames.at(stamp)
        job.header = frame.image.header
        job.warnings = tuple(frame_warnings(frame, job.settings))
        log.debug(
            'the frame stamped %.3f, arrived %.3f s ago, %s depth, for %r',
            stamp_seconds(job.header),
            time.monotonic() - frame.received,
            'with' if frame.depth is not None else 'without',
            job.request.query,
        )
        check_age(frame, job.settings, job.frames.now())
        return frame

    def _find(
        self,
        image: Image,
        query: str,
        on_text: TextStream,
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
        on_text: TextStream,
        cancel: threading.Event,
    ) -> Segmentation:
        """Free memory and try again with half the image size for the reasoner."""
        free_memory()
        on_text.restart()
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
    ) -> tuple[GraspTarget | SegZeroError, list[ResultWarning]]:
        """Return the metric target, or why there is none; and what to know about its depth.

        The mask is useful without a target.
        """
        try:
            if frame.depth is None:
                raise TargetError('no_depth', frame.no_depth)
            if frame.info is None:
                raise TargetError('no_camera_info', 'no camera_info has come: is it remapped?')
            if settings.refuse_mismatch:
                check_frame_ids(frame)
            height, width = found.mask.shape
            size = Size(width, height)
            intrinsics, distortion = read_lens(frame.info, size, settings.rectified)
            depth = self._codec.depth(frame.depth)
            target = find_target(
                found.mask,
                depth,
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
        except SegZeroError as error:
            return error, []
        return target, depth_warnings(found, depth, settings.depth_range)


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
            if not is_out_of_memory(error):  # a query can still try a smaller image
                raise
        undo.pop_all()
        return segzero
