# SPDX-License-Identifier: Apache-2.0
"""The opening width of a gripper for an object, and the closing direction.

A *closing* is a direction in space along which two jaws move towards each other. The object's
extent along a closing is known if both ends of the object are visible. Perpendicular to the line
of sight this is always the case, because both ends are on the outline. Along a direction that also
leads away from the camera, the far end may be hidden behind the visible part. Such an extent
counts as measured only if the object is widest at the height of the visible end: the rim of a
bowl, the lid of a can, the upper face of a box, but not a ball or a cone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from segzero_core.errors import TargetError
from segzero_core.grasping.camera_model import Floats
from segzero_core.grasping.hidden_parts import hidden_reach
from segzero_core.grasping.visible_points import VisiblePoints
from segzero_core.types import Mask, Point

Bound = Literal['measured', 'lower']

DIRECTIONS = 36  # in each of the two planes in which closings are tried
VALLEY = 0.02  # widths larger by this share are as good as the least
ROUND = 1.15  # length over width; below this, an object has no axis
ACROSS = 0.1  # cosine to the line of sight; below this, a direction leads across it
END = 0.04  # share of a width: points so near an end belong to it
TOP = 0.12  # share of an object's height; an end so far below its top is on top
CUT_SHARE = 0.2  # of an end's outermost points; where more are cut, so is the end
LOST = 0.35  # share of an end's points; where more are hidden, the end is not known
DOUBT, FLAT = 0.09, 0.1  # shares of a width: what depth may leave open; how high a flat thing is
BEHIND = 0.03  # share of a width that may be out of sight
SLACK = 0.04  # share of a width by which the far end may fall short
# Shares by which a closing must be narrower to be taken although it leads away from the camera,
# or out of the plane that the object stands on.
AWAY_COST, TILT_COST = 0.3, 2.0


@dataclass(frozen=True)
class GripperWidth:
    """An object's extent along one closing.

    Attributes:
        metres: From end to end.
        closing: (3,) unit vector, camera optical frame.
        bound: ``measured``, or ``lower`` where the object may be wider than ``metres``.
        ends: (2,) indices of the two outermost of the points.
    """

    metres: float
    closing: Floats
    bound: Bound
    ends: tuple[int, int]


def measure_width(seen: VisiblePoints, up: Floats | None) -> GripperWidth | TargetError:
    """Choose the closing in which the object is narrowest and its width best known.

    Args:
        seen: The object.
        up: (3,) unit normal of the plane the object stands on; ``None`` if that is unknown.

    Returns:
        Its width, or why it cannot be known: ``width_cut`` if the image's border cuts the object
        in every direction, ``width_unmeasured`` if depth is missing at its ends.
    """
    closings, away, tilt = _candidates(seen, up)
    widths, known, cut = measure_extents(seen, closings, up)
    if cut.all():
        message = "the image's border cuts the object in every direction: move the camera"
        return TargetError('width_cut', message)
    whole = ~cut & ~_unmeasured_ends(seen, closings)
    if not whole.any():
        message = "no depth was measured near the object's ends"
        return TargetError('width_unmeasured', message)
    wanted = whole & known if (whole & known).any() else whole
    # A flat thing that lies on its plane hides nothing behind itself.
    flat = up is not None and np.ptp(seen.points @ up) < FLAT * widths.min()
    costs = 1 + TILT_COST * tilt + (0 if flat else AWAY_COST * (away + (away > ACROSS)))
    weighted = np.where(wanted, widths * costs, np.inf)
    best = int(np.argmin(weighted))
    family = slice(0, DIRECTIONS) if best < DIRECTIONS else slice(DIRECTIONS, None)
    first = family.start
    best = first + _middle_of_least(weighted[family], best - first, 0.5 * seen.pixel_size)
    along = seen.points @ closings[best]
    return GripperWidth(
        metres=float(widths[best]),
        closing=closings[best],
        bound='measured' if known[best] else 'lower',
        ends=(int(np.argmin(along)), int(np.argmax(along))),
    )


def measure_extents(
    seen: VisiblePoints, directions: Floats, up: Floats | None
) -> tuple[Floats, Mask, Mask]:
    """Measure an object along several directions.

    Args:
        seen: The object.
        directions: (D, 3) unit vectors.
        up: As in ``measure_width``.

    Returns:
        (D,) metres from end to end; (D,) whether both ends are those of the object, as far as can
        be seen; (D,) whether the image's border cuts one of them off.
    """
    sight, count = seen.sight, len(seen.cut)
    leading = np.where(directions @ sight < 0, -1.0, 1.0)
    along = seen.points @ (directions * leading[:, None]).T  # far ends are the larger values
    low, high = along.min(axis=0), along.max(axis=0)
    widths = high - low
    tolerance = np.maximum(END * widths, seen.pixel_size)
    far = along > high - tolerance
    ends = np.stack([along[:count] < low + tolerance, far[:count]])
    at_ends = np.maximum(ends.sum(axis=1), 1)
    blocked = ((ends & seen.hidden[:, None]).sum(axis=1) > LOST * at_ends).any(axis=0)
    if seen.mostly_hidden:
        blocked[:] = True
    elif seen.hidden.any():
        blocked |= hidden_reach(seen, directions) > BEHIND * widths
    cut = _are_cut(along[:count], seen)
    away = np.abs(directions @ sight)
    far_known, lies_flat = away < ACROSS, np.zeros(len(away), bool)
    if up is not None and not far_known.all():
        heights = seen.points @ up
        lies_flat = np.asarray(np.ptp(heights) < FLAT * widths)
        # At the outline of a rounded surface, depth changes by this much within three pixels.
        doubt = away * np.sqrt(3 * seen.pixel_size / np.maximum(widths, seen.pixel_size))
        unsure = np.flatnonzero(~far_known & ((doubt < DOUBT) | lies_flat))
        end_height = np.where(far[:, unsure], heights[:, None], -np.inf).max(axis=0)
        drop = TOP * float(np.ptp(heights)) + seen.noise + 0.5 * seen.pixel_size
        band = heights[:, None] >= end_height - drop
        near_at_height = np.where(band, along[:, unsure], np.inf).min(axis=0)
        falls_short = near_at_height - low[unsure] >= SLACK * widths[unsure]
        far_known[unsure] = (end_height > heights.max() - drop) & ~falls_short
    # A square was eroded; and the outermost pixels' middles lie inside by half their spacing.
    flat = np.abs(directions[:, :2])
    margin = flat.max(axis=1) + 2 * seen.inset * flat.sum(axis=1)
    # A pixel covers more of a flat thing that leads away.
    margin = np.where(lies_flat, margin / np.maximum(1 - away**2, 0.1), margin)
    widths = widths + seen.pixel_size * margin
    return widths, far_known & ~blocked, cut


def _are_cut(along: Floats, seen: VisiblePoints) -> Mask:
    """Return (D,) whether outline points on the image's border are the outermost of an end."""
    if not seen.cut.any():
        return np.zeros(along.shape[1], bool)
    if seen.cut.all():
        return np.ones(along.shape[1], bool)
    parts, slack = (seen.cut[:, None], ~seen.cut[:, None]), 0.1 * seen.pixel_size
    lost = np.zeros(along.shape[1], bool)
    for distances in (along - along.min(axis=0), along.max(axis=0) - along):
        cut, free = (np.where(part, distances, np.inf).min(axis=0) for part in parts)
        # Of a long bar's edge, the one pixel at the border says nothing.
        at_end = distances < 1.5 * seen.pixel_size
        share = (at_end & parts[0]).sum(axis=0) / at_end.sum(axis=0)
        lost |= (cut < free - slack) & (share > CUT_SHARE)
    return lost


def _unmeasured_ends(seen: VisiblePoints, directions: Floats) -> Mask:
    """Return (D,) whether depth is missing near one of the two ends along each direction."""
    if not seen.unmeasured.any():
        return np.zeros(len(directions), bool)
    along = seen.outline @ directions.T
    first, last = np.argmin(along, axis=0), np.argmax(along, axis=0)
    return np.asarray(seen.unmeasured[first] | seen.unmeasured[last])


def _candidates(seen: VisiblePoints, up: Floats | None) -> tuple[Floats, Floats, Floats]:
    """Return (D, 3) closings to try; (D,) cosines to the line of sight and to ``up``."""
    sight = seen.sight
    axis = -sight if up is None else up
    across = np.cross(axis, sight)
    size = float(np.linalg.norm(across))
    if size < 0.05:  # the camera looks straight down
        across = np.cross(sight, (0.0, 1.0, 0.0))
        size = float(np.linalg.norm(across))
    across /= size
    angles = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    planes = []
    for normal in (axis, sight):
        first = across - (across @ normal) * normal
        first /= np.linalg.norm(first)
        side = np.cross(normal, first)
        # One of them is exactly across a long thin object, where a degree makes a difference.
        turned = angles + _thin_way(seen.points @ np.column_stack([first, side]))
        planes.append(np.cos(turned)[:, None] * first + np.sin(turned)[:, None] * side)
    closings = np.concatenate(planes)
    return closings, np.abs(closings @ sight), np.abs(closings @ axis)


def _thin_way(points: Floats) -> float:
    """Return the angle of the direction in which (N, 2) points spread least, radians."""
    points = points - points.mean(axis=0)
    (xx, xy), (_, yy) = points.T @ points
    return float(np.arctan2(2 * xy, xx - yy) / 2 + np.pi / 2)


def _middle_of_least(values: Floats, least: int, slack: float) -> int:
    """Return the index in the middle of the valley around a circle's smallest value.

    The very smallest depends on how the outline happens to fall on the pixels: ``slack``.
    """
    valley = np.roll(values <= (1 + VALLEY) * values[least] + slack, -least)
    if valley.all():
        return least
    ahead, behind = int(np.argmin(valley)) - 1, int(np.argmin(valley[::-1]))
    return (least + (ahead - behind) // 2) % len(values)


def principal_axis(region: Mask) -> Point | None:
    """Return the unit vector in the image (x, y), x >= 0, along which a region is longest.

    ``None`` if it is about as wide as long.

    Args:
        region: (H, W) bool, at least two pixels.
    """
    m = cv2.moments(region.astype(np.uint8), binaryImage=True)
    spread, axes = np.linalg.eigh([[m['mu20'], m['mu11']], [m['mu11'], m['mu02']]])
    if spread[1] < ROUND**2 * spread[0]:
        return None
    x, y = axes[:, 1] * (1 if axes[0, 1] >= 0 else -1)
    return Point(float(x), float(y))
