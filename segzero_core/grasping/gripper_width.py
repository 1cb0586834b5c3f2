# SPDX-License-Identifier: Apache-2.0
"""How wide an object is for a gripper, and which way it lies in the image. Knows no ROS."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.grasping.camera_model import Distortion, Floats, rays
from segzero_core.types import Intrinsics, Mask, Point

Pixel = tuple[int, int]  # row, column

DIRECTIONS = 36  # in which the width is measured
STEP = 0.25  # pixels from sample to sample on the way to the outline
VALLEY = 0.02  # widths larger by this share are as good as the least
ROUND = 1.15  # length over width; below this, an object has no axis


def narrowest(
    pixel: Pixel,
    region: Mask,
    depth: npt.NDArray[np.float32],
    intrinsics: Intrinsics,
    distortion: Distortion | None = None,
) -> tuple[float | None, Point | None]:
    """Measure the object through ``pixel`` where it is narrowest.

    Args:
        pixel: On the object.
        region: (H, W) bool, the object.
        depth: (H, W) float32, metres, of the object's surface at or near each pixel.
        intrinsics: Of the camera.
        distortion: Of the lens.

    Returns:
        Metres from end to end, and the unit vector in the image (x, y), x >= 0, from one to the
        other; ``None`` for both if the image's border cuts the object in every direction.

    Raises:
        CalibrationError: It cannot be used.
    """
    angles = np.pi * np.arange(DIRECTIONS) / DIRECTIONS - np.pi / 2
    along = np.column_stack([np.cos(angles), np.sin(angles)])
    ends, cut = _chord_ends(region, pixel, np.concatenate([along, -along]))
    height, width = depth.shape
    x, y = np.clip(np.rint(ends).astype(int), 0, (width - 1, height - 1)).T
    z = depth[y, x].astype(np.float64)
    lines = rays(ends, intrinsics, distortion)
    first, second = np.column_stack([lines * z[:, None], z]).reshape(2, DIRECTIONS, 3)
    metres = np.linalg.norm(first - second, axis=1)
    metres[cut.reshape(2, DIRECTIONS).any(axis=0)] = np.inf
    if not np.isfinite(metres).any():
        return None, None
    best = _middle_of_least(metres, slack=float(depth[pixel]) / intrinsics.fx)
    return float(metres[best]), Point(float(along[best, 0]), float(along[best, 1]))


def _middle_of_least(values: Floats, slack: float) -> int:
    """Return the index in the middle of the valley around a circle's smallest value.

    The very smallest depends on how the outline happens to fall on the pixels: ``slack``.
    """
    least = int(np.argmin(values))
    valley = np.roll(values <= (1 + VALLEY) * values[least] + slack, -least)
    if valley.all():
        return least
    ahead, behind = int(np.argmin(valley)) - 1, int(np.argmin(valley[::-1]))
    return (least + (ahead - behind) // 2) % len(values)


def _chord_ends(region: Mask, pixel: Pixel, directions: Floats) -> tuple[Floats, Mask]:
    """Walk from ``pixel`` until the region ends.

    Returns:
        (N, 2) x and y where it ends, and (N,) whether that is where the image ends too.
    """
    # Specks that the segmenter missed are no place for a finger.
    whole = cv2.morphologyEx(
        np.pad(region, 2).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)
    )
    rows, columns = np.nonzero(region)
    reach = float(np.hypot(np.ptp(rows) + 3, np.ptp(columns) + 3))
    t = np.arange(STEP / 2, reach, STEP)  # never on the border of two pixels
    path = np.array(pixel[::-1]) + directions[:, None] * t[:, None]
    height, width = region.shape
    x, y = np.rint(np.moveaxis(path, -1, 0)).astype(int)
    out = whole[np.clip(y, -1, height) + 2, np.clip(x, -1, width) + 2] == 0
    last = np.argmax(out, axis=1)
    ends = np.array(pixel[::-1]) + directions * (t[last] - STEP / 2)[:, None]
    at = np.arange(len(last)), last
    cut = (x[at] < 0) | (x[at] >= width) | (y[at] < 0) | (y[at] >= height)
    return ends, cut


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
