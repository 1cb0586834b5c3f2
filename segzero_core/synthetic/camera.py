# SPDX-License-Identifier: Apache-2.0
"""The pinhole camera that looks down on the table.

World frame: the table is z = 0, z up, metres. Camera optical frame (REP 103): x right, y down,
z forward. Depth is measured along z: the ray (x/z, y/z, 1) of a pixel times its depth is the point
that the pixel shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segzero_core.synthetic.solids import Floats
from segzero_core.types import Intrinsics, Size


@dataclass(frozen=True)
class Camera:
    """Pose and intrinsics.

    Attributes:
        size: Size of the image, pixels.
        intrinsics: Pinhole intrinsics without distortion.
        rotation: (3, 3) rotation from the camera frame to the world frame.
        position: (3,) optical centre in the world frame, metres.
    """

    size: Size
    intrinsics: Intrinsics
    rotation: Floats
    position: Floats

    def rays(self, rows: slice, columns: slice) -> Floats:
        """Return the (N, 3) world directions of a window's pixels, row by row; depth is ``t``."""
        fx, fy, cx, cy = self.intrinsics
        u = (np.arange(columns.start, columns.stop) - cx) / fx
        v = (np.arange(rows.start, rows.stop) - cy) / fy
        grid = np.empty((len(v), len(u), 3))
        grid[..., 0], grid[..., 1], grid[..., 2] = u, v[:, None], 1.0
        return grid.reshape(-1, 3) @ self.rotation.T

    def to_world(self, points: Floats) -> Floats:
        """Turn (N, 3) camera-frame points into world points."""
        return points @ self.rotation.T + self.position

    def to_camera(self, points: Floats) -> Floats:
        """Turn (N, 3) world points into camera-frame points."""
        return (points - self.position) @ self.rotation

    def project(self, points: Floats) -> Floats:
        """Return the (N, 2) pixel coordinates of (N, 3) world points in front of the camera."""
        fx, fy, cx, cy = self.intrinsics
        x, y, z = self.to_camera(points).T
        return np.column_stack([fx * x / z + cx, fy * y / z + cy])

    def on_table(self, u: float, v: float) -> Floats:
        """Return the (3,) world point on the table that pixel (u, v) shows."""
        fx, fy, cx, cy = self.intrinsics
        ray = self.rotation @ np.array([(u - cx) / fx, (v - cy) / fy, 1.0])
        return self.position - ray * (self.position[2] / ray[2])


def look_at_table(
    size: Size, focal: float, distance: float, pitch: float, heading: float, roll: float
) -> Camera:
    """Return a camera looking at the world origin.

    Args:
        size: Size of the image, pixels.
        focal: Focal length as a multiple of the image's width.
        distance: Distance from the origin, metres.
        pitch: Angle below the horizon, radians.
        heading: Direction of view in the table's plane, radians from the world's y axis.
        roll: Rotation about the line of sight, radians.
    """
    ahead = np.array([np.sin(heading), np.cos(heading), 0.0])
    forward = np.cos(pitch) * ahead - np.array([0.0, 0.0, np.sin(pitch)])
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    down = np.cross(forward, right)
    turned = np.cos(roll) * right + np.sin(roll) * down
    rotation = np.column_stack([turned, np.cross(forward, turned), forward])
    f = focal * size.width
    intrinsics = Intrinsics(f, f, (size.width - 1) / 2, (size.height - 1) / 2)
    return Camera(size, intrinsics, rotation, -distance * forward)
