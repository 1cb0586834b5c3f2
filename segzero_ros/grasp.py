# SPDX-License-Identifier: Apache-2.0
"""Mask + depth + intrinsics -> where in space to reach. Plain numpy; knows no ROS.

Everything is in the camera optical frame (REP 103: x right, y down, z forward), in metres. The
depth image is registered to the colour image: same size, same pixel, same ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.errors import SegZeroError
from segzero_core.types import Intrinsics, Mask, Point

Depth = npt.NDArray[np.float32]
Metres = tuple[float, float, float]

MIN_PIXELS = 12  # with usable depth; fewer say nothing about a surface
EDGE = 3  # pixels next to the outline, where sensors mix object and background
WINDOW = 3  # a depth is the median of up to 7 x 7 pixels; a single one is too noisy
MAD_TO_SIGMA = 1.4826  # for a normal distribution
MIN_SPREAD = 0.01  # metres; below this, depth steps are the sensor's, not another object's


class TargetError(SegZeroError):
    """There is no metric target.

    Attributes:
        kind: One of ``TargetError.KINDS``.
    """

    KINDS = (
        'no_depth',  # no depth image belongs to the frame
        'no_camera_info',  # no calibration has come
        'bad_intrinsics',  # a focal length is zero or not finite
        'size_mismatch',  # depth and mask differ in size: the depth is not registered
        'empty_mask',  # nothing was segmented
        'no_valid_depth',  # the sensor measured nothing in range on the object
        'too_few_pixels',  # it measured too little to trust
    )

    def __init__(self, kind: str, message: str) -> None:
        """Remember ``kind``.

        Raises:
            ValueError: ``kind`` is not in ``KINDS``.
        """
        if kind not in self.KINDS:
            raise ValueError(f'unknown TargetError kind {kind!r}; one of {", ".join(self.KINDS)}')
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Target:
    """Where to reach.

    Attributes:
        point: The best point to grasp, metres, camera optical frame.
        points: The reasoner's points, each moved to the nearest pixel of the object that has a
            trustworthy depth; metres, camera optical frame.
        pixel: Pixel of ``point``, on the mask.
        pixels: Pixels of ``points``, on the mask.
    """

    point: Metres
    points: tuple[Metres, ...]
    pixel: Point
    pixels: tuple[Point, ...]


def find_target(
    mask: Mask,
    depth: Depth,
    intrinsics: Intrinsics,
    points: Sequence[Point],
    depth_range: tuple[float, float] = (0.1, 10.0),
) -> Target:
    """Find the metric points of what ``mask`` shows.

    The best one is the reasoner's point that lies deepest inside the object; when both lie near
    its outline it is the centre of the object's largest inscribed circle. All are pixels of the
    mask with a depth that belongs to the object, so that rings and hooks are not missed.

    Args:
        mask: (H, W) bool.
        depth: (H, W) float32, metres along the optical axis; 0, NaN and infinity are invalid.
        intrinsics: Of the camera, in pixels of ``mask``.
        points: The reasoner's points, in pixels of ``mask``.
        depth_range: Nearest and farthest depth to believe, metres.

    Raises:
        TargetError: There is none; its ``kind`` and message say why.
    """
    _check(mask, depth, intrinsics)
    valid = np.isfinite(depth) & (depth >= depth_range[0]) & (depth <= depth_range[1])
    surface = _surface(mask, depth, valid)
    clearance = _clearance(mask, valid & ~surface)
    pixels = [_nearest(surface, point) for point in points]
    best = _peak(surface, clearance)
    if pixels:
        deepest = max(pixels, key=lambda pixel: clearance[pixel])
        if clearance[deepest] >= 0.5 * clearance[best]:
            best = deepest

    def locate(pixel: tuple[int, int]) -> Metres:
        return deproject(pixel, _local_depth(pixel, depth, surface), intrinsics)

    return Target(
        point=locate(best),
        points=tuple(locate(pixel) for pixel in pixels),
        pixel=_as_point(best),
        pixels=tuple(_as_point(pixel) for pixel in pixels),
    )


def deproject(pixel: tuple[int, int], depth: float, intrinsics: Intrinsics) -> Metres:
    """Return the point at ``depth`` metres along the ray of ``pixel`` (row, column)."""
    row, column = pixel
    return (
        (column - intrinsics.cx) / intrinsics.fx * depth,
        (row - intrinsics.cy) / intrinsics.fy * depth,
        depth,
    )


def _check(mask: Mask, depth: Depth, intrinsics: Intrinsics) -> None:
    if not np.isfinite(intrinsics).all() or intrinsics.fx <= 0 or intrinsics.fy <= 0:
        raise TargetError(
            'bad_intrinsics',
            f'no usable focal length in {tuple(intrinsics)}: is the camera calibrated?',
        )
    if depth.shape != mask.shape:
        raise TargetError(
            'size_mismatch',
            f'depth is {depth.shape[1]} x {depth.shape[0]} pixels, the image is '
            f'{mask.shape[1]} x {mask.shape[0]}: use depth registered to the image',
        )
    if not mask.any():
        raise TargetError('empty_mask', 'the mask has no pixel')


def _surface(mask: Mask, depth: Depth, valid: Mask) -> Mask:
    """Return the pixels of the object whose depth agrees with most of it."""
    inner = _erode(mask) & valid
    usable = inner if np.count_nonzero(inner) >= MIN_PIXELS else mask & valid
    count = np.count_nonzero(usable)
    if count == 0:
        raise TargetError('no_valid_depth', 'no pixel of the mask has a depth in range')
    if count < MIN_PIXELS:
        raise TargetError(
            'too_few_pixels',
            f'only {count} pixels of the mask have a depth in range, {MIN_PIXELS} are needed',
        )
    samples = depth[usable]
    middle = np.median(samples)
    spread = MAD_TO_SIGMA * np.median(np.abs(samples - middle))
    # Three sigma keeps the object's own shape; what a leaking mask adds lies farther off.
    return usable & (np.abs(depth - middle) <= 3 * max(spread, MIN_SPREAD))


def _erode(mask: Mask) -> Mask:
    """Take the outline off; the image's border counts as outline."""
    size = 2 * EDGE + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.erode(mask.astype(np.uint8), disc, borderValue=0).astype(bool)


def _clearance(mask: Mask, foreign: Mask) -> npt.NDArray[np.float32]:
    """Return each pixel's distance, in pixels, to what is not the object.

    Missing depth inside the mask does not count as foreign, single noisy pixels neither.
    """
    foreign = cv2.morphologyEx(
        (foreign & _erode(mask)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)
    ).astype(bool)
    framed = np.pad((mask & ~foreign).astype(np.uint8), 1)
    return cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]


def _peak(surface: Mask, clearance: npt.NDArray[np.float32]) -> tuple[int, int]:
    """Return (row, column) of the surface pixel with the most clearance."""
    flat = int(np.argmax(np.where(surface, clearance, -1.0)))
    row, column = divmod(flat, surface.shape[1])
    return row, column


def _nearest(surface: Mask, point: Point) -> tuple[int, int]:
    """Return (row, column) of the surface pixel nearest to ``point``."""
    rows, columns = np.nonzero(surface)
    i = int(np.argmin((columns - point.x) ** 2 + (rows - point.y) ** 2))
    return int(rows[i]), int(columns[i])


def _local_depth(pixel: tuple[int, int], depth: Depth, surface: Mask) -> float:
    """Return the median depth of the surface around one of its pixels."""
    row, column = pixel
    rows = slice(max(row - WINDOW, 0), row + WINDOW + 1)
    columns = slice(max(column - WINDOW, 0), column + WINDOW + 1)
    return float(np.median(depth[rows, columns][surface[rows, columns]]))


def _as_point(pixel: tuple[int, int]) -> Point:
    return Point(float(pixel[1]), float(pixel[0]))
