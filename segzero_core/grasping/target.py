# SPDX-License-Identifier: Apache-2.0
"""Mask + depth + calibration -> where in space to reach, and how wide it is. Knows no ROS.

Everything is in the camera optical frame (REP 103: x right, y down, z forward), in metres. The
depth image is registered to the colour image: same size, same pixel, same ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.errors import TargetError
from segzero_core.grasping.camera_model import Distortion, check_lens, rays
from segzero_core.grasping.gripper_width import Pixel, narrowest, principal_axis
from segzero_core.grasping.roi import Depth, RegionOfInterest, look_at
from segzero_core.types import Intrinsics, Mask, Point

Metres = tuple[float, float, float]

MIN_PIXELS = 12  # with usable depth; fewer say nothing about a surface
EDGE = 3.0  # pixels next to the outline, where sensors mix object and background
WINDOW = 3  # a depth is fitted to up to 7 x 7 pixels; a single one is too noisy
MAD_TO_SIGMA = 1.4826  # for a normal distribution
MIN_SPREAD = 0.01  # metres; below this, depth steps are the sensor's, not another object's
MIN_JUMP = 0.03  # share of the depth; a step this large between neighbours parts two surfaces


@dataclass(frozen=True)
class GraspTarget:
    """Where to reach.

    Attributes:
        point: The best point to grasp, metres, camera optical frame unless ``frame_id`` is set.
        points: The reasoner's points, each moved to the nearest pixel of the object that has a
            trustworthy depth; metres, in the same frame.
        pixel: Pixel of ``point``, on the mask.
        pixels: Pixels of ``points``, on the mask.
        width: Metres across the visible object at ``point``, where it is narrowest; ``None`` if
            the image's border cuts the object in every direction.
        closing: Unit vector in the image (x, y), x >= 0, along which ``width`` was measured: the
            way a gripper would close. ``None`` without ``width``.
        axis: Unit vector in the image (x, y), x >= 0, along which the object is longest;
            ``None`` if it is about as wide as long.
        frame_id: Of ``point`` and ``points``, where it is not the camera's.
    """

    point: Metres
    points: tuple[Metres, ...]
    pixel: Point
    pixels: tuple[Point, ...]
    width: float | None = None
    closing: Point | None = None
    axis: Point | None = None
    frame_id: str | None = None


def find_target(
    mask: Mask,
    depth: Depth,
    intrinsics: Intrinsics,
    points: Sequence[Point],
    depth_range: tuple[float, float] = (0.1, 10.0),
    min_valid: float = 0.2,
    distortion: Distortion | None = None,
) -> GraspTarget:
    """Find the metric points of what ``mask`` shows.

    The best one is the reasoner's point that lies deepest inside the object; when both lie near
    its outline it is the centre of the largest circle that fits the object's surface. All are
    pixels of the mask with a depth that belongs to the object, so that rings and hooks are not
    missed.

    Args:
        mask: (H, W) bool.
        depth: (H, W) float32, metres along the optical axis; 0, NaN and infinity are invalid.
        intrinsics: Of the camera, in pixels of ``mask``.
        points: The reasoner's points, in pixels of ``mask``.
        depth_range: Nearest and farthest depth to believe, metres.
        min_valid: Share of the object, and of each point's surroundings, that must have depth.
        distortion: Of the lens; ``None`` for rectified images.

    Raises:
        TargetError: There is none; its ``kind`` and message say why.
        CalibrationError: ``intrinsics`` or ``distortion`` cannot be used.
    """
    check_lens(intrinsics, distortion)
    _check(mask, depth)
    view = look_at(mask, depth, depth_range, min_valid)
    lens = view.lens(intrinsics)
    body = _find_body(view, min_valid)
    pixels = [_nearest(body.surface, *view.to_blocks(point)) for point in points]
    best = _best(pixels, body)
    chosen = [best, *pixels]
    lines = rays([pixel[::-1] for pixel in chosen], lens, distortion)
    depths = [_local_depth(pixel, body) for pixel in chosen]
    places = [(float(x * z), float(y * z), z) for (x, y), z in zip(lines, depths, strict=True)]
    width, closing = narrowest(best, body.region, body.level, lens, distortion)
    named = [view.to_image(pixel) for pixel in chosen]
    return GraspTarget(
        point=places[0],
        points=tuple(places[1:]),
        pixel=named[0],
        pixels=tuple(named[1:]),
        width=width,
        closing=closing,
        axis=principal_axis(body.region),
    )


@dataclass(frozen=True)
class _Body:
    """What of the mask is the object.

    Attributes:
        region: (H, W) bool, the mask without what its depth gives away as something else.
        surface: (H, W) bool, pixels of the region with a depth worth using.
        pieces: (H, W) int32, which of the object's continuous surfaces a pixel belongs to.
        clearance: (H, W) float32, pixels to the outline or to a step in depth.
        depth: (H, W) float32, as measured.
        level: (H, W) float32, depth of the surface nearby, smoothed.
    """

    region: Mask
    surface: Mask
    pieces: npt.NDArray[np.int32]
    clearance: npt.NDArray[np.float32]
    depth: Depth
    level: Depth


def _check(mask: Mask, depth: Depth) -> None:
    if depth.shape != mask.shape:
        raise TargetError(
            'size_mismatch',
            f'depth is {depth.shape[1]} x {depth.shape[0]} pixels, the image is '
            f'{mask.shape[1]} x {mask.shape[0]}: use depth registered to the image',
        )
    if not mask.any():
        raise TargetError('empty_mask', 'the mask has no pixel')


def _find_body(view: RegionOfInterest, min_valid: float) -> _Body:
    """Tell the object's surface from gaps, outliers and what a leaking mask adds."""
    mask, depth = view.mask, view.depth
    inside = _distance_inside(mask)
    # Thin things keep their middle.
    inner = inside > min(EDGE / view.step, float(inside.max()) / 2)
    usable = inner & view.valid
    _check_coverage(inner, usable, min_valid)
    level = _smooth(depth, usable)
    steps = inner & _steps(level, usable)
    pieces, own = _own_pieces(inner & ~steps, usable, level)
    off = np.abs(depth - level)
    spread = MAD_TO_SIGMA * float(np.median(off[usable & own]))
    surface = usable & own & (off <= 3 * max(spread, MIN_SPREAD / 10))
    surface &= _share(surface, inner) >= min_valid
    count = np.count_nonzero(surface)
    if count < MIN_PIXELS:
        raise TargetError(
            'too_few_pixels',
            f'only {count} pixels of the mask have a trustworthy depth, {MIN_PIXELS} are needed',
        )
    region = mask & ~(inner & ~steps & ~own)
    return _Body(
        region=region,
        surface=surface,
        pieces=pieces,
        clearance=_distance_inside(region & ~steps),
        depth=depth,
        level=_extend(level, surface),
    )


def _check_coverage(inner: Mask, usable: Mask, min_valid: float) -> None:
    count, total = np.count_nonzero(usable), np.count_nonzero(inner)
    if count == 0:
        raise TargetError('no_valid_depth', 'no pixel of the mask has a depth in range')
    if count < MIN_PIXELS:
        raise TargetError(
            'too_few_pixels',
            f'only {count} pixels of the mask have a depth in range, {MIN_PIXELS} are needed',
        )
    if count < min_valid * total:
        raise TargetError(
            'sparse_depth',
            f'only {count / total:.1%} of the mask has a depth in range, {min_valid:.1%} is '
            'needed (depth.min_valid)',
        )


def _own_pieces(smooth: Mask, usable: Mask, level: Depth) -> tuple[npt.NDArray[np.int32], Mask]:
    """Split the mask into continuous surfaces; return them and which pixels are the object's.

    A surface belongs to the object as a whole or not at all, so that a long thing seen from its
    end keeps both ends: median and MAD judge the surfaces' own medians.
    """
    count, pieces = cv2.connectedComponents(smooth.astype(np.uint8), connectivity=4)
    samples = level[usable & smooth]  # at least half of what is usable
    middle = np.median(samples)
    spread = MAD_TO_SIGMA * np.median(np.abs(samples - middle))
    band = 3 * max(float(spread), MIN_SPREAD)
    sizes = np.bincount(pieces[usable], minlength=count)
    sizes[0] = 0  # what belongs to no surface
    keep = np.zeros(count, bool)
    for piece in np.flatnonzero(sizes):
        here = usable & (pieces == piece)
        keep[piece] = abs(np.median(level[here]) - middle) <= band
    keep[int(np.argmax(sizes))] = True
    keep[0] = False
    return pieces, keep[pieces]


def _distance_inside(mask: Mask) -> npt.NDArray[np.float32]:
    """Return each pixel's distance to the outline, in pixels; the image's border is outline."""
    return cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]


def _extend(values: Depth, where: Mask) -> Depth:
    """Give every pixel the value of the nearest one in ``where``."""
    _, labels = cv2.distanceTransformWithLabels(
        (~where).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(labels.max() + 1, np.float32)
    table[labels[where]] = values[where]
    return table[labels]


def _smooth(depth: Depth, usable: Mask) -> Depth:
    """Return the local median of the usable depth, gaps closed from their rims."""
    return cv2.medianBlur(_extend(depth, usable), 5)


def _steps(level: Depth, usable: Mask) -> Mask:
    """Return where depth jumps: rims, behind which sensors invent pixels in mid-air."""
    box = np.ones((3, 3), np.uint8)
    jump = cv2.dilate(level, box) - cv2.erode(level, box)
    # A surface seen at a grazing angle is all slope: there, a step is what is steeper still.
    return jump > np.maximum(MIN_JUMP * level, 3 * np.median(jump[usable]))


def _share(part: Mask, whole: Mask) -> npt.NDArray[np.float32]:
    """Return how much of ``whole`` around each pixel is in ``part``, 0 to 1."""
    size = (2 * WINDOW + 1, 2 * WINDOW + 1)
    near, all_near = (
        cv2.blur(mask.astype(np.float32), size, borderType=cv2.BORDER_CONSTANT)
        for mask in (part, whole)
    )
    return near / np.maximum(all_near, 1e-6)


def _best(pixels: Sequence[Pixel], body: _Body) -> Pixel:
    """Return the pixel to grasp: the deepest inside of ``pixels``, or of all the surface."""
    flat = int(np.argmax(np.where(body.surface, body.clearance, -1.0)))
    row, column = divmod(flat, body.surface.shape[1])
    if pixels:
        deepest = max(pixels, key=lambda pixel: body.clearance[pixel])
        if body.clearance[deepest] >= body.clearance[row, column] / 3:
            return deepest
    return row, column


def _nearest(surface: Mask, x: float, y: float) -> Pixel:
    """Return the surface pixel nearest to a point."""
    rows, columns = np.nonzero(surface)
    i = int(np.argmin((columns - x) ** 2 + (rows - y) ** 2))
    return int(rows[i]), int(columns[i])


def _local_depth(pixel: Pixel, body: _Body) -> float:
    """Return the depth at a surface pixel of the plane that fits the surface around it.

    A median would do on surfaces that face the camera; on tilted ones it leans to the side that
    has more pixels. Over the image, it is the inverse of a plane's depth that is linear.
    """
    row, column = pixel
    window = (
        slice(max(row - WINDOW, 0), row + WINDOW + 1),
        slice(max(column - WINDOW, 0), column + WINDOW + 1),
    )
    used = body.surface[window] & (body.pieces[window] == body.pieces[pixel])
    dy, dx = np.nonzero(used)
    inverse = 1 / body.depth[window][used].astype(np.float64)
    y, x = dy + window[0].start - row, dx + window[1].start - column
    plane, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(x)), x, y]), inverse, rcond=None)
    # Between its neighbours' depths: noise in a row of pixels leaves the plane free to swing.
    return float(1 / np.clip(plane[0], inverse.min(), inverse.max()))
