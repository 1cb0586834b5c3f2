# SPDX-License-Identifier: Apache-2.0
"""Depth and normal of the surface at a pixel, by a plane fitted to the pixels around it."""

from __future__ import annotations

import numpy as np

from segzero_core.grasping.camera_model import Distortion, Floats, rays
from segzero_core.grasping.object_surface import WINDOW, ObjectSurface
from segzero_core.grasping.roi import Pixel
from segzero_core.types import Intrinsics

NORMAL_WINDOW = 9  # pixels on either side at most; a normal needs more than a depth does


def local_depth(pixel: Pixel, surface: ObjectSurface) -> float:
    """Return the depth in metres at a surface pixel, of the plane that fits its surroundings.

    A median would do on surfaces that face the camera; on tilted ones it leans to the side that
    has more pixels.
    """
    plane, inverse = _fit(pixel, surface, WINDOW)
    # Between its neighbours' depths: noise in a row of pixels leaves the plane free to swing.
    return float(1 / np.clip(plane[0], inverse.min(), inverse.max()))


def local_normal(
    pixel: Pixel, surface: ObjectSurface, lens: Intrinsics, distortion: Distortion | None = None
) -> Floats:
    """Return the surface's (3,) unit normal at a pixel, towards the camera.

    Args:
        pixel: Of the surface.
        surface: The object.
        lens: Of the region of interest.
        distortion: Of the lens.
    """
    reach = int(np.clip(surface.clearance[pixel], WINDOW, NORMAL_WINDOW))
    plane, _ = _fit(pixel, surface, reach)
    row, column = pixel
    corners = [(column, row), (column + 1, row), (column, row + 1)]
    middle, right, below = rays(corners, lens, distortion)
    # Inverse depth is linear over viewing rays (x, y), too: A x + B y + C, of normal (A, B, C).
    slope = np.linalg.solve(np.array([right - middle, below - middle]), plane[1:])
    normal = -np.array([*slope, plane[0] - slope @ middle])
    return np.asarray(normal / np.linalg.norm(normal))


def _fit(pixel: Pixel, surface: ObjectSurface, reach: int) -> tuple[Floats, Floats]:
    """Fit inverse depth, which is linear over the image on a plane.

    Returns:
        Its value at the pixel and its slopes to the right and down, (3,); the values used, (N,).
    """
    row, column = pixel
    window = (
        slice(max(row - reach, 0), row + reach + 1),
        slice(max(column - reach, 0), column + reach + 1),
    )
    used = surface.surface[window] & (surface.pieces[window] == surface.pieces[pixel])
    dy, dx = np.nonzero(used)
    inverse = 1 / surface.depth[window][used].astype(np.float64)
    y, x = dy + window[0].start - row, dx + window[1].start - column
    plane, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(x)), x, y]), inverse, rcond=None)
    return plane, inverse
