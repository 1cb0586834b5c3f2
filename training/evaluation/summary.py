# SPDX-License-Identifier: Apache-2.0
"""The rows of a run -> its figures. What failed counts as zero, and is counted."""

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
_FAILED = ('failed', 'error')  # not even "nothing matches"
THRESHOLDS = (0.5, 0.7, 0.9)


def summarise(rows: Sequence[Row], seed: int = 0) -> dict[str, Any]:
    """Return all figures of a run, under both protocols, as plain data for JSON.

    Args:
        rows: Of the run, without what is long.
        seed: Of the bootstrap.
    """
    found: dict[str, Any] = {'rows': len(rows), 'counts': count(rows)}
    if any('correct' in row for row in rows):
        correct = [float(row.get('correct', 0)) for row in rows]
        found['accuracy'] = _interval(bootstrap(np.mean, correct, seed=seed))
    else:
        found['standard'] = mask_figures(rows, 'standard', seed)
        kept = [row for row in rows if not dropped_by_release(row)]
        found['released'] = mask_figures(kept, 'released', seed) if kept else {}
        found['released']['dropped'] = len(rows) - len(kept)
        found |= prompt_figures(rows, seed)
    groups = sorted({row.get('group') or '' for row in rows} - {''})
    if len(groups) > 1:
        found['groups'] = {
            group: summarise([row for row in rows if row.get('group') == group], seed)
            for group in groups
        }
    found['seconds'] = _seconds(rows)
    return found


def count(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how many answers of each status there are, and of each kind of failure."""
    status = Counter(row['status'] for row in rows)
    kinds = Counter(row['error']['kind'] for row in rows if row['error'])
    answered = len(rows) - status['error']
    return {
        **{name: status[name] for name in STATUS},
        'parse_failure_rate': status['failed'] / answered if answered else 0.0,
        'repair_rate': status['repaired'] / answered if answered else 0.0,
        'kinds': dict(kinds),
    }


def dropped_by_release(row: Row) -> bool:
    """Whether the released evaluation leaves a row out of its figures.

    It does where the mask of an answer and the truth are both empty, or differ in size. A text it
    cannot read counts as a miss.
    """
    intersection, predicted, truth = row['released']
    if row['status'] == 'error':
        return bool(row['error']['kind'] == 'wrong_size')
    return row['status'] in ('ok', 'repaired') and predicted + truth - intersection == 0


def counts_of(row: Row, protocol: Protocol) -> Overlap:
    """Return the pixel counts of a row: the released truth includes what is to be ignored."""
    if protocol == 'released':
        return Overlap(*row['released'])
    return Overlap(row['intersection'], row['predicted'], row['truth'])


def ious_of(rows: Sequence[Row], protocol: Protocol) -> Array:
    """Return the (n,) IoU of each row; what failed has none, even where there is no target."""
    ious = image_ious([counts_of(row, protocol) for row in rows], protocol)
    ious[[row['status'] in _FAILED for row in rows]] = 0.0
    return ious


def mask_figures(rows: Sequence[Row], protocol: Protocol, seed: int) -> dict[str, Any]:
    """Return gIoU, cIoU and precision (of what has a target), each with its bootstrap interval."""
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


def prompt_figures(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Return how good boxes, points and rejections are, where there are any to judge."""
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
        # What failed rejects nothing.
        counts = [
            Overlap(0, 1, 0) if row['status'] in _FAILED else counts_of(row, 'standard')
            for row in nothing
        ]
        found['no_target_accuracy'] = bootstrap(no_target_accuracy, counts, seed=seed)
    if nothing and targeted:
        # Nor does it see a target. The truth of data that cannot be read counts as one.
        shown = [Overlap(0, counts_of(row, 'standard').predicted, 1) for row in targeted]
        found['target_accuracy'] = bootstrap(target_accuracy, shown, seed=seed)
    return {name: _interval(interval) for name, interval in found.items()}


def means_nothing(row: Row, protocol: Protocol) -> bool:
    """Whether the truth of a row is known to be empty; that of unusable data is not known."""
    return 'objects' in row and counts_of(row, protocol).truth == 0


def _given(rows: Sequence[Row], what: str) -> bool:
    """Whether the segmenter was given boxes, or points; if no answer was usable, both count."""
    return any(row.get(what) for row in rows) or not any(
        row.get('box') or row.get('points') for row in rows
    )


class Running:
    """The score so far, in constant memory."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self.rows = 0
        self._sum = 0.0
        self._intersection = self._union = 0
        self._correct = 0.0
        self._words = False

    def add(self, row: Row) -> None:
        """Take in a row."""
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
    """Return the median time of each stage."""
    timings = [row['timings'] for row in rows if 'timings' in row]
    stages = dict.fromkeys(stage for timing in timings for stage in timing)
    return {
        stage: statistics.median(timing[stage] for timing in timings if stage in timing)
        for stage in stages
    }


def _interval(interval: Interval) -> dict[str, float]:
    return interval._asdict()
