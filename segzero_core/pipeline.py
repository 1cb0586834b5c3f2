# SPDX-License-Identifier: Apache-2.0
"""Image + sentence -> Segmentation: the whole of segzero in one class."""

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
from segzero_core.errors import AnswerError, CancelledError
from segzero_core.overlap import EarlyMask, EmbeddingOverlap, StreamWatcher
from segzero_core.prompts import check_query
from segzero_core.reasoners.base import BatchReasoner, Reasoner, Reply
from segzero_core.reasoners.image_input import LastImage
from segzero_core.runtime.cpu_threads import count_cores, half_the_cores, take_more_than_half
from segzero_core.segmenters.base import BatchSegmenter, MaskResult, Segmenter
from segzero_core.types import (
    Box,
    Image,
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

    The segmenter's image embedding needs only the image, so it is made in a second thread while
    the reasoner thinks, and kept for the next sentence about the same frame; ``EmbeddingOverlap``
    says when it is begun. The mask is made as soon as box and points are written, while the
    reasoner still closes its answer. One query at a time: calls must not overlap.
    """

    def __init__(self, reasoner: Reasoner, segmenter: Segmenter) -> None:
        """Join two engines; ``close`` frees both."""
        self.reasoner = reasoner
        self.segmenter = segmenter
        self._second = ThreadPoolExecutor(max_workers=1, thread_name_prefix='segzero-segment')
        self._second.submit(count_cores).result()
        self._frame, self._embedding = LastImage(), None  # the second thread's
        # Seconds that writing and embedding took the last time.
        self._writing_s, self._embed_s = math.inf, 0.0

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
            query: What the person is after, in plain words.
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
        beside = EmbeddingOverlap(
            lambda: self._begin_embedding(image),
            self._same_cores(),
            longer=self._embed_s > self._writing_s,
        )
        listener = StreamWatcher(on_text, beside, lambda text: self._decode_early(image, text))
        try:
            with beside:
                reply, reason_s = _timed(self.reasoner.reason, image, query, listener, cancel)
            first = listener.first or time.perf_counter()
            self._writing_s = time.perf_counter() - first
            answer = self._read(image, reply)
            _, embed_s = beside.begin().result()
            if cancel is not None and cancel.is_set():
                raise CancelledError('cancelled before the mask was made')
            prompt = self.reasoner.task.mask_prompt(answer, image_size(image))
            (found,), decode_s = listener.decoded(prompt) or _timed(self._decode, [prompt])
        finally:
            beside.stop()
            listener.stop()
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

        One embedding, one batch of replies where the reasoner can write several at a time, and
        one decoding of all masks.

        Args:
            image: (H, W, 3) uint8 RGB.
            queries: Plain sentences.

        Returns:
            For each query what a call would have returned, or the ``AnswerError`` it would have
            raised. ``timings`` are those of all of them together.

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
        masks, decode_s = _timed(self._decode, prompts)
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
        """Run the models, so that the first sentence is answered as fast as the tenth.

        The first run of a model allocates its memory and chooses its kernels; what comes a second
        time is recorded, see ``tracing``. Engines for which this matters say so with an
        attribute ``needs_warm_up``; the others are left alone.

        Args:
            size: Of the images to come, if known.

        Returns:
            How many seconds it took.
        """
        start = time.perf_counter()
        for number in range(_WARM_UPS):
            self._run_once(np.full((size.height, size.width, 3), number, np.uint8))
        return time.perf_counter() - start

    def _run_once(self, image: Image) -> None:
        size = image_size(image)
        if getattr(self.reasoner, 'needs_warm_up', False):
            enough = threading.Event()
            # The first piece of text is as good as a whole answer.
            with contextlib.suppress(CancelledError):
                self.reasoner.reason(image, 'the thing', lambda _: enough.set(), enough)
        if getattr(self.segmenter, 'needs_warm_up', False):
            middle = Box(size.width / 4, size.height / 4, size.width / 2, size.height / 2)
            point = Point(size.width / 3, size.height / 3)
            self._second.submit(self._embed, image).result()
            self._decode([MaskPrompt(middle, (point, point))])

    def close(self) -> None:
        """Free both engines."""
        self._second.shutdown(wait=True, cancel_futures=True)
        self._frame, self._embedding = LastImage(), None
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
        """Return whether both models are computed on the CPU, and each by most of its cores."""
        devices = [getattr(each, 'device', None) for each in (self.reasoner, self.segmenter)]
        on_cpu = all(getattr(device, 'type', '') == 'cpu' for device in devices)
        return on_cpu and take_more_than_half()

    def _begin_embedding(self, image: Image) -> Future[tuple[None, float]]:
        """Have ``image`` embedded in the second thread, unless it is done sooner than said."""
        if not getattr(self.segmenter, 'embeds_at_once', False):
            return self._second.submit(_timed, self._embed, image)
        embedding: Future[tuple[None, float]] = Future()
        embedding.set_result(_timed(self._embed_anew, image))
        return embedding

    def _embed(self, image: Image) -> None:
        """Have ``image`` embedded, if it is not the newest frame; run in the second thread."""
        if self._frame.equals(image):
            return
        self._frame.forget()
        self._embedding = None  # the old one's memory first
        with half_the_cores():
            _, self._embed_s = _timed(self._embed_anew, image)
        self._frame.keep(image)

    def _embed_anew(self, image: Image) -> None:
        self._embedding = self.segmenter.embed(image)

    def _decode(self, prompts: Sequence[MaskPrompt]) -> list[MaskResult]:
        """Return the masks of the newest frame, in whichever thread has time."""
        if isinstance(self.segmenter, BatchSegmenter):
            return self.segmenter.segment_all(self._embedding, prompts)
        return [self.segmenter.segment(self._embedding, *prompt) for prompt in prompts]

    def _decode_early(self, image: Image, text: str) -> EarlyMask | None:
        """Begin with the mask if ``text`` says all that is needed, though it has no end yet."""
        opened = None if self.reasoner.task.think else False
        if '<answer>' not in text or not thinking_is_over(text, opened):
            return None
        answer = self._try_read(image, Reply(text + '</answer>'))
        if not isinstance(answer, Answer):
            return None
        prompt = self.reasoner.task.mask_prompt(answer, image_size(image))
        # Behind the embedding, in the same thread.
        return EarlyMask(prompt, self._second.submit(_timed, self._decode, [prompt]))


def check_found(found: Segmentation) -> Segmentation:
    """Return ``found`` if there is anything in its mask.

    Raises:
        AnswerError: There is nothing: the box was named, but the segmenter sees no object in it.
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
        warnings=(*answer.warnings, *warnings),
        timings=timings,
    )


def _timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(*args), time.perf_counter() - start
