# SPDX-License-Identifier: Apache-2.0
"""Metrics against figures worked out by hand, and the promises about empty and missing answers."""

import numpy as np
import pytest

from segzero_core.errors import MetricError
from segzero_core.metrics import (
    Overlap,
    bootstrap,
    box_accuracy,
    ciou,
    giou,
    image_ious,
    no_target_accuracy,
    overlap,
    points_on_mask,
    precision,
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


def test_box_accuracy_counts_missing_boxes_as_wrong():
    truth = Box(0, 0, 10, 10)
    assert box_accuracy([truth, None, Box(0, 0, 10, 5), Box(0, 0, 10, 6)], [truth] * 4) == 0.5
    with pytest.raises(MetricError, match='1 predicted boxes for 2 true ones'):
        box_accuracy([truth], [truth, truth])
    with pytest.raises(MetricError, match='0 predicted boxes for 0'):
        box_accuracy([], [])


def test_points_on_mask():
    assert points_on_mask([Point(0.4, 0.4), Point(1.4, 1)], TRUTH) == 1
    assert points_on_mask([Point(1, 1), Point(1.6, 1)], TRUTH) == 0.5
    assert points_on_mask([Point(-4, 0), Point(0, 2)], TRUTH) == 0  # no wrapping round
    assert points_on_mask([], TRUTH) == 0


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
