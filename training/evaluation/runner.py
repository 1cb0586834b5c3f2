# SPDX-License-Identifier: Apache-2.0
"""Rows of a dataset -> rows of a result: asked, read, segmented and counted."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

from segzero_core.data.rle import Rle, encode_mask, unite
from segzero_core.data.samples import Sample
from segzero_core.errors import AnswerError, MetricError, SegZeroError, ServerError
from segzero_core.geometry import box_iou
from segzero_core.metrics.masks import Overlap, overlap_rle, points_on_mask
from segzero_core.metrics.vqa import consensus_accuracy, relaxed_accuracy, written_answer
from segzero_core.reasoners import Reasoner, Reply
from segzero_core.runtime.cpu_threads import half_the_cores
from segzero_core.segmenters import BatchSegmenter, MaskResult, Segmenter
from segzero_core.types import Box, Image, Point
from training.evaluation.batching import BatchSplitter
from training.evaluation.prefetch import Loaded
from training.evaluation.prompts import AnswerReader, SegmenterPrompt

_MOST_VALUES = 96 * 2**20  # of the images of the masks made together: 32 M pixels of masks
_Asked: TypeAlias = tuple[int, SegmenterPrompt]


class EvaluationRunner:
    """Asks a reasoner, and a segmenter with its answers, and counts how good they are.

    Each image is embedded once, however many rows are about it, while the reasoner writes.
    """

    def __init__(
        self, reasoner: Reasoner, segmenter: Segmenter, reader: AnswerReader, words: str = ''
    ) -> None:
        """Join what is measured.

        Args:
            reasoner: Its task is the one it is asked with.
            segmenter: Prompted with the answers.
            reader: Reads them.
            words: Name of the dataset if its questions are answered in words, else ''.
        """
        self._asker, self._segmenter, self._reader = BatchSplitter(reasoner), segmenter, reader
        self._words = words
        self._second = ThreadPoolExecutor(1, thread_name_prefix='segzero-segment')
        self._last: tuple[str, Future[Any]] | None = None

    def examine(self, batches: Iterable[Sequence[Loaded]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the results for the rows of each batch, as plain data for JSON.

        The masks of a batch are made and counted while the reasoner answers the next one.
        """
        before: Future[list[dict[str, Any]]] | None = None
        for batch in batches:
            usable = [loaded for loaded in batch if loaded.image is not None]
            embeddings = {} if self._words else self._embed(usable)
            start = time.perf_counter()
            try:
                written, refused = self._ask(usable)
            except SegZeroError:
                if before:
                    yield before.result()
                raise
            seconds = (time.perf_counter() - start) / max(len(usable), 1)
            if before:
                yield before.result()
            # Behind the embeddings, in the same thread: they are there when it begins.
            before = self._second.submit(
                self._finish, batch, written, refused, embeddings, seconds
            )
        if before:
            yield before.result()

    def _finish(
        self,
        batch: Sequence[Loaded],
        written: dict[int, Reply],
        refused: dict[int, AnswerError | ServerError],
        embeddings: dict[str, Future[Any]],
        seconds: float,
    ) -> list[dict[str, Any]]:
        """Return the results for a batch whose replies took ``seconds`` each."""
        answered = [loaded for loaded in batch if loaded.row in written]
        prompts = {} if self._words else self._read(answered, written)
        with half_the_cores():
            masks = self._segment(answered, prompts, embeddings)
        rows = []
        for loaded in batch:
            row: dict[str, Any] = {
                'row': loaded.row,
                'id': loaded.id,
                'image': loaded.image_id,
            }
            if loaded.row not in written:
                rows.append(row | _unusable(loaded, refused.get(loaded.row)))
                continue
            assert loaded.sample is not None  # it has an image
            sample, reply = loaded.sample, written[loaded.row]
            text = reply.text
            row |= {'query': sample.query, 'group': sample.group, 'text': text}
            if self._words:
                row |= self._judge_words(sample, text)
            elif loaded.row in masks:
                row |= _judge_mask(sample, prompts[loaded.row], masks[loaded.row])
            else:
                row |= _unread(sample, prompts[loaded.row])
            row['timings'] = {'reason': seconds, **row.get('timings', {})}
            rows.append(row)
        return rows

    def close(self) -> None:
        """End the second thread; the engines stay."""
        self._second.shutdown(wait=True, cancel_futures=True)

    def _ask(
        self, batch: Sequence[Loaded]
    ) -> tuple[dict[int, Reply], dict[int, AnswerError | ServerError]]:
        """Return the reply for each row, and for the others why there is none."""
        images = [loaded.image for loaded in batch if loaded.image is not None]
        queries = [loaded.sample.query for loaded in batch if loaded.sample is not None]
        replies = self._asker.ask(images, queries)
        found = list(zip((loaded.row for loaded in batch), replies, strict=True))
        written = {row: reply for row, reply in found if isinstance(reply, Reply)}
        return written, {row: reply for row, reply in found if not isinstance(reply, Reply)}

    def _embed(self, batch: Sequence[Loaded]) -> dict[str, Future[Any]]:
        """Start embedding each image of the batch but the one that the last batch ended with."""
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

    def _read(
        self, batch: Sequence[Loaded], written: dict[int, Reply]
    ) -> dict[int, SegmenterPrompt | AnswerError]:
        """Return what each text means, or why that cannot be told."""
        found: dict[int, SegmenterPrompt | AnswerError] = {}
        for loaded in batch:
            assert loaded.sample is not None  # it has an image
            try:
                found[loaded.row] = self._reader.read(written[loaded.row], loaded.sample.size)
            except AnswerError as error:
                found[loaded.row] = error
        return found

    def _segment(
        self,
        batch: Sequence[Loaded],
        prompts: dict[int, SegmenterPrompt | AnswerError],
        embeddings: dict[str, Future[Any]],
    ) -> dict[int, _Found]:
        """Return the mask of each prompt; those of one image are made together."""
        found: dict[int, _Found] = {}
        sizes = {
            loaded.image_id: loaded.image.size for loaded in batch if loaded.image is not None
        }
        for image_id, group in itertools.groupby(batch, key=lambda loaded: loaded.image_id):
            asked = [
                (loaded.row, prompt)
                for loaded in group
                if isinstance(prompt := prompts.get(loaded.row), SegmenterPrompt)
            ]
            for part in _in_parts(asked, sizes[image_id]):
                embedded, embed_s = embeddings[image_id].result()
                start = time.perf_counter()
                shown = [(prompt.box, prompt.points) for _, prompt in part]
                results = self._masks(embedded, shown)
                seconds = {'embed': embed_s, 'decode': (time.perf_counter() - start) / len(part)}
                for (row, _), result in zip(part, results, strict=True):
                    found[row] = _Found(encode_mask(result.mask), float(result.score), seconds)
        return found

    def _masks(
        self, embedded: Any, shown: list[tuple[Box | None, tuple[Point, ...]]]
    ) -> list[MaskResult]:
        if isinstance(self._segmenter, BatchSegmenter):
            return self._segmenter.segment_all(embedded, shown)
        return [self._segmenter.segment(embedded, box, points) for box, points in shown]

    def _judge_words(self, sample: Sample, text: str) -> dict[str, Any]:
        answer = written_answer(text)
        if self._words == 'textvqa':
            correct = consensus_accuracy(answer, sample.answers)
        else:
            correct = max(relaxed_accuracy(answer, truth) for truth in sample.answers)
        return {
            'status': 'ok' if answer else 'failed',
            'answer': answer,
            'correct': correct,
            'error': None,
        }


def _in_parts(asked: list[_Asked], values: int) -> Iterator[list[_Asked]]:
    """Split the prompts of an image with so many values so that their masks fit into memory."""
    size = max(1, _MOST_VALUES // values)
    for start in range(0, len(asked), size):
        yield asked[start : start + size]


class _Found(NamedTuple):
    """A mask, the segmenter's score of it, and the seconds it took."""

    mask: Rle
    score: float
    seconds: dict[str, float]


def _judge_mask(
    sample: Sample, prompt: SegmenterPrompt | AnswerError, found: _Found
) -> dict[str, Any]:
    assert isinstance(prompt, SegmenterPrompt)  # there is a mask
    assert sample.truth is not None
    mask = found.mask
    try:
        overlap = overlap_rle(mask, sample.truth, sample.ignore)
        released = overlap
        if sample.ignore is not None:
            released = overlap_rle(mask, _with_ignored(sample))
    except MetricError as error:
        return _wrong_size(sample, str(error))
    return {
        'status': 'repaired' if prompt.repairs else 'ok',
        'error': None,
        **_described(prompt, sample),
        'score': found.score,
        **_counts(sample, overlap, released),
        'mask': {'size': [mask.size.height, mask.size.width], 'counts': mask.counts},
        'timings': found.seconds,
    }


def _unread(sample: Sample, error: SegmenterPrompt | AnswerError) -> dict[str, Any]:
    """What an answer without a prompt ends as; "nothing matches" is one."""
    assert isinstance(error, AnswerError)  # else there were a mask
    return {
        'status': 'nothing_found' if error.kind == 'nothing_found' else 'failed',
        'error': {'kind': error.kind, 'message': str(error)},
        **_counts(sample, Overlap(0, 0, _area(sample)), _released_miss(sample)),
        'mask': None,
    }


def _unusable(loaded: Loaded, refused: AnswerError | ServerError | None) -> dict[str, Any]:
    """What a row ends as whose data cannot be used, or which an engine refuses: a miss."""
    kind = refused.kind if refused else 'bad_data'
    row: dict[str, Any] = {
        'status': 'error',
        'error': {'kind': kind, 'message': str(refused or loaded.error)},
        'intersection': 0,
        'union': 0,
        'predicted': 0,
        'truth': 0,
        'released': [0, 0, 0],
    }
    if loaded.sample is None:
        return row
    sample = loaded.sample
    row |= {'query': sample.query, 'group': sample.group}
    return row | _counts(sample, Overlap(0, 0, _area(sample)), _released_miss(sample))


def _wrong_size(sample: Sample, message: str) -> dict[str, Any]:
    words = f'{message}: {sample.mismatch or "the truth of this row is not of its image"}'
    return {
        'status': 'error',
        'error': {'kind': 'wrong_size', 'message': words},
        **_counts(sample, Overlap(0, 0, _area(sample)), _released_miss(sample)),
    }


def _counts(sample: Sample, found: Overlap, released: Overlap) -> dict[str, Any]:
    return {
        'intersection': found.intersection,
        'union': found.predicted + found.truth - found.intersection,
        'predicted': found.predicted,
        'truth': found.truth,
        'released': list(released),
        'objects': len(sample.boxes),
    }


def _area(sample: Sample) -> int:
    """Pixels of the truth that count."""
    if sample.truth is None:
        return 0
    return overlap_rle(sample.truth, sample.truth, sample.ignore).truth


def _with_ignored(sample: Sample) -> Any:
    """The truth as the released evaluation has it: what is to be ignored belongs to it."""
    if sample.truth is None or sample.ignore is None:
        return sample.truth
    return unite([sample.truth, sample.ignore], sample.size)


def _released_miss(sample: Sample) -> Overlap:
    truth = _with_ignored(sample)
    return Overlap(0, 0, truth.area if truth else 0)


def _described(prompt: SegmenterPrompt, sample: Sample) -> dict[str, Any]:
    """The prompt, and how well box and points fit the truth."""
    true = sample.truth.box if sample.truth else None
    fit: dict[str, Any] = {'box_iou': None, 'points_on': None}
    if true and prompt.box:
        fit['box_iou'] = box_iou(prompt.box, true)
    if true and prompt.points and sample.truth:
        fit['points_on'] = points_on_mask(prompt.points, sample.truth)
    return {
        'box': list(prompt.box) if prompt.box else None,
        'points': [list(point) for point in prompt.points],
        'reasoning': prompt.reasoning,
        'repairs': list(prompt.repairs),
        **fit,
    }
