# SPDX-License-Identifier: Apache-2.0
"""Boxes, points and masks: conversions between sizes, mask -> box, mask -> inscribed circles."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.errors import EmptyMaskError
from segzero_core.types import Box, Mask, Point, Size


class Circle(NamedTuple):
    """A circle in pixels; ``radius`` 0 means that no circle fitted."""

    center: Point
    radius: float


def rescale_point(point: Point, from_size: Size, to_size: Size) -> Point:
    """Scale a point from one size of an image to another size of the same image.

    The scaling is linear without rounding, ``v * to / from``, as in the training data. The result
    is clipped to the target image: x in [0, width - 1], y in [0, height - 1].
    """
    x = point.x * to_size.width / from_size.width
    y = point.y * to_size.height / from_size.height
    return Point(
        min(max(x, 0.0), to_size.width - 1.0),
        min(max(y, 0.0), to_size.height - 1.0),
    )


def rescale_box(box: Box, from_size: Size, to_size: Size) -> Box:
    """Scale both corners of a box like ``rescale_point``."""
    low = rescale_point(Point(box.x1, box.y1), from_size, to_size)
    high = rescale_point(Point(box.x2, box.y2), from_size, to_size)
    return Box(*low, *high)


def box_iou(a: Box, b: Box) -> float:
    """Return intersection over union of two boxes, 0 to 1, as continuous areas (no +1 pixel).

    Two boxes without area have IoU 1 when they are equal and 0 otherwise.
    """
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    intersection = max(width, 0.0) * max(height, 0.0)
    union = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - intersection
    return intersection / union if union > 0 else float(a == b)


def mask_to_box(mask: Mask) -> Box:
    """Return the smallest box around an (H, W) bool mask; its corners are pixels of the mask.

    Raises:
        EmptyMaskError: No pixel is set.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        raise EmptyMaskError(f'the mask of shape {mask.shape} has no pixel set')
    return Box(float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1]))


def largest_inscribed_circles(mask: Mask) -> tuple[Circle, Circle]:
    """Return the largest circle inside a mask and the largest one that does not overlap it.

    The centres are the two points of Seg-Zero (section 3.1). A circle extends to the centre of
    the nearest pixel outside the mask; pixels beyond the image border count as outside. Of several
    largest circles the one with the smallest y, then x, is returned. If no second circle fits, its
    radius is 0 and its centre is another pixel of the mask, or the same pixel if there is only
    one.

    Args:
        mask: (H, W) bool.

    Raises:
        EmptyMaskError: No pixel is set.
    """
    x1, y1, x2, y2 = (int(value) for value in mask_to_box(mask))
    inside = mask[y1 : y2 + 1, x1 : x2 + 1]
    padded = np.pad(inside.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    # The last digit of the distance depends on the memory alignment of the mask. Squared
    # distances are integers, so rounding removes that dependence.
    reach: npt.NDArray[np.float64] = np.sqrt(np.rint(np.square(distance, dtype=np.float64)))
    row, column = np.unravel_index(int(reach.argmax()), reach.shape)
    first = Circle(Point(float(x1 + column), float(y1 + row)), float(reach[row, column]))

    rows, columns = np.ogrid[: inside.shape[0], : inside.shape[1]]
    away = np.hypot(columns - column, rows - row) - first.radius
    room = np.where(inside, np.minimum(reach, away), -np.inf)
    row, column = np.unravel_index(int(room.argmax()), room.shape)
    radius = max(float(room[row, column]), 0.0)
    return first, Circle(Point(float(x1 + column), float(y1 + row)), radius)


def touched_borders(mask: Mask) -> list[str]:
    """Return the borders of the image that a mask (H, W) touches: left, right, top, bottom."""
    edges = {'left': mask[:, 0], 'right': mask[:, -1], 'top': mask[0], 'bottom': mask[-1]}
    return [side for side, pixels in edges.items() if pixels.any()]
