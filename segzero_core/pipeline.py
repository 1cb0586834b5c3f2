# SPDX-License-Identifier: Apache-2.0
"""Image + sentence -> Segmentation: the whole of segzero in one class."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from segzero_core.answer import parse_answer
from segzero_core.errors import CancelledError
from segzero_core.geometry import rescale_box, rescale_point
from segzero_core.prompts import check_query
from segzero_core.reasoners.base import Reasoner
from segzero_core.segmenters.base import Segmenter
from segzero_core.types import Image, Segmentation, check_image, image_size


class SegZero:
    """Reasoner and segmenter joined (Seg-Zero, arXiv 2503.06520, section 3.2).

    The segmenter's image embedding needs only the image, so it is made in a second thread while
    the reasoner thinks. One query at a time: calls must not overlap.
    """

    def __init__(self, reasoner: Reasoner, segmenter: Segmenter) -> None:
        """Join two engines; ``close`` frees both."""
        self.reasoner = reasoner
        self.segmenter = segmenter
        self._embedder = ThreadPoolExecutor(max_workers=1, thread_name_prefix='segzero-embed')

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
        embedding = self._embedder.submit(_timed, self.segmenter.embed, image)
        try:
            text, reason_s = _timed(self.reasoner.reason, image, query, on_text, cancel)
            size = image_size(image)
            space = self.reasoner.family.answer_size(size)
            answer = parse_answer(text, space)
            embedded, embed_s = embedding.result()
        finally:
            embedding.cancel()
        if cancel is not None and cancel.is_set():
            raise CancelledError('cancelled before the mask was made')
        box = rescale_box(answer.box, space, size)
        points = (
            rescale_point(answer.points[0], space, size),
            rescale_point(answer.points[1], space, size),
        )
        found, decode_s = _timed(self.segmenter.segment, embedded, box, points)
        return Segmentation(
            mask=found.mask,
            score=found.score,
            box=box,
            points=points,
            reasoning=answer.reasoning,
            text=text,
            repairs=answer.repairs,
            timings={
                'reason': reason_s,
                'embed': embed_s,
                'decode': decode_s,
                'total': time.perf_counter() - start,
            },
        )

    def close(self) -> None:
        """Free both engines."""
        self._embedder.shutdown(wait=True, cancel_futures=True)
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


def _timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(*args), time.perf_counter() - start
