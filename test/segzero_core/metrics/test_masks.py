# SPDX-License-Identifier: Apache-2.0
"""Metrics, compared with manual results, and the rules for empty and missing answers."""

import numpy as np
import pytest

from segzero_core.data.rle import encode_mask
from segzero_core.errors import MetricError
from segzero_core.metrics.masks import (
    Overlap,
    bootstrap,
    box_accuracy,
    ciou,
    giou,
    image_ious,
    no_target_accuracy,
    overlap,
    overlap_rle,
    points_on_mask,
    precision,
    target_accuracy,
)
from segzero_core.types import Box, Point


def mask(rows: str) -> np.ndarray:
    return np.array([[character == '#' for character in row] for row in rows.split()])


TRUTH = mask('##.. ##..')
SHIFTED = mask('.##. .##.')
NOTHING = mask('.... ....')

SMALL = Overlap(intersection=5, predicted=10, truth=5)  # IoU 0.5
LARGE = Overlap(intersection=90, predicted=90, truth=100)  # IoU 0.9
MISSED = Overlap(0, 0, 20)
REJECTED = Overlap(0, 0, 0)
INVENTED = Overlap(0, 30, 0)


def test_overlap_counts_pixels():
    assert overlap(SHIFTED, TRUTH) == Overlap(2, 4, 4)
    assert overlap(NOTHING, TRUTH) == Overlap(0, 0, 4)


def test_ignored_pixels_count_for_neither():
    ignore = mask('.#.. ....')
    assert overlap(SHIFTED, TRUTH, ignore) == Overlap(1, 3, 3)


def test_masks_of_different_shapes_are_refused_with_both():
    with pytest.raises(MetricError, match=r'\(2, 4\) and \(4, 2\)'):
        overlap(TRUTH, TRUTH.T)


def test_giou_is_the_mean_and_ciou_the_ratio_of_sums():
    assert giou([SMALL, LARGE]) == pytest.approx(0.7)
    assert ciou([SMALL, LARGE]) == pytest.approx(95 / 110)


def test_a_missing_answer_counts_as_zero_and_its_truth_as_union():
    assert giou([LARGE, MISSED]) == pytest.approx(0.45)
    assert ciou([LARGE, MISSED]) == pytest.approx(90 / 120)


@pytest.mark.parametrize(('protocol', 'empty'), [('standard', 1), ('released', 0)])
def test_nothing_where_there_is_nothing(protocol, empty):
    assert list(image_ious([REJECTED, INVENTED], protocol)) == [empty, 0]
    assert giou([REJECTED, INVENTED], protocol) == empty / 2
    assert ciou([REJECTED], protocol) == empty
    assert ciou([REJECTED, LARGE], protocol) == 0.9


def test_precision_is_over_the_threshold():
    assert precision([SMALL, LARGE, MISSED, LARGE]) == 0.5
    assert precision([SMALL, LARGE], threshold=0.49) == 1
    assert precision([SMALL, LARGE], threshold=0.9) == 0


def test_no_target_accuracy_looks_at_images_without_a_target():
    assert no_target_accuracy([REJECTED, INVENTED, REJECTED, LARGE, MISSED]) == pytest.approx(
        2 / 3
    )
    with pytest.raises(MetricError, match='without a target, got none'):
        no_target_accuracy([LARGE])


def test_target_accuracy_looks_at_images_with_a_target():
    assert target_accuracy([REJECTED, INVENTED, LARGE, MISSED, SMALL]) == pytest.approx(2 / 3)
    with pytest.raises(MetricError, match='with a target, got none'):
        target_accuracy([REJECTED, INVENTED])


def test_box_accuracy_counts_missing_boxes_as_wrong():
    truth = Box(0, 0, 10, 10)
    assert box_accuracy([truth, None, Box(0, 0, 10, 5), Box(0, 0, 10, 6)], [truth] * 4) == 0.5
    with pytest.raises(MetricError, match='1 predicted boxes for 2 true ones'):
        box_accuracy([truth], [truth, truth])
    with pytest.raises(MetricError, match='0 predicted boxes for 0'):
        box_accuracy([], [])


def test_points_on_mask():
    truth = encode_mask(TRUTH)
    assert points_on_mask([Point(0.4, 0.4), Point(1.4, 1)], truth) == 1
    assert points_on_mask([Point(1, 1), Point(1.6, 1)], truth) == 0.5
    assert points_on_mask([Point(-4, 0), Point(0, 2)], truth) == 0  # no wrapping round
    assert points_on_mask([], truth) == 0
    pixels = [(x, y) for y in range(2) for x in range(4)]
    assert [truth.has(x, y) for x, y in pixels] == TRUTH.flatten().tolist()


@pytest.mark.parametrize(
    'metric', [giou, ciou, precision, image_ious, lambda x: bootstrap(giou, x)]
)
def test_no_samples_is_an_error_and_not_nan(metric):
    with pytest.raises(MetricError, match='there are no'):
        metric([])


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(1).normal(5, 2, 400)
    interval = bootstrap(np.mean, values, resamples=2000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_of_ciou_keeps_the_rows_together():
    interval = bootstrap(ciou, [SMALL, LARGE] * 20)
    assert interval.value == pytest.approx(95 / 110)
    assert 0.5 < interval.low < interval.value < interval.high < 0.9
    assert bootstrap(ciou, [SMALL, LARGE] * 20) == interval
    narrower = bootstrap(ciou, [SMALL, LARGE] * 20, confidence=0.5)
    assert interval.low < narrower.low < narrower.high < interval.high


# --- a simple second implementation of LISA's and Seg-Zero's metrics -------------------------


def random_masks(count: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Prediction, truth and ignored pixels; every tenth prediction and eleventh truth is empty."""
    rng = np.random.default_rng(7)
    found = []
    for i in range(count):
        shape = tuple(rng.integers(1, 24, 2))
        predicted, truth, ignore = (rng.random(shape) < rng.random() for _ in range(3))
        found.append((predicted & bool(i % 10), truth & bool(i % 11), ignore & bool(i % 3)))
    return found


def lisa(pairs):
    """LISA's validation: labels 0, 1 and 255, a meter of each, one mask per image."""
    ious, intersections, unions = [], 0, 0
    for predicted, truth, ignore in pairs:
        label = np.where(ignore, 255, truth.astype(int))
        output = np.where(label == 255, 255, predicted.astype(int))
        intersection = ((output == 1) & (label == 1)).sum()
        union = (output == 1).sum() + (label == 1).sum() - intersection
        iou = intersection / (union + 1e-5)
        ious.append(iou + 1 if union == 0 else iou)
        intersections, unions = intersections + intersection, unions + union
    return np.mean(ious), intersections / (unions + 1e-10)


def seg_zero(pairs):
    """Seg-Zero's evaluation of readable answers: two empty masks are left out."""
    ious, intersections, unions = [], 0, 0
    for predicted, truth, ignore in pairs:
        label = truth | ignore  # whatever is not 0
        intersection, union = (predicted & label).sum(), (predicted | label).sum()
        if union:
            ious.append(intersection / union)
            intersections, unions = intersections + intersection, unions + union
    return np.mean(ious), intersections / unions


def test_ten_thousand_random_pairs_score_as_in_lisa_and_in_seg_zero():
    pairs = random_masks(10_000)
    ignoring = [overlap(predicted, truth, ignore) for predicted, truth, ignore in pairs]
    assert (giou(ignoring, 'lisa'), ciou(ignoring, 'lisa')) == pytest.approx(lisa(pairs), 1e-12)
    counting = [overlap(predicted, truth | ignore) for predicted, truth, ignore in pairs]
    kept = [row for row in counting if row.predicted + row.truth]
    assert 0 < len(kept) < len(counting)
    released = giou(kept, 'released'), ciou(kept, 'released')
    assert released == pytest.approx(seg_zero(pairs), 1e-12)


def test_run_lengths_are_counted_as_pixels_are():
    for predicted, truth, ignore in random_masks(500):
        masks = [encode_mask(mask) for mask in (predicted, truth, ignore)]
        assert [rle.mask.tolist() for rle in masks] == [
            mask.tolist() for mask in (predicted, truth, ignore)
        ]
        assert overlap_rle(*masks) == overlap(predicted, truth, ignore)
        assert overlap_rle(*masks[:2]) == overlap(predicted, truth)
    with pytest.raises(MetricError, match='1 x 1 and 2 x 1'):
        overlap_rle(*(encode_mask(np.ones((1, width), bool)) for width in (1, 2)))
