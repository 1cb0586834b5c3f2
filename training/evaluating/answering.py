# SPDX-License-Identifier: Apache-2.0
"""Rows of a dataset -> rows of a result: asked, read, segmented and counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from segzero_core.data.rle import encode_mask, unite
from segzero_core.data.samples import Sample
from segzero_core.errors import AnswerError, MetricError
from segzero_core.geometry import box_iou
from segzero_core.metrics import Overlap, overlap_rle, points_on_mask
from segzero_core.reasoners import BatchReasoner, Reasoner
from segzero_core.segmenters import Segmenter
from segzero_core.types import Image
from segzero_core.vqa import consensus_accuracy, relaxed_accuracy, written_answer
from training.evaluating.loading import Loaded
from training.evaluating.reading import Prompt, Reader


class Examiner:
    """Asks a reasoner, and a segmenter with its answers, and counts how good they are.

    Each image is embedded once, however many rows are about it, while the reasoner writes.
    """

    def __init__(
        self, reasoner: Reasoner, segmenter: Segmenter, reader: Reader, words: str = ''
    ) -> None:
        """Join what is measured.

        Args:
            reasoner: Its family and task are those it is asked with.
            segmenter: Prompted with the answers.
            reader: Reads them.
            words: Name of the dataset if its questions are answered in words, else ''.
        """
        self._reasoner, self._segmenter, self._reader = reasoner, segmenter, reader
        self._words = words
        self._embedder = ThreadPoolExecutor(1, thread_name_prefix='segzero-embed')
        self._last: tuple[str, Future[Any]] | None = None

    def examine(self, batch: Sequence[Loaded]) -> Iterator[dict[str, Any]]:
        """Yield a result for each row of ``batch``, as plain data for JSON."""
        usable = [loaded for loaded in batch if loaded.image is not None]
        embeddings = {} if self._words else self._embed(usable)
        start = time.perf_counter()
        texts = self._ask(usable)
        seconds = (time.perf_counter() - start) / max(len(usable), 1)
        written = dict(zip((loaded.row for loaded in usable), texts, strict=True))
        for loaded in batch:
            row = {'row': loaded.row, 'id': loaded.id, 'image': loaded.image_id}
            if loaded.row not in written:
                yield row | _unusable(loaded)
                continue
            assert loaded.sample is not None  # it has an image
            text = written[loaded.row]
            row |= {'query': loaded.sample.query, 'group': loaded.sample.group, 'text': text}
            if self._words:
                yield row | self._judge_words(loaded.sample, text, seconds)
            else:
                embedding = embeddings[loaded.image_id]
                yield row | self._judge_mask(loaded.sample, text, embedding, seconds)

    def close(self) -> None:
        """End the second thread; the engines stay."""
        self._embedder.shutdown(wait=True, cancel_futures=True)

    def _ask(self, batch: Sequence[Loaded]) -> list[str]:
        pairs = [
            (loaded.image, loaded.sample.query)
            for loaded in batch
            if loaded.image is not None and loaded.sample is not None
        ]
        if isinstance(self._reasoner, BatchReasoner) and pairs:
            images, queries = zip(*pairs, strict=True)
            return self._reasoner.reason_batch(images, queries)
        return [self._reasoner.reason(image, query) for image, query in pairs]

    def _embed(self, batch: Sequence[Loaded]) -> dict[str, Future[Any]]:
        """Start embedding each image of the batch but the one that the last batch ended with."""
        found: dict[str, Future[Any]] = {}
        if self._last and batch and batch[0].image_id == self._last[0]:
            found[self._last[0]] = self._last[1]
        for loaded in batch:
            if loaded.image is not None and loaded.image_id not in found:
                work = self._embedder.submit(self._timed_embed, loaded.image)
                found[loaded.image_id] = work
                self._last = (loaded.image_id, work)
        return found

    def _timed_embed(self, image: Image) -> tuple[Any, float]:
        start = time.perf_counter()
        return self._segmenter.embed(image), time.perf_counter() - start

    def _judge_words(self, sample: Sample, text: str, seconds: float) -> dict[str, Any]:
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
            'timings': {'reason': seconds},
        }

    def _judge_mask(
        self, sample: Sample, text: str, embedding: Future[Any], seconds: float
    ) -> dict[str, Any]:
        assert sample.truth is not None
        try:
            prompt = self._reader.read(text, sample.size)
        except AnswerError as error:
            nothing = error.kind == 'nothing_found'
            return {
                'status': 'nothing_found' if nothing else 'failed',
                'error': {'kind': error.kind, 'message': str(error)},
                **_counts(sample, Overlap(0, 0, _area(sample)), _released_miss(sample)),
                'mask': None,
                'timings': {'reason': seconds},
            }
        embedded, embed_s = embedding.result()
        start = time.perf_counter()
        found = self._segmenter.segment(embedded, prompt.box, prompt.points)
        decode_s = time.perf_counter() - start
        mask = encode_mask(found.mask)
        try:
            counts = _counts(
                sample,
                overlap_rle(mask, sample.truth, sample.ignore),
                overlap_rle(mask, _with_ignored(sample)),
            )
        except MetricError as error:
            return _wrong_size(sample, str(error))
        return {
            'status': 'repaired' if prompt.repairs else 'ok',
            'error': None,
            **_described(prompt, sample),
            'score': float(found.score),
            **counts,
            'mask': {'size': [mask.size.height, mask.size.width], 'counts': mask.counts},
            'timings': {'reason': seconds, 'embed': embed_s, 'decode': decode_s},
        }


def _unusable(loaded: Loaded) -> dict[str, Any]:
    """What a row without usable data ends as: nothing found, nothing known about the truth."""
    row: dict[str, Any] = {
        'status': 'error',
        'error': {'kind': 'bad_data', 'message': loaded.error},
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
    words = f'{message}: the truth of this row is not of its image'
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


def _described(prompt: Prompt, sample: Sample) -> dict[str, Any]:
    """The prompt, and how well box and points fit the truth."""
    true = sample.truth.box if sample.truth else None
    fit: dict[str, Any] = {'box_iou': None, 'points_on': None}
    if true and prompt.box:
        fit['box_iou'] = box_iou(prompt.box, true)
    if true and prompt.points and sample.truth:
        fit['points_on'] = points_on_mask(prompt.points, sample.truth.mask)
    return {
        'box': list(prompt.box) if prompt.box else None,
        'points': [list(point) for point in prompt.points],
        'reasoning': prompt.reasoning,
        'repairs': list(prompt.repairs),
        **fit,
    }
