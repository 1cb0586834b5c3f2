# SPDX-License-Identifier: Apache-2.0
"""How far an object may reach behind what hides a part of it.

The outline of a convex body turns one way only. Behind an occluder, it therefore stays inside the
straight lines that continue the outline on both sides of the hidden part. An extent that those
lines hardly enlarge is that of the whole object.
"""

from __future__ import annotations

import cv2
import numpy as np

from segzero_core.grasping.camera_model import Floats
from segzero_core.grasping.visible_points import VisiblePoints
from segzero_core.types import Mask

TRIM = 4.0  # pixels of the outline next to a hidden part, which may be the occluder's own
BASE = 10.0  # pixels of the outline that are continued as a straight line
STRAY = 2  # hidden outline points; so few in one place are noise
FAR = 2.0  # times the object's size: where lines that do not meet are cut off


def hidden_reach(seen: VisiblePoints, directions: Floats) -> Floats:
    """Return by how much hidden parts may enlarge an object's extents, as if it were convex.

    Args:
        seen: The object.
        directions: (D, 3) unit vectors, camera optical frame.

    Returns:
        (D,) metres.
    """
    outline = seen.pixels[: len(seen.hidden)]
    limits = _limits(outline, seen.hidden)
    flat = directions[:, :2].T
    along, reached = outline @ flat, limits @ flat
    beyond = np.maximum(reached.max(axis=0, initial=-np.inf) - along.max(axis=0), 0)
    before = np.maximum(along.min(axis=0) - reached.min(axis=0, initial=np.inf), 0)
    # A pixel covers more of what leads away from the camera.
    away = directions @ seen.sight
    return np.asarray((beyond + before) * seen.pixel_size / np.maximum(1 - away**2, 0.1))


def _limits(outline: Floats, hidden: Mask) -> Floats:
    """Return (L, 2) pixels x, y: the corners of all that may be out of sight."""
    corners = outline[cv2.convexHull(outline.astype(np.float32), returnPoints=False)[:, 0]]
    middle = corners.mean(axis=0)
    angles = np.arctan2(*(corners - middle).T[::-1])
    order = np.argsort(angles)
    corners, angles = corners[order], angles[order]
    # The side of the hull below which each hidden point lies; -1 is the last one.
    below = np.searchsorted(angles, np.arctan2(*(outline[hidden] - middle).T[::-1])) - 1
    covered = np.bincount(below % len(corners), minlength=len(corners)) > STRAY
    if covered.all():
        return np.asarray(middle + FAR * (corners - middle))
    far = FAR * float(np.ptp(corners, axis=0).max())
    limits = [np.empty((0, 2))]
    for first in np.flatnonzero(covered & ~np.roll(covered, 1)):
        hidden_sides = int(np.argmin(np.roll(covered, -first)))
        # In sight are the corners after the hidden sides up to the next ones, and those before.
        after = np.roll(corners, -first - hidden_sides, axis=0)
        until = int(np.argmax(np.roll(covered, -first - hidden_sides)))
        before = np.roll(corners, -first - 1, axis=0)[::-1]
        since = int(np.argmax(np.roll(covered, -first)[::-1]))
        lines = _continue(after[: until + 1]), _continue(before[: since + 1])
        limits.append(_meet(*lines, far))
    return np.concatenate(limits)


def _continue(corners: Floats) -> tuple[Floats, Floats]:
    """Return where a line through (N, 2) corners is left at its first one, and the way there."""
    lengths = np.append(0.0, np.cumsum(np.hypot(*np.diff(corners, axis=0).T)))
    trim = min(TRIM, lengths[-1] / 3)
    start, back = np.column_stack(
        [np.interp([trim, trim + BASE], lengths, values) for values in corners.T]
    )
    return start, (start - back) / np.linalg.norm(start - back)


def _meet(one: tuple[Floats, Floats], other: tuple[Floats, Floats], far: float) -> Floats:
    """Return (L, 2) where two lines meet, or how far each leads if they do not."""
    (start, way), (end, back) = one, other
    sides = np.column_stack([way, -back])
    if abs(np.linalg.det(sides)) > 1e-6:
        steps = np.linalg.solve(sides, end - start)
        if (steps > 0).all():
            return np.asarray(start + steps[0] * way)[None]
    return np.array([start + far * way, end + far * back])
