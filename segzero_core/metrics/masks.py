# SPDX-License-Identifier: Apache-2.0
"""Metrics of masks, boxes and points: gIoU, cIoU, precision, hit rates, bootstrap intervals.

Every sample counts. A sample without a usable answer is an empty mask, a box ``None`` or no
points; without it, a model would look better the more often it fails.

Three protocols differ where the truth of an image may be empty ("nothing matches"):

``standard``: an empty mask for an empty truth has IoU 1 (gRefCOCO).
``lisa``: the same, computed exactly as dvlab-research/LISA at 3cb2d43, which adds 1e-5 to each
union and 1e-10 to their sum.
``released``: the IoU is 0, as in the evaluation of dvlab-research/Seg-Zero at 77f9ea5, which the
published figures of its checkpoints come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.data.rle import Rle, shared_area
from segzero_core.errors import MetricError
from segzero_core.geometry import box_iou
from segzero_core.types import Box, Mask, Point

Protocol: TypeAlias = Literal['standard', 'lisa', 'released']
Array: TypeAlias = npt.NDArray[Any]


class Overlap(NamedTuple):
    """Pixel counts of a predicted mask, its truth and their intersection."""

    intersection: int
    predicted: int
    truth: int


class Interval(NamedTuple):
    """A metric and its bootstrap confidence interval."""

    value: float
    low: float
    high: float


def overlap(predicted: Mask, truth: Mask, ignore: Mask | None = None) -> Overlap:
    """Count the pixels of a prediction, its truth and their intersection.

    Args:
        predicted: (H, W) bool.
        truth: (H, W) bool.
        ignore: (H, W) bool, pixels that do not count. LISA's ReasonSeg ignores the pixels labelled
            255; Seg-Zero counts them as truth.

    Raises:
        MetricError: The shapes differ.
    """
    masks = [predicted, truth] if ignore is None else [predicted, truth, ignore]
    if len({mask.shape for mask in masks}) != 1:
        shapes = ' and '.join(str(mask.shape) for mask in masks)
        raise MetricError(f'masks must have the same shape, got {shapes}')
    if ignore is not None:
        predicted, truth = predicted & ~ignore, truth & ~ignore
    found, true = (np.ascontiguousarray(mask).view(np.uint8) for mask in (predicted, truth))
    counts = (cv2.bitwise_and(found, true), found, true)  # faster than numpy's & and count
    return Overlap(*(int(cv2.countNonZero(mask)) for mask in counts))


def overlap_rle(predicted: Rle, truth: Rle, ignore: Rle | None = None) -> Overlap:
    """Count as ``overlap`` does without decoding the masks: much faster on large images.

    Raises:
        MetricError: The sizes differ.
    """
    masks = [predicted, truth] if ignore is None else [predicted, truth, ignore]
    if len({mask.size for mask in masks}) != 1:
        sizes = ' and '.join(f'{mask.size.width} x {mask.size.height}' for mask in masks)
        raise MetricError(f'masks must have the same size, got {sizes}')
    wanted = ([predicted, truth], [predicted], [truth])
    if ignore is None:
        return Overlap(*(shared_area(group) for group in wanted))
    return Overlap(*(shared_area(group) - shared_area([*group, ignore]) for group in wanted))


def image_ious(overlaps: Sequence[Overlap] | Array, protocol: Protocol = 'standard') -> Array:
    """Return the (n,) float IoU of each image.

    Raises:
        MetricError: There is no image.
    """
    intersection, union = _counts(overlaps)
    if protocol == 'lisa':
        return intersection / (union + 1e-5) + (union == 0)
    empty = 1.0 if protocol == 'standard' else 0.0
    return np.where(union > 0, intersection / np.maximum(union, 1), empty)


def giou(overlaps: Sequence[Overlap] | Array, protocol: Protocol = 'standard') -> float:
    """Return the mean of the images' IoUs; raises as ``image_ious`` does."""
    return float(image_ious(overlaps, protocol).mean())


def ciou(overlaps: Sequence[Overlap] | Array, protocol: Protocol = 'standard') -> float:
    """Return the sum of intersections over the sum of unions; raises as ``image_ious`` does."""
    intersection, union = _counts(overlaps)
    if protocol == 'lisa':
        return float(intersection.sum() / (union.sum() + 1e-10))
    if union.sum() == 0:
        return 1.0 if protocol == 'standard' else 0.0
    return float(intersection.sum() / union.sum())


def precision(
    overlaps: Sequence[Overlap] | Array, threshold: float = 0.5, protocol: Protocol = 'standard'
) -> float:
    """Return the share of images with an IoU over ``threshold``; raises as ``image_ious`` does."""
    return float((image_ious(overlaps, protocol) > threshold).mean())


def no_target_accuracy(overlaps: Sequence[Overlap] | Array) -> float:
    """Return the share of images without a target whose mask is empty (gRefCOCO's N-acc).

    N-acc and T-acc are those of arXiv 2306.00968. ReLA's code divides by the count plus one, and
    its T-acc is a different metric.

    Raises:
        MetricError: Every image has a target.
    """
    rows = np.asarray(overlaps).reshape(-1, 3)
    without = rows[rows[:, 2] == 0]
    if len(without) == 0:
        raise MetricError('no-target accuracy needs images without a target, got none')
    return float((without[:, 1] == 0).mean())


def target_accuracy(overlaps: Sequence[Overlap] | Array) -> float:
    """Return the share of images with a target whose mask is not empty (gRefCOCO's T-acc).

    It is the only metric of wrong rejections, whose IoU is 0 like that of any miss.

    Raises:
        MetricError: No image has a target.
    """
    rows = np.asarray(overlaps).reshape(-1, 3)
    targeted = rows[rows[:, 2] > 0]
    if len(targeted) == 0:
        raise MetricError('target accuracy needs images with a target, got none')
    return float((targeted[:, 1] > 0).mean())


def box_accuracy(
    predicted: Sequence[Box | None], truth: Sequence[Box], threshold: float = 0.5
) -> float:
    """Return the share of boxes with an IoU over ``threshold`` (Seg-Zero, appendix C).

    Raises:
        MetricError: There are no boxes, or the numbers differ.
    """
    if not truth or len(predicted) != len(truth):
        raise MetricError(f'got {len(predicted)} predicted boxes for {len(truth)} true ones')
    hits = [
        found is not None and box_iou(found, true) > threshold
        for found, true in zip(predicted, truth, strict=True)
    ]
    return sum(hits) / len(hits)


def points_on_mask(points: Sequence[Point], truth: Rle) -> float:
    """Return the share of ``points`` whose pixel is in the truth; 0 if there are no points.

    Its mean over images is Seg-Zero's point accuracy (appendix C).
    """
    hits = sum(truth.has(round(point.x), round(point.y)) for point in points)
    return hits / len(points) if points else 0.0


def bootstrap(
    statistic: Callable[[Array], float],
    samples: Sequence[Any] | Array,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return a statistic and its percentile bootstrap interval (Efron 1979).

    Args:
        statistic: Computes the metric of an array of samples, such as ``giou``.
        samples: One row per image, such as ``Overlap`` or a number.
        confidence: Share of resamples inside the interval, 0 to 1.
        resamples: Number of resamples, each as large as ``samples``, drawn with replacement.
        seed: Seed of the resamples.

    Raises:
        MetricError: There is no sample.
    """
    rows = np.asarray(samples)
    if len(rows) == 0:
        raise MetricError('there are no samples to measure')
    generator = np.random.default_rng(seed)
    drawn = [
        statistic(rows[generator.integers(len(rows), size=len(rows))]) for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(statistic(rows), float(low), float(high))


def _counts(overlaps: Sequence[Overlap] | Array) -> tuple[Array, Array]:
    """Return intersections and unions, (n,) int64 each."""
    rows = np.asarray(overlaps, dtype=np.int64).reshape(-1, 3)
    if len(rows) == 0:
        raise MetricError('there are no images to measure')
    return rows[:, 0], rows[:, 1] + rows[:, 2] - rows[:, 0]
