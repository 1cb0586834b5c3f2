# SPDX-License-Identifier: Apache-2.0
"""Image + sentence -> Segmentation: one class joins a reasoner and a segmenter."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

from segzero_core.answers.parse import Answer
from segzero_core.answers.tags import thinking_is_over
from segzero_core.errors import AnswerError, CancelledError, EngineOptionError
from segzero_core.frame_embedding import FrameEmbedding
from segzero_core.geometry import touched_borders
from segzero_core.overlap import EarlyMask, EmbeddingOverlap, StreamWatcher
from segzero_core.prompts import check_query
from segzero_core.reasoners.base import BatchReasoner, Reasoner, Reply
from segzero_core.runtime.cpu_threads import count_cores, take_more_than_half
from segzero_core.segmenters.base import MaskResult, Segmenter
from segzero_core.types import (
    Box,
    Image,
    Mask,
    MaskPrompt,
    Point,
    ResultWarning,
    Segmentation,
    Size,
    check_image,
    image_size,
)

_VGA = Size(640, 480)
_WARM_UPS = 2


class SegZero:
    """Reasoner and segmenter joined (Seg-Zero, arXiv 2503.06520, section 3.2).

    The segmenter's embedding depends only on the image. A second thread therefore computes the
    embedding while the reasoner thinks (``EmbeddingOverlap`` decides when that starts). The
    embedding is kept for the next sentence about the same frame. The mask is decoded as soon as
    the object in the answer is complete, before the reasoner has closed the answer.

    Calls must not overlap: one query at a time. A call that fails leaves no state behind, so the
    next call gives the same result as with newly loaded engines.

    Attributes:
        reasoner: Writes the answers.
        segmenter: Makes the masks.
        writing_seconds: Time from the first to the last text of the newest reply; infinite before
            the first reply.
    """

    def __init__(self, reasoner: Reasoner, segmenter: Segmenter) -> None:
        """Join two engines; ``close`` frees both.

        Raises:
            EngineOptionError: The reasoner's prompt family asks for words. Words name no place in
                the image.
        """
        if reasoner.task.family.asks == 'words':
            raise EngineOptionError(
                f'prompt family {reasoner.task.family.name!r} asks for words, which name no place '
                'in the image: choose another family'
            )
        self.reasoner = reasoner
        self.segmenter = segmenter
        self._second = ThreadPoolExecutor(max_workers=1, thread_name_prefix='segzero-segment')
        self._second.submit(count_cores).result()
        self._frame = FrameEmbedding(segmenter)
        self.writing_seconds = math.inf

    def __call__(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Segmentation:
        """Find what ``query`` asks for in ``image``.

        Args:
            image: (H, W, 3) uint8 RGB.
            query: The sentence, in plain words.
            on_text: Called with each new piece of the reasoner's text.
            cancel: Set it from another thread to stop.

        Raises:
            QueryError: The sentence is empty or too long.
            ImageError: The image is not RGB uint8.
            AnswerError: The reasoner wrote no usable answer, or says that nothing matches.
            CancelledError: ``cancel`` was set.
        """
        start = time.perf_counter()
        query = check_query(query)
        check_image(image)
        overlap = EmbeddingOverlap(
            lambda: self._begin_embedding(image),
            self._same_cores(),
            longer=self._frame.seconds > self.writing_seconds,
        )
        watcher = StreamWatcher(on_text, overlap, lambda text: self._decode_early(image, text))
        try:
            with overlap:
                reply, reason_s = _timed(self.reasoner.reason, image, query, watcher, cancel)
            first = watcher.first or time.perf_counter()
            self.writing_seconds = time.perf_counter() - first
            answer = self._read(image, reply)
            _, embed_s = overlap.begin().result()
            if cancel is not None and cancel.is_set():
                raise CancelledError('cancelled before the mask was made')
            prompt = self.reasoner.task.mask_prompt(answer, image_size(image))
            (found,), decode_s = watcher.decoded(prompt) or _timed(self._frame.decode, [prompt])
        finally:
            overlap.stop()
            watcher.stop()
        timings = {
            'reason': reason_s,
            'first_text': first - start,
            'embed': embed_s,
            'decode': decode_s,
            'total': time.perf_counter() - start,
        }
        return _segmentation(found, prompt, answer, reply.text, timings, self._engine_warnings())

    def answer_all(self, image: Image, queries: Sequence[str]) -> list[Segmentation | AnswerError]:
        """Find what each of several sentences asks for in one image.

        The image is embedded once and all masks are decoded together. A reasoner that supports
        batches writes all replies in one batch.

        Args:
            image: (H, W, 3) uint8 RGB.
            queries: Plain sentences.

        Returns:
            One entry per query: the result of a single call, or the ``AnswerError`` that the call
            would have raised. ``timings`` cover all queries together.

        Raises:
            QueryError: One of the sentences is empty or too long.
            ImageError: The image is not RGB uint8.
        """
        start = time.perf_counter()
        queries = [check_query(query) for query in queries]
        check_image(image)
        embedding = self._begin_embedding(image)
        try:
            replies, reason_s = _timed(self._reason_all, image, queries)
            answers = [self._try_read(image, reply) for reply in replies]
            _, embed_s = embedding.result()
        finally:
            embedding.cancel()
        task, size = self.reasoner.task, image_size(image)
        prompts = [task.mask_prompt(each, size) for each in answers if isinstance(each, Answer)]
        masks, decode_s = _timed(self._frame.decode, prompts)
        timings = {
            'reason': reason_s,
            'embed': embed_s,
            'decode': decode_s,
            'total': time.perf_counter() - start,
        }
        found = zip(masks, prompts, strict=True)
        return [
            _segmentation(*next(found), answer, reply.text, dict(timings), self._engine_warnings())
            if isinstance(answer, Answer)
            else answer
            for answer, reply in zip(answers, replies, strict=True)
        ]

    def warm_up(self, size: Size = _VGA) -> float:
        """Run the models in advance, so that the first sentence is not slower than later ones.

        The first run of a model allocates memory and selects kernels. The second run is recorded
        (see ``runtime.torchscript``). Only engines whose attribute ``needs_warm_up`` is true are
        run.

        Args:
            size: Expected image size in pixels.

        Returns:
            Duration of the warm-up in seconds.
        """
        start = time.perf_counter()
        for number in range(_WARM_UPS):
            self._run_once(np.full((size.height, size.width, 3), number, np.uint8))
        return time.perf_counter() - start

    def _run_once(self, image: Image) -> None:
        size = image_size(image)
        if getattr(self.reasoner, 'needs_warm_up', False):
            enough = threading.Event()
            # The first piece of text runs as many kernels as a whole answer.
            with contextlib.suppress(CancelledError):
                self.reasoner.reason(image, 'the thing', lambda _: enough.set(), enough)
        if getattr(self.segmenter, 'needs_warm_up', False):
            middle = Box(size.width / 4, size.height / 4, size.width / 2, size.height / 2)
            point = Point(size.width / 3, size.height / 3)
            self._second.submit(self._frame.embed, image).result()
            self._frame.decode([MaskPrompt(middle, (point, point))])

    def close(self) -> None:
        """Free both engines."""
        self._second.shutdown(wait=True, cancel_futures=True)
        self._frame.forget()
        self.reasoner.close()
        self.segmenter.close()

    def __enter__(self) -> SegZero:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _engine_warnings(self) -> tuple[ResultWarning, ...]:
        """Return a warning if one of the engines knows synthetic scenes only."""
        engines = {'reasoner': self.reasoner, 'segmenter': self.segmenter}
        names = [name for name, it in engines.items() if getattr(it, 'synthetic_only', False)]
        if not names:
            return ()
        message = (
            f'the {" and the ".join(names)} in use {"know" if names[1:] else "knows"} only '
            "segzero's synthetic tabletops: on a photograph the answer may mean nothing"
        )
        return (ResultWarning('synthetic_only', message),)

    def _read(self, image: Image, reply: Reply) -> Answer:
        task = self.reasoner.task
        return task.read(reply, task.answer_size(image_size(image)))

    def _try_read(self, image: Image, reply: Reply | AnswerError) -> Answer | AnswerError:
        try:
            return reply if isinstance(reply, AnswerError) else self._read(image, reply)
        except AnswerError as error:
            return error

    def _reason_all(self, image: Image, queries: list[str]) -> Sequence[Reply | AnswerError]:
        if isinstance(self.reasoner, BatchReasoner):
            return self.reasoner.reason_batch([image] * len(queries), queries)
        return [self._reason_one(image, query) for query in queries]

    def _reason_one(self, image: Image, query: str) -> Reply | AnswerError:
        try:
            return self.reasoner.reason(image, query)
        except AnswerError as error:
            return error

    def _same_cores(self) -> bool:
        """Return whether both models run on the CPU and each uses more than half of the cores."""
        devices = [getattr(each, 'device', None) for each in (self.reasoner, self.segmenter)]
        on_cpu = all(getattr(device, 'type', '') == 'cpu' for device in devices)
        return on_cpu and take_more_than_half()

    def _begin_embedding(self, image: Image) -> Future[tuple[None, float]]:
        """Embed ``image`` in the second thread, or here if the segmenter embeds at once."""
        if not getattr(self.segmenter, 'embeds_at_once', False):
            return self._second.submit(_timed, self._frame.embed, image)
        embedding: Future[tuple[None, float]] = Future()
        embedding.set_result(_timed(self._frame.embed_in_place, image))
        return embedding

    def _decode_early(self, image: Image, text: str) -> EarlyMask | None:
        """Start decoding the mask if ``text``, a partial reply, contains the complete answer."""
        opened = None if self.reasoner.task.think else False
        if '<answer>' not in text or not thinking_is_over(text, opened):
            return None
        answer = self._try_read(image, Reply(text + '</answer>'))
        if not isinstance(answer, Answer):
            return None
        prompt = self.reasoner.task.mask_prompt(answer, image_size(image))
        # The embedding uses the same single thread, so the decoding runs after the embedding.
        return EarlyMask(prompt, self._second.submit(_timed, self._frame.decode, [prompt]))


def check_found(found: Segmentation) -> Segmentation:
    """Return ``found`` if its mask has at least one pixel.

    Raises:
        AnswerError: The mask is empty: the segmenter finds no object at the place that the
            reasoner names.
    """
    if found.mask.any():
        return found
    box = ', '.join(f'{value:.0f}' for value in found.box or ())
    place = f'the box {box}' if found.box else 'the points'
    message = f'the segmenter finds nothing at {place} that the reasoner names'
    raise AnswerError('nothing_found', message, found.text)


def _segmentation(
    found: MaskResult,
    prompt: MaskPrompt,
    answer: Answer,
    text: str,
    timings: dict[str, float],
    warnings: tuple[ResultWarning, ...] = (),
) -> Segmentation:
    return Segmentation(
        mask=found.mask,
        score=found.score,
        box=prompt.box,
        points=prompt.points,
        reasoning=answer.reasoning,
        text=text,
        repairs=answer.repairs,
        warnings=(*answer.warnings, *warnings, *_border_warnings(found.mask)),
        timings=timings,
    )


def _border_warnings(mask: Mask) -> tuple[ResultWarning, ...]:
    sides = touched_borders(mask)
    if not sides:
        return ()
    message = f'the object reaches the {" and ".join(sides)} border: a part of it may be missing'
    return (ResultWarning('cut_at_border', message),)


def _timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(*args), time.perf_counter() - start
