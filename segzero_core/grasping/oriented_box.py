# SPDX-License-Identifier: Apache-2.0
"""The oriented box around the visible part of an object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segzero_core.grasping.camera_model import Floats
from segzero_core.grasping.gripper_width import Bound, measure_extents
from segzero_core.grasping.visible_points import VisiblePoints

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class OrientedBox:
    """A box around the visible part of an object.

    Attributes:
        centre: Metres.
        axes: Three unit vectors, perpendicular to one another and right-handed. The first is the
            closing where the width is known; the third leads out of the plane that the object
            stands on, or towards the camera, as nearly as the first allows.
        extents: Metres along each axis.
        bounds: For each extent, ``measured`` where it is the whole object's, ``lower`` where a
            part may be out of sight.
    """

    centre: Triple
    axes: tuple[Triple, Triple, Triple]
    extents: Triple
    bounds: tuple[Bound, Bound, Bound]


def enclose(seen: VisiblePoints, closing: Floats | None, up: Floats | None) -> OrientedBox:
    """Return the box around the visible points.

    Args:
        seen: The object.
        closing: (3,) unit vector for the first axis; ``None`` = across the line of sight.
        up: (3,) unit normal of the plane the object stands on; ``None`` if that is unknown.
    """
    third = -seen.sight if up is None else up
    if closing is None:
        closing = np.cross(third, (0.0, 1.0, 0.0) if abs(third[1]) < 0.9 else (1.0, 0.0, 0.0))
        closing /= np.linalg.norm(closing)
    third = third - (third @ closing) * closing
    if np.linalg.norm(third) < 1e-3:  # the closing itself leads out of the plane
        third = -seen.sight - (-seen.sight @ closing) * closing
    third = third / np.linalg.norm(third)
    axes = np.array([closing, np.cross(third, closing), third])
    along = seen.points @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    extents, known, cut = measure_extents(seen, axes, up)
    sure = known & ~cut
    centre = (low + high) / 2 @ axes
    first, second, last = (_triple(axis) for axis in axes)
    bounds = [_bound(bool(each)) for each in sure]
    return OrientedBox(
        centre=_triple(centre),
        axes=(first, second, last),
        extents=_triple(extents),
        bounds=(bounds[0], bounds[1], bounds[2]),
    )


def _triple(values: Floats) -> Triple:
    x, y, z = values.tolist()
    return x, y, z


def _bound(sure: bool) -> Bound:
    return 'measured' if sure else 'lower'
