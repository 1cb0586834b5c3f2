# SPDX-License-Identifier: Apache-2.0
"""The plane that an object stands on or before, from the depth around its mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segzero_core.grasping.camera_model import Distortion, Floats, rays
from segzero_core.grasping.roi import bounding_box
from segzero_core.types import Intrinsics, Mask

SAMPLES = 24  # rows and columns of the grid on which the surroundings are sampled
REACH = 0.4  # of the box's longer side: how far around the object the surroundings reach
LEAST_REACH = 12  # pixels
HYPOTHESES = 32
TOLERANCE = 0.02  # share of the depth within which a sample belongs to a plane
FEWEST, SHARE = 30, 0.35  # samples that a plane must explain, and their share of all


class Plane(NamedTuple):
    """A plane in the camera optical frame.

    Attributes:
        normal: (3,) unit vector, towards the camera's side.
        offset: Metres; ``normal @ point + offset`` is a point's height above the plane.
    """

    normal: Floats
    offset: float

    def heights(self, points: Floats) -> Floats:
        """Return the (N,) heights of (N, 3) points above the plane, metres."""
        return np.asarray(points @ self.normal + self.offset)


def find_support(
    mask: Mask,
    depth: npt.NDArray[np.float32],
    intrinsics: Intrinsics,
    depth_range: tuple[float, float],
    distortion: Distortion | None = None,
) -> Plane | None:
    """Fit a plane to the depth around an object: the table, the floor or the wall behind it.

    Args:
        mask: (H, W) bool, not empty.
        depth: (H, W) float32, metres.
        intrinsics: Of the camera.
        depth_range: Nearest and farthest depth that are valid, metres.
        distortion: Of the lens.

    Returns:
        The plane, or ``None`` where the surroundings are not plane, were not measured, or lie in
        front of the object.
    """
    left, top, width, height = bounding_box(mask)
    rows = _around(top, top + height - 1, mask.shape[0])
    columns = _around(left, left + width - 1, mask.shape[1])
    v, u = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing='ij'))
    z = depth[v, u].astype(np.float64)
    with np.errstate(invalid='ignore'):
        valid = (z >= depth_range[0]) & (z <= depth_range[1])
    inside = mask[v, u][valid]
    if np.count_nonzero(~inside) < FEWEST:
        return None
    lines = rays(np.column_stack([u, v])[valid], intrinsics, distortion)
    lines, z = np.column_stack([lines, np.ones(len(lines))]), z[valid]
    # Over viewing rays (x, y), a plane's inverse depth is linear: A x + B y + C.
    plane = _consensus(lines[~inside], 1 / z[~inside])
    if plane is None or not inside.any():
        return plane
    # A plane in front of the object hides it, and supports nothing.
    above = np.median(plane.heights(lines[inside] * z[inside, None]))
    return plane if above > -TOLERANCE * np.median(z[inside]) else None


def _around(first: int, last: int, length: int) -> npt.NDArray[np.int64]:
    """Return the rows or columns at which to sample around an object from first to last."""
    reach = max(LEAST_REACH, round(REACH * max(last - first, 1)))
    low, high = max(first - reach, 0), min(last + reach, length - 1)
    return np.unique(np.linspace(low, high, SAMPLES).astype(np.int64))


def _consensus(lines: Floats, inverse: Floats) -> Plane | None:
    """Return the plane that most samples lie on (RANSAC, Fischler and Bolles 1981)."""
    rng = np.random.Generator(np.random.PCG64(0))  # the same depth gives the same plane
    triples = rng.integers(0, len(lines), (HYPOTHESES, 3))
    corners = lines[triples]
    sound = np.abs(np.linalg.det(corners)) > 1e-9
    if not sound.any():
        return None
    models = np.linalg.solve(corners[sound], inverse[triples[sound]][..., None])[..., 0]
    close = np.abs(models @ lines.T - inverse) < TOLERANCE * inverse
    inside = close[int(np.argmax(close.sum(axis=1)))]
    for _ in range(2):
        if np.count_nonzero(inside) < max(FEWEST, SHARE * len(lines)):
            return None
        model, *_ = np.linalg.lstsq(lines[inside], inverse[inside], rcond=None)
        inside = np.abs(lines @ model - inverse) < TOLERANCE * inverse
    size = float(np.linalg.norm(model))
    # model @ point is 1 on the plane and smaller between plane and camera.
    return Plane(-model / size, 1 / size) if size > 0 else None
