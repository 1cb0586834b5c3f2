# SPDX-License-Identifier: Apache-2.0
"""Tell hollow things, and find where their rim can be grasped."""

from __future__ import annotations

import cv2
import numpy as np

from segzero_core.grasping.gripper_width import GripperWidth
from segzero_core.grasping.object_surface import MAD_TO_SIGMA, ObjectSurface
from segzero_core.grasping.roi import Pixel, add_border
from segzero_core.grasping.visible_points import VisiblePoints

LINES = 24  # rows, and columns, of the image in which the surface is compared with a chord
SAG, SIGMAS = 0.1, 4.0  # share of the width, times the noise, by which a hollow lies behind
SHARE = 0.1  # of the compared pixels that must lie behind their chord
HOLE = 0.12  # share of the filled outline; larger holes make a ring
AT_END = 0.06  # share of the width: the rim's points are so near the end of the closing
RIM_REACH = 6.0  # pixels from the rim's outermost point to where it is grasped


def is_hollow(surface: ObjectSurface, width: float) -> bool:
    """Return whether an object is hollow: a bowl, a cup, a ring.

    A convex body lies in front of every straight line between two points of its visible surface.
    Where a good part of the surface lies far behind such lines, there is a cavity; where the mask
    has a large hole, there is a ring. Neither needs to know where up is.

    Args:
        surface: The object.
        width: Width of the object, metres. A depression that is small compared with the width is
            no cavity.
    """
    return _has_hole(surface) or _sags(surface, width)


def _has_hole(surface: ObjectSurface) -> bool:
    region = add_border(surface.region, 1)
    contours, hierarchy = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    areas = np.array([cv2.contourArea(contour) for contour in contours])
    inner = hierarchy[0, :, 3] >= 0
    return bool(areas[inner].max(initial=0) > HOLE * areas[~inner].sum())


def _sags(surface: ObjectSurface, width: float) -> bool:
    """Compare the inverse depth along rows and columns, in which a straight line is straight."""
    noise = MAD_TO_SIGMA * float(
        np.median(np.abs(surface.depth - surface.level)[surface.surface])
    )  # of a pixel; smoothing leaves a third of it
    least = max(SAG * width, SIGMAS * noise / 3)
    behind = compared = 0
    for usable, level in (
        (surface.surface, surface.level),
        (surface.surface.T, surface.level.T),
    ):
        rows = np.flatnonzero(usable.any(axis=1))
        rows = rows[:: -(-len(rows) // LINES)]
        usable, inverse = usable[rows], 1 / level[rows].astype(np.float64)
        first = np.argmax(usable, axis=1)
        last = usable.shape[1] - 1 - np.argmax(usable[:, ::-1], axis=1)
        start, end = (inverse[np.arange(len(rows)), at][:, None] for at in (first, last))
        columns = np.arange(usable.shape[1])
        share = (columns - first[:, None]) / np.maximum(last - first, 1)[:, None]
        sag = 1 / inverse - 1 / (start + share * (end - start)).clip(1e-6)
        behind += np.count_nonzero(usable & (sag > least))
        compared += np.count_nonzero(usable)
    return behind > SHARE * compared


def rim_pixel(surface: ObjectSurface, seen: VisiblePoints, width: GripperWidth) -> Pixel:
    """Return the surface pixel at which to grasp the rim.

    It lies at one end of the closing, so that the jaws close across the wall there: at the end
    whose rim is nearer to the camera, a few pixels from the outline, where depth can be trusted.
    """
    along = seen.outline @ width.closing
    reach = AT_END * width.metres
    best, least = (0, 0), np.inf
    rows, columns = np.nonzero(surface.surface)
    for at_end in (along < along.min() + reach, along > along.max() - reach):
        ends = np.flatnonzero(at_end)
        nearest = ends[int(np.argmin(seen.outline[ends, 2]))]
        x, y = seen.pixels[nearest]
        distance = np.hypot(columns - x, rows - y)
        close = distance <= distance.min() + RIM_REACH
        candidate = int(np.argmax(np.where(close, surface.clearance[rows, columns], -1.0)))
        if seen.outline[nearest, 2] + 1e-3 * distance.min() < least:
            least = float(seen.outline[nearest, 2] + 1e-3 * distance.min())
            best = int(rows[candidate]), int(columns[candidate])
    return best
