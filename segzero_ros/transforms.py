# SPDX-License-Identifier: Apache-2.0
"""Moves targets to other frames: that of the rectified camera, and any frame in tf."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from segzero_core.errors import CalibrationError, TargetError
from segzero_core.grasping.camera_model import Floats
from segzero_core.grasping.target import GraspTarget, Metres

LATE_S = 0.2  # to wait for the transform of an image's stamp
ROUNDING = 1e-3  # of a matrix that was printed with few digits


class Transform(NamedTuple):
    """A rigid transform from one frame to another: rotation, then translation.

    Attributes:
        rotation: (3, 3).
        translation: (3,), metres.
    """

    rotation: Floats
    translation: Floats

    def __call__(self, point: Metres) -> Metres:
        """Return the point in the other frame."""
        x, y, z = self.rotation @ point + self.translation
        return float(x), float(y), float(z)

    def turn(self, direction: Metres) -> Metres:
        """Return the direction in the other frame."""
        x, y, z = self.rotation @ direction
        return float(x), float(y), float(z)


def move_target(target: GraspTarget, transform: Transform) -> GraspTarget:
    """Return the target with its positions and directions in another frame.

    Its lengths stay, and so do the pixels and directions in the image.
    """
    box = target.box
    if box is not None:
        first, second, third = (transform.turn(axis) for axis in box.axes)
        box = replace(box, centre=transform(box.centre), axes=(first, second, third))
    return replace(
        target,
        point=transform(target.point),
        points=tuple(transform(point) for point in target.points),
        closing_vector=target.closing_vector and transform.turn(target.closing_vector),
        normal=target.normal and transform.turn(target.normal),
        box=box,
    )


def rectification(info: CameraInfo) -> Transform | None:
    """Return the transform from the raw camera's axes to the rectified one's; ``None`` if equal.

    ``frame_id`` names the rectified camera, in which P and the depth of stereo cameras hold
    (``sensor_msgs/CameraInfo``, matrix R). For single cameras both are the same.

    Raises:
        CalibrationError: R is no rotation.
    """
    rotation = np.array(info.r, np.float64).reshape(3, 3)
    if not rotation.any() or np.array_equal(rotation, np.eye(3)):  # or left empty by the driver
        return None
    if (
        not np.isfinite(rotation).all()
        or np.abs(rotation @ rotation.T - np.eye(3)).max() > ROUNDING
        or np.linalg.det(rotation) < 0
    ):
        raise CalibrationError(f'R of camera_info is no rotation: {list(info.r)}')
    return Transform(rotation, np.zeros(3))


def from_quaternion(rotation: Any, translation: Any) -> Transform:
    """Return the transform of a ``geometry_msgs/Transform``'s two parts."""
    x, y, z, w = np.array([rotation.x, rotation.y, rotation.z, rotation.w]) / np.linalg.norm(
        [rotation.x, rotation.y, rotation.z, rotation.w]
    )
    matrix = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return Transform(np.array(matrix), np.array([translation.x, translation.y, translation.z]))


class TargetFrame:
    """Moves targets to a tf frame, by the transform at the stamp of their image.

    Attributes:
        buffer: The transforms that have come, a ``tf2_ros.Buffer``.
    """

    def __init__(self, node: Node, frame_id: str) -> None:
        """Subscribe to tf, through tf2_ros.

        Raises:
            ModuleNotFoundError: tf2_ros is not installed.
        """
        import tf2_ros

        self._frame_id = frame_id
        self._errors = tf2_ros.TransformException
        self.buffer = tf2_ros.Buffer()  # with a node, it would leave a service behind
        self._listener = tf2_ros.TransformListener(self.buffer, node)
        # tf2 ignores transforms older than those it has. Where a bag starts again, or a simulation
        # is reset, it would ignore all of them until time is where it was.
        back = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._jumps = node.get_clock().create_jump_callback(back, post_callback=self._forget)

    def move(self, target: GraspTarget, header: Header) -> GraspTarget:
        """Return the target in the frame; wait up to ``LATE_S`` for the transform.

        Args:
            target: In the frame of ``header``.
            header: Of the image.

        Raises:
            TargetError: tf has no transform at the image's stamp.
        """
        try:
            found = self.buffer.lookup_transform(
                self._frame_id,
                header.frame_id,
                Time.from_msg(header.stamp),
                Duration(seconds=LATE_S),
            ).transform
        except self._errors as error:
            raise TargetError(
                'no_transform',
                f'tf has no transform from {header.frame_id!r} to {self._frame_id!r} at the stamp '
                f'of the image: {error}',
            ) from error
        transform = from_quaternion(found.rotation, found.translation)
        return replace(move_target(target, transform), frame_id=self._frame_id)

    def close(self) -> None:
        """Unsubscribe from tf."""
        self._jumps.unregister()
        self._listener.unregister()

    def _forget(self, jump: TimeJump) -> None:
        self.buffer.clear()
