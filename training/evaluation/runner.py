# SPDX-License-Identifier: Apache-2.0
"""Samples of a dataset -> rows of a result: the reasoner answers, the segmenter makes masks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

from segzero_core.data.rle import encode_mask
from segzero_core.errors import AnswerError, SegZeroError, ServerError
from segzero_core.reasoners import Reasoner, Reply
from segzero_core.runtime.cpu_threads import half_the_cores
from segzero_core.segmenters import BatchSegmenter, MaskResult, Segmenter
from segzero_core.types import Box, Image, Point
from training.evaluation.batching import BatchSplitter
from training.evaluation.prefetch import LoadedSample
from training.evaluation.prompts import AnswerReader, SegmenterPrompt
from training.evaluation.scoring import (
    ScoredMask,
    reply_fields,
    score_failure,
    score_mask,
    score_unusable,
    score_words,
    start_row,
)

MAX_VALUES = 96 * 2**20  # image values x prompts of masks decoded together: 32 M mask pixels
_Replies: TypeAlias = Mapping[int, Reply | AnswerError | ServerError]
_Prompts: TypeAlias = Mapping[int, SegmenterPrompt | AnswerError]


class EvaluationRunner:
    """Asks a reasoner, prompts a segmenter with its answers, and scores the masks.

    Each image is embedded once, however many rows share it, while the reasoner writes.
    """

    def __init__(
        self, reasoner: Reasoner, segmenter: Segmenter, reader: AnswerReader, vqa: str = ''
    ) -> None:
        """Take the engines; the caller closes them.

        Args:
            reasoner: Answers every sentence as its task says.
            segmenter: Is prompted with the answers.
            reader: Reads the answers.
            vqa: Name of the dataset if its questions are answered in words; '' for masks.
        """
        self._splitter, self._segmenter, self._reader = BatchSplitter(reasoner), segmenter, reader
        self._vqa = vqa
        self._second = ThreadPoolExecutor(1, thread_name_prefix='segzero-segment')
        self._last: tuple[str, Future[Any]] | None = None

    def run(self, batches: Iterable[Sequence[LoadedSample]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of each batch, as plain data for JSON.

        The masks of a batch are decoded and scored while the reasoner answers the next batch.

        Raises:
            SegZeroError: The reasoner cannot continue. The rows of the batch before come first.
        """
        before: Future[list[dict[str, Any]]] | None = None
        for batch in batches:
            usable = [loaded for loaded in batch if loaded.image is not None]
            embeddings = {} if self._vqa else self._embed(usable)
            start = time.perf_counter()
            try:
                replies = self._ask(usable)
            except SegZeroError:
                if before:
                    yield before.result()
                raise
            seconds = (time.perf_counter() - start) / max(len(usable), 1)
            if before:
                yield before.result()
            # The same thread embeds the images first, so the embeddings are ready by then.
            before = self._second.submit(self._score, batch, replies, embeddings, seconds)
        if before:
            yield before.result()

    def close(self) -> None:
        """End the second thread. The engines stay open."""
        self._second.shutdown(wait=True, cancel_futures=True)

    def _ask(self, batch: Sequence[LoadedSample]) -> _Replies:
        """Return the reply to each row, or why it has none."""
        images = [loaded.image for loaded in batch if loaded.image is not None]
        queries = [loaded.sample.query for loaded in batch if loaded.sample is not None]
        replies = self._splitter.ask(images, queries)
        return dict(zip((loaded.row for loaded in batch), replies, strict=True))

    def _score(
        self,
        batch: Sequence[LoadedSample],
        replies: _Replies,
        embeddings: dict[str, Future[Any]],
        seconds: float,
    ) -> list[dict[str, Any]]:
        """Return the rows of a batch whose replies took ``seconds`` each."""
        prompts = {} if self._vqa else self._read(batch, replies)
        with half_the_cores():
            masks = self._segment(batch, prompts, embeddings)
        rows = []
        for loaded in batch:
            reply, sample = replies.get(loaded.row), loaded.sample
            row = start_row(loaded)
            if sample is None or reply is None:
                rows.append(row | score_unusable(loaded, None))
                continue
            if isinstance(reply, ServerError):
                rows.append(row | score_unusable(loaded, reply))
                continue
            written = Reply(reply.text) if isinstance(reply, AnswerError) else reply
            row |= reply_fields(sample, written)
            prompt = prompts.get(loaded.row)
            if self._vqa:
                row |= score_words(self._vqa, sample, written.text)
            elif isinstance(prompt, SegmenterPrompt):
                row |= score_mask(sample, prompt, masks[loaded.row])
            else:
                assert prompt is not None  # every reply was read
                row |= score_failure(sample, prompt)
            row['timings'] = {'reason': seconds, **row.get('timings', {})}
            rows.append(row)
        return rows

    def _embed(self, batch: Sequence[LoadedSample]) -> dict[str, Future[Any]]:
        """Start embedding the images of a batch; the last image of the batch before is reused."""
        found: dict[str, Future[Any]] = {}
        if self._last and batch and batch[0].image_id == self._last[0]:
            found[self._last[0]] = self._last[1]
        for loaded in batch:
            if loaded.image is not None and loaded.image_id not in found:
                work = self._second.submit(self._timed_embed, loaded.image)
                found[loaded.image_id] = work
                self._last = (loaded.image_id, work)
        return found

    def _timed_embed(self, image: Image) -> tuple[Any, float]:
        start = time.perf_counter()
        with half_the_cores():
            return self._segmenter.embed(image), time.perf_counter() - start

    def _read(self, batch: Sequence[LoadedSample], replies: _Replies) -> _Prompts:
        """Return the segmenter's prompt in each reply, or why there is none."""
        found: dict[int, SegmenterPrompt | AnswerError] = {}
        for loaded in batch:
            reply = replies.get(loaded.row)
            if isinstance(reply, AnswerError):
                found[loaded.row] = reply
            elif isinstance(reply, Reply):
                assert loaded.sample is not None  # a row without data is not asked
                try:
                    found[loaded.row] = self._reader.read(reply, loaded.sample.size)
                except AnswerError as error:
                    found[loaded.row] = error
        return found

    def _segment(
        self,
        batch: Sequence[LoadedSample],
        prompts: _Prompts,
        embeddings: dict[str, Future[Any]],
    ) -> dict[int, ScoredMask]:
        """Return the mask of each prompt; the masks of one image are decoded together."""
        found: dict[int, ScoredMask] = {}
        for image_id, group in itertools.groupby(batch, key=lambda loaded: loaded.image_id):
            prompted = [
                (loaded, prompt)
                for loaded in group
                if isinstance(prompt := prompts.get(loaded.row), SegmenterPrompt)
            ]
            if not prompted:
                continue
            image = prompted[0][0].image
            assert image is not None  # a row without an image is not asked
            count = max(1, MAX_VALUES // image.size)
            for start in range(0, len(prompted), count):
                part = prompted[start : start + count]
                embedded, embed_s = embeddings[image_id].result()
                began = time.perf_counter()
                results = self._masks(embedded, [(each.box, each.points) for _, each in part])
                seconds = {'embed': embed_s, 'decode': (time.perf_counter() - began) / len(part)}
                for (loaded, _), result in zip(part, results, strict=True):
                    mask = encode_mask(result.mask)
                    found[loaded.row] = ScoredMask(mask, float(result.score), seconds)
        return found

    def _masks(
        self, embedded: Any, prompts: list[tuple[Box | None, tuple[Point, ...]]]
    ) -> list[MaskResult]:
        if isinstance(self._segmenter, BatchSegmenter):
            return self._segmenter.segment_all(embedded, prompts)
        return [self._segmenter.segment(embedded, box, points) for box, points in prompts]
