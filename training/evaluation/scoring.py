# SPDX-License-Identifier: Apache-2.0
"""The row of one sample: pixel counts, box and point figures, or the reason why there are none."""

from __future__ import annotations

from typing import Any, NamedTuple

from segzero_core.data.rle import Rle, unite
from segzero_core.data.samples import Sample
from segzero_core.errors import AnswerError, MetricError, SegZeroError
from segzero_core.geometry import box_iou
from segzero_core.metrics.masks import Overlap, overlap_rle, points_on_mask
from segzero_core.metrics.vqa import consensus_accuracy, relaxed_accuracy, written_answer
from segzero_core.reasoners import Reply
from training.evaluation.prefetch import LoadedSample
from training.evaluation.prompts import SegmenterPrompt


class ScoredMask(NamedTuple):
    """A mask of the segmenter.

    Attributes:
        mask: The mask, at the size of the image.
        score: The IoU that the segmenter expects.
        seconds: Durations by stage: ``embed`` of the image, ``decode`` of this mask.
    """

    mask: Rle
    score: float
    seconds: dict[str, float]


def start_row(loaded: LoadedSample) -> dict[str, Any]:
    """Return the fields that every row has: number, id and image."""
    return {'row': loaded.row, 'id': loaded.id, 'image': loaded.image_id}


def reply_fields(sample: Sample, reply: Reply) -> dict[str, Any]:
    """Return the question and the reply; ``finish_reason`` and ``tokens`` are those of Reply."""
    return {
        'query': sample.query,
        'group': sample.group,
        'text': reply.text,
        'finish_reason': reply.finish_reason,
        'tokens': reply.tokens,
    }


def score_words(dataset: str, sample: Sample, text: str) -> dict[str, Any]:
    """Return the fields of an answer in words, scored as ``dataset`` (chartqa, textvqa) does."""
    answer = written_answer(text)
    if dataset == 'textvqa':
        correct = consensus_accuracy(answer, sample.answers)
    else:
        correct = max(relaxed_accuracy(answer, truth) for truth in sample.answers)
    return {
        'status': 'ok' if answer else 'failed',
        'answer': answer,
        'correct': correct,
        'error': None,
    }


def score_mask(sample: Sample, prompt: SegmenterPrompt, found: ScoredMask) -> dict[str, Any]:
    """Return the fields of an answer that led to a mask."""
    assert sample.truth is not None
    mask = found.mask
    try:
        overlap = overlap_rle(mask, sample.truth, sample.ignore)
        released = overlap
        if sample.ignore is not None:
            released = overlap_rle(mask, _released_truth(sample))
    except MetricError as error:
        return {
            'status': 'error',
            'error': {
                'kind': 'wrong_size',
                'message': f'{error}: the truth of this row does not belong to its image',
            },
            **_missed(sample),
        }
    return {
        'status': 'repaired' if prompt.repairs else 'ok',
        'error': None,
        **_prompt_fields(prompt, sample),
        'score': found.score,
        **_counts(sample, overlap, released),
        'mask': {'size': [mask.size.height, mask.size.width], 'counts': mask.counts},
        'timings': found.seconds,
    }


# Both predict an empty mask: an engine that does not know a word finds no such object.
_NOTHING_FOUND = ('nothing_found', 'unknown_word')


def score_failure(sample: Sample, error: AnswerError) -> dict[str, Any]:
    """Return the fields of an answer that names no place."""
    return {
        'status': 'nothing_found' if error.kind in _NOTHING_FOUND else 'failed',
        'error': {'kind': error.kind, 'message': str(error)},
        **_missed(sample),
        'mask': None,
    }


def score_unusable(loaded: LoadedSample, error: SegZeroError | None) -> dict[str, Any]:
    """Return the fields of a row that could not be measured; it counts as a miss.

    Args:
        loaded: The row.
        error: Error of the model server; ``None`` if the data of the row cannot be used.
    """
    row: dict[str, Any] = {
        'status': 'error',
        'error': {
            'kind': error.kind if error else 'bad_data',
            'message': str(error or loaded.error),
        },
        'intersection': 0,
        'union': 0,
        'predicted': 0,
        'truth': 0,
        'released': [0, 0, 0],
    }
    if loaded.sample is None:
        return row
    sample = loaded.sample
    return row | {'query': sample.query, 'group': sample.group} | _missed(sample)


def _missed(sample: Sample) -> dict[str, Any]:
    """Return the counts of an empty mask."""
    area = 0
    if sample.truth is not None:
        area = overlap_rle(sample.truth, sample.truth, sample.ignore).truth
    truth = _released_truth(sample)
    return _counts(sample, Overlap(0, 0, area), Overlap(0, 0, truth.area if truth else 0))


def _counts(sample: Sample, found: Overlap, released: Overlap) -> dict[str, Any]:
    return {
        'intersection': found.intersection,
        'union': found.predicted + found.truth - found.intersection,
        'predicted': found.predicted,
        'truth': found.truth,
        'released': list(released),
        'objects': len(sample.boxes),
    }


def _released_truth(sample: Sample) -> Any:
    """Return the truth of the released evaluation, which includes the ignored pixels."""
    if sample.truth is None or sample.ignore is None:
        return sample.truth
    return unite([sample.truth, sample.ignore], sample.size)


def _prompt_fields(prompt: SegmenterPrompt, sample: Sample) -> dict[str, Any]:
    """Return the prompt, and how well its box and points fit the truth."""
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
        'warnings': [{'kind': each.kind, 'message': each.message} for each in prompt.warnings],
        **fit,
    }
