# SPDX-License-Identifier: Apache-2.0
"""The region of interest: the smallest part of an image that shows an object. Imports no ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.types import Intrinsics, Mask, Point

Depth = npt.NDArray[np.float32]
Pixel = tuple[int, int]  # row, column

MAX_PIXELS = 60_000  # of an object; larger objects are reduced in blocks of 2 x 2, 3 x 3, ...


@dataclass(frozen=True)
class RegionOfInterest:
    """An object and its depth, in blocks of ``step`` x ``step`` pixels of the image.

    Attributes:
        mask: (H, W) bool, whether the pixel in the block's middle is in the object's mask.
        depth: (H, W) float32, metres, the median of the block's valid depths; 0 if there are none.
        valid: (H, W) bool, whether a block of the mask has depth.
        left: Column in the image of the first block's middle.
        top: Row in the image of the first block's middle.
        step: Side of a block, pixels.
        borders: For the left, top, right and bottom edge of ``mask``: whether the edge is the
            image's border and the object touches it.
    """

    mask: Mask
    depth: Depth
    valid: Mask
    left: int
    top: int
    step: int
    borders: tuple[bool, bool, bool, bool]

    def on_border(self, blocks: npt.NDArray[np.int64]) -> Mask:
        """Return (N,) bool: whether each of (N, 2) blocks, x and y, is at the image's border."""
        (x, y), (height, width) = blocks.T, self.mask.shape
        left, top, right, bottom = self.borders
        return np.asarray(
            (left & (x == 0))
            | (top & (y == 0))
            | (right & (x == width - 1))
            | (bottom & (y == height - 1))
        )

    def lens(self, intrinsics: Intrinsics) -> Intrinsics:
        """Return the camera's intrinsics in blocks."""
        fx, fy, cx, cy = intrinsics
        step = self.step
        return Intrinsics(fx / step, fy / step, *self.to_blocks(Point(cx, cy)))

    def to_blocks(self, point: Point) -> tuple[float, float]:
        """Return the position of an image point: x and y in blocks."""
        return (point.x - self.left) / self.step, (point.y - self.top) / self.step

    def to_image(self, block: Pixel) -> Point:
        """Return the pixel in a block's middle."""
        row, column = block
        return Point(float(column * self.step + self.left), float(row * self.step + self.top))


def look_at(
    mask: Mask, depth: Depth, depth_range: tuple[float, float], min_valid: float
) -> RegionOfInterest:
    """Return the region around a mask. At the image's border the region ends, too.

    Args:
        mask: (H, W) bool, not empty.
        depth: (H, W) float32, metres.
        depth_range: Nearest and farthest valid depth, metres.
        min_valid: Share of a block's part of the mask that must have valid depth.
    """
    step = math.ceil(math.sqrt(np.count_nonzero(mask) / MAX_PIXELS))
    left, top, width, height = bounding_box(mask)
    rows, above = _window(top, top + height - 1, mask.shape[0], step)
    columns, before = _window(left, left + width - 1, mask.shape[1], step)
    mask = np.pad(mask[rows, columns], (above, before))
    depth = np.pad(depth[rows, columns], (above, before))
    valid = mask & np.isfinite(depth) & (depth >= depth_range[0]) & (depth <= depth_range[1])
    depth = np.where(valid, depth, np.float32(0))
    if step > 1:
        mask, depth, valid = _shrink(mask, depth, valid, step, min_valid)
    left, top = columns.start - before[0] + _middle(step), rows.start - above[0] + _middle(step)
    borders = (not before[0], not above[0], not before[1], not above[1])
    return RegionOfInterest(mask, depth, valid, left, top, step, borders)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """Return left column, top row, width and height of a mask that is not empty, in pixels."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return left, top, width, height


def add_border(mask: npt.NDArray[Any], pixels: int) -> npt.NDArray[np.uint8]:
    """Return a mask as 0 and 1, with so many empty pixels added on each side."""
    added = cv2.copyMakeBorder(mask.astype(np.uint8), *(pixels,) * 4, cv2.BORDER_CONSTANT)
    return np.asarray(added, np.uint8)


def _window(first: int, last: int, length: int, margin: int) -> tuple[slice, tuple[int, int]]:
    """Return the rows or columns of the mask, and the number of empty ones to add around them.

    If the mask touches the image's border, no empty rows or columns are added on that side,
    because the object may continue outside the image.
    """
    after = 2 * margin if last < length - 1 else 0  # half of it may complete a block
    return slice(first, last + 1), (margin if first > 0 else 0, after)


def _middle(step: int) -> int:
    """Return the index of the row or column that represents a block."""
    return (step - 1) // 2


def _shrink(
    mask: Mask, depth: Depth, valid: Mask, step: int, min_valid: float
) -> tuple[Mask, Depth, Mask]:
    """Reduce each block to one pixel; see ``RegionOfInterest``."""

    def blocks(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        height, width = pixels.shape[0] // step, pixels.shape[1] // step
        whole = pixels[: height * step, : width * step].reshape(height, step, width, step)
        return whole.swapaxes(1, 2).reshape(height, width, step * step)

    counts, sizes = blocks(valid).sum(axis=-1), blocks(mask).sum(axis=-1)
    used = (counts > 0) & (counts >= min_valid * sizes)
    # Invalid depths are zeros, so they come first after sorting.
    ordered = np.sort(blocks(depth)[used], axis=-1)
    median = step * step - 1 - counts[used] // 2
    shrunk = np.zeros(counts.shape, np.float32)
    shrunk[used] = np.take_along_axis(ordered, median[:, None], axis=-1)[:, 0]
    inside = blocks(mask)[..., _middle(step) * (step + 1)]
    return inside, shrunk, used & inside
