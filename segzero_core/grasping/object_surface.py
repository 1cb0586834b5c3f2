# SPDX-License-Identifier: Apache-2.0
"""The pixels of a mask that are the object's own surface, told from leaks, gaps and outliers."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.errors import TargetError
from segzero_core.grasping.roi import Depth, RegionOfInterest, add_border, bounding_box
from segzero_core.types import Intrinsics, Mask

MIN_PIXELS = 12  # with usable depth; fewer say nothing about a surface
EDGE = 3.0  # pixels next to the outline, where sensors mix object and background
WINDOW = 3  # pixels on either side of one whose surroundings are judged
MAD_TO_SIGMA = 1.4826  # for a normal distribution
MIN_SPREAD = 0.01  # metres; below this, depth steps are the sensor's, not another object's
MIN_JUMP = 0.03  # share of the depth; a step this large between neighbours parts two surfaces


@dataclass(frozen=True)
class ObjectSurface:
    """The part of the mask that is the object.

    Attributes:
        region: (H, W) bool, the mask without pixels whose depth shows another object.
        surface: (H, W) bool, pixels of the region with a usable depth.
        pieces: (H, W) int32, which of the object's continuous surfaces a pixel belongs to.
        clearance: (H, W) float32, pixels to the outline or to a step in depth.
        depth: (H, W) float32, as measured.
        level: (H, W) float32, depth of the nearest surface pixel, smoothed.
        gap: (H, W) float32, pixels to that surface pixel.
    """

    region: Mask
    surface: Mask
    pieces: npt.NDArray[np.int32]
    clearance: npt.NDArray[np.float32]
    depth: Depth
    level: Depth
    gap: npt.NDArray[np.float32]


def find_surface(view: RegionOfInterest, lens: Intrinsics, min_valid: float) -> ObjectSurface:
    """Separate the object's surface from gaps, outliers and the excess of a leaking mask."""
    mask, depth = view.mask, view.depth
    inside = _distance_inside(mask)
    # Thin things keep their middle.
    inner = inside > min(EDGE / view.step, float(inside.max()) / 2)
    usable = inner & view.valid
    _check_coverage(inner, usable, min_valid)
    level = _smooth(depth, usable)
    steps = inner & _steps(level, usable)
    size = _across(mask, level[usable], lens)
    pieces, own = _own_pieces(inner & ~steps, usable, level, size)
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
    nearest, gap = _extend(level, surface)
    behind = view.valid & (depth > (1 + MIN_JUMP) * nearest)
    region = mask & ~_foreign(inner & ~steps, own, behind, EDGE / view.step)
    return ObjectSurface(
        region=region,
        surface=surface,
        pieces=pieces,
        clearance=_distance_inside(region & ~steps),
        depth=depth,
        level=nearest,
        gap=gap,
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


def _across(mask: Mask, depths: Depth, lens: Intrinsics) -> float:
    """Return about how many metres a mask is across, the shorter way."""
    _, _, width, height = bounding_box(mask)
    sides = height / lens.fy, width / lens.fx
    return float(min(sides) * np.median(depths))


def _own_pieces(
    smooth: Mask, usable: Mask, level: Depth, size: float
) -> tuple[npt.NDArray[np.int32], Mask]:
    """Split the mask into continuous surfaces; return them and which pixels are the object's.

    A surface belongs to the object as a whole or not at all, so that a long thing seen from its
    end keeps both ends: median and MAD judge the surfaces' own medians. Masks leak to what lies
    behind an object. A surface before the others is therefore the object's own, such as the near
    wall of a bowl, unless it is nearer by more than ``size``, metres.
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
        behind = np.median(level[here]) - middle
        keep[piece] = -max(band, size) <= behind <= band
    keep[int(np.argmax(sizes))] = True
    keep[0] = False
    return pieces, keep[pieces]


def _foreign(smooth: Mask, own: Mask, behind: Mask, edge: float) -> Mask:
    """Return where the mask shows something else, with the edges of that."""
    foreign = smooth & ~own
    if not foreign.any():
        return foreign
    side = 2 * round(edge + 2) + 1
    box = np.ones((side, side), np.uint8)
    reached, kept = (cv2.dilate(part.astype(np.uint8), box) for part in (foreign, smooth & own))
    return foreign | ((reached > 0) & ((kept == 0) | behind))


def _distance_inside(mask: Mask) -> npt.NDArray[np.float32]:
    """Return each pixel's distance to the outline, in pixels; the image's border is outline."""
    return cv2.distanceTransform(add_border(mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]


def _extend(values: Depth, where: Mask) -> tuple[Depth, npt.NDArray[np.float32]]:
    """Return for every pixel the value of the nearest one in ``where``, and how far that is."""
    distance, labels = cv2.distanceTransformWithLabels(
        (~where).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(labels.max() + 1, np.float32)
    table[labels[where]] = values[where]
    return table[labels], distance


def _smooth(depth: Depth, usable: Mask) -> Depth:
    """Return the local median of the usable depth, gaps closed from their rims."""
    return cv2.medianBlur(_extend(depth, usable)[0], 5)


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
