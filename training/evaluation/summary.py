# SPDX-License-Identifier: Apache-2.0
"""The rows of a run -> its metrics. Failed rows count as zero, and their number is reported."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segzero_core.metrics.masks import (
    Interval,
    Overlap,
    Protocol,
    bootstrap,
    ciou,
    image_ious,
    no_target_accuracy,
    target_accuracy,
)

Row = dict[str, Any]
Array = npt.NDArray[Any]
STATUS = ('ok', 'repaired', 'nothing_found', 'failed', 'error')
_FAILED = ('failed', 'error')  # as opposed to "nothing matches", which is an answer
THRESHOLDS = (0.5, 0.7, 0.9)


def summarise(rows: Sequence[Row], seed: int = 0) -> dict[str, Any]:
    """Return all metrics of a run, under both protocols, as plain data for JSON.

    Args:
        rows: The rows of the run; texts and masks may be missing.
        seed: Seed of the bootstrap.
    """
    found: dict[str, Any] = {'rows': len(rows), 'counts': count(rows)}
    if any('correct' in row for row in rows):
        correct = [float(row.get('correct', 0)) for row in rows]
        found['accuracy'] = _interval(bootstrap(np.mean, correct, seed=seed))
    else:
        found['standard'] = mask_metrics(rows, 'standard', seed)
        kept = [row for row in rows if not dropped_by_release(row)]
        found['released'] = mask_metrics(kept, 'released', seed) if kept else {}
        found['released']['dropped'] = len(rows) - len(kept)
        found |= prompt_metrics(rows, seed)
    groups = sorted({row.get('group') or '' for row in rows} - {''})
    if len(groups) > 1:
        found['groups'] = {
            group: summarise([row for row in rows if row.get('group') == group], seed)
            for group in groups
        }
    found['seconds'] = _seconds(rows)
    return found


def count(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the number of rows of each status and of each kind of failure.

    ``cut_off`` is the number of replies that ended because they reached the limit of tokens, and
    ``cut_off_failed`` how many of them hold no usable answer.
    """
    status = Counter(row['status'] for row in rows)
    kinds = Counter(row['error']['kind'] for row in rows if row['error'])
    answered = len(rows) - status['error']
    cut_off = [row for row in rows if row.get('finish_reason') == 'length']
    return {
        **{name: status[name] for name in STATUS},
        'parse_failure_rate': status['failed'] / answered if answered else 0.0,
        'repair_rate': status['repaired'] / answered if answered else 0.0,
        'kinds': dict(kinds),
        'cut_off': len(cut_off),
        'cut_off_failed': sum(row['status'] == 'failed' for row in cut_off),
    }


def dropped_by_release(row: Row) -> bool:
    """Return whether the released evaluation leaves a row out of its metrics.

    The released evaluation leaves a row out if mask and truth are both empty, or if their sizes
    differ. A text that it cannot read counts as a miss.
    """
    intersection, predicted, truth = row['released']
    if row['status'] == 'error':
        return bool(row['error']['kind'] == 'wrong_size')
    return row['status'] in ('ok', 'repaired') and predicted + truth - intersection == 0


def counts_of(row: Row, protocol: Protocol) -> Overlap:
    """Return the pixel counts of a row; the released truth includes the ignored pixels."""
    if protocol == 'released':
        return Overlap(*row['released'])
    return Overlap(row['intersection'], row['predicted'], row['truth'])


def ious_of(rows: Sequence[Row], protocol: Protocol) -> Array:
    """Return the (n,) IoU of each row; 0 for failed rows, even if there is no target."""
    ious = image_ious([counts_of(row, protocol) for row in rows], protocol)
    ious[[row['status'] in _FAILED for row in rows]] = 0.0
    return ious


def mask_metrics(rows: Sequence[Row], protocol: Protocol, seed: int) -> dict[str, Any]:
    """Return gIoU, cIoU and precision (of rows with a target), with bootstrap intervals."""
    counts = [counts_of(row, protocol) for row in rows]
    ious = ious_of(rows, protocol)
    found = {
        'giou': bootstrap(np.mean, ious, seed=seed),
        'ciou': bootstrap(lambda drawn: ciou(drawn, protocol), counts, seed=seed),
    }
    targeted = ious[[not means_nothing(row, protocol) for row in rows]]
    for threshold in THRESHOLDS if len(targeted) else ():
        over = (targeted > threshold).astype(float)
        found[f'precision_{threshold:g}'] = bootstrap(np.mean, over, seed=seed)
    return {name: _interval(interval) for name, interval in found.items()}


def prompt_metrics(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Return the accuracy of boxes, points and rejections, if there are rows to judge them by."""
    nothing = [row for row in rows if means_nothing(row, 'standard')]
    targeted = [row for row in rows if not means_nothing(row, 'standard')]
    found: dict[str, Interval] = {}
    if targeted and _given(rows, 'box'):
        hits = [float((row.get('box_iou') or 0) > 0.5) for row in targeted]
        found['box_accuracy'] = bootstrap(np.mean, hits, seed=seed)
    if targeted and _given(rows, 'points'):
        on = [float(row.get('points_on') or 0) for row in targeted]
        found['point_accuracy'] = bootstrap(np.mean, on, seed=seed)
    if nothing:
        # A failed row is not a rejection.
        counts = [
            Overlap(0, 1, 0) if row['status'] in _FAILED else counts_of(row, 'standard')
            for row in nothing
        ]
        found['no_target_accuracy'] = bootstrap(no_target_accuracy, counts, seed=seed)
    if nothing and targeted:
        # Nor does it see a target. A row whose truth cannot be read counts as one with a target.
        shown = [Overlap(0, counts_of(row, 'standard').predicted, 1) for row in targeted]
        found['target_accuracy'] = bootstrap(target_accuracy, shown, seed=seed)
    return {name: _interval(interval) for name, interval in found.items()}


def means_nothing(row: Row, protocol: Protocol) -> bool:
    """Return whether the truth of a row is empty; False for unusable data (unknown truth)."""
    return 'objects' in row and counts_of(row, protocol).truth == 0


def _given(rows: Sequence[Row], what: str) -> bool:
    """Return whether any row has a box (or points); True if no answer was usable."""
    return any(row.get(what) for row in rows) or not any(
        row.get('box') or row.get('points') for row in rows
    )


class RunningScore:
    """The score of the rows so far, in constant memory."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self.rows = 0
        self._sum = 0.0
        self._intersection = self._union = 0
        self._correct = 0.0
        self._words = False

    def add(self, row: Row) -> None:
        """Add a row."""
        if 'correct' in row:
            self._words = True
            self._correct += row['correct']
        elif 'released' in row:
            if self._protocol == 'released' and dropped_by_release(row):
                return
            counts = counts_of(row, self._protocol)
            self._sum += float(ious_of([row], self._protocol)[0])
            self._intersection += counts.intersection
            self._union += counts.predicted + counts.truth - counts.intersection
        self.rows += 1

    def __str__(self) -> str:
        if not self.rows:
            return ''
        if self._words:
            return f'accuracy {100 * self._correct / self.rows:.1f}'
        ratio = self._intersection / self._union if self._union else 0.0
        return f'gIoU {100 * self._sum / self.rows:.1f}  cIoU {100 * ratio:.1f}'


def _seconds(rows: Sequence[Row]) -> dict[str, float]:
    """Return the median seconds of each stage."""
    timings = [row['timings'] for row in rows if 'timings' in row]
    stages = dict.fromkeys(stage for timing in timings for stage in timing)
    return {
        stage: statistics.median(timing[stage] for timing in timings if stage in timing)
        for stage in stages
    }


def _interval(interval: Interval) -> dict[str, float]:
    return interval._asdict()
