#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The node ``pregrasp``, between segzero and a motion planner: where to wait before reaching out.

    python3 docs/examples/pregrasp.py
    python3 docs/examples/pregrasp.py --ros-args -p base_frame:=base_link -p standoff:=0.12

For every ``segzero/result`` with a metric target it publishes a geometry_msgs/PoseStamped on
``pregrasp``. The pose's x axis is the direction in which the jaws of a parallel gripper close. Its
z axis points at the object, as nearly along the line of sight as x allows, so that little can
stand between. It moves no robot.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from std_msgs.msg import String

TF_TIMEOUT = Duration(seconds=1)
MOST_ALIKE = 0.1  # length of what is left of the line of sight across the closing
TF_MEMORY = Duration(seconds=60)  # longer than the slowest answer takes


def pregrasp_pose(result: dict[str, Any], standoff: float) -> PoseStamped:
    """Return where the gripper waits, in the camera optical frame, at the image's time.

    Args:
        result: The document of ``segzero/result``.
        standoff: Metres between the pose and the target.

    Raises:
        ValueError: The result has no metric target, or one in another frame than the camera's; the
            message says why.
    """
    if result['status'] != 'ok':
        raise ValueError(result['error']['message'] if result['error'] else result['status'])
    target = result['target'] or {
        'point_m': None,
        'reason': {'message': 'depth is not enabled'},
    }
    if target['point_m'] is None:
        raise ValueError(target['reason']['message'])
    if target['frame_id'] != result['frame_id']:
        # The line of sight begins where the camera is, which another frame does not tell.
        raise ValueError(
            f'the target is in {target["frame_id"]!r}, not in the frame of the camera, '
            f'{result["frame_id"]!r}: leave depth.target_frame empty and set base_frame here'
        )
    point = np.array(target['point_m'])
    sight = point / np.linalg.norm(point)
    # It is null where the width cannot be known; then the jaws close along the image's rows.
    closing = np.array(target['closing_vector'] or np.cross((0.0, 1.0, 0.0), sight))
    closing /= np.linalg.norm(closing)
    # `width_m` holds along the closing only, so the approach gives way.
    approach = sight - (sight @ closing) * closing
    if np.linalg.norm(approach) < MOST_ALIKE:
        raise ValueError('the jaws would close along the line of sight: move the camera')
    approach /= np.linalg.norm(approach)
    pose = PoseStamped()
    pose.header.frame_id = target['frame_id']
    pose.header.stamp.sec = result['stamp']['sec']
    pose.header.stamp.nanosec = result['stamp']['nanosec']
    position, orientation = pose.pose.position, pose.pose.orientation
    position.x, position.y, position.z = (point - standoff * approach).tolist()
    rotation = np.column_stack([closing, np.cross(approach, closing), approach])
    orientation.x, orientation.y, orientation.z, orientation.w = quaternion(rotation)
    return pose


def quaternion(rotation: np.ndarray) -> list[float]:
    """Return (x, y, z, w) of a rotation matrix (3, 3), by Bar-Itzhack's eigenvector method."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = [
        [xx - yy - zz, xy + yx, xz + zx, zy - yz],
        [xy + yx, yy - xx - zz, yz + zy, xz - zx],
        [xz + zx, yz + zy, zz - xx - yy, yx - xy],
        [zy - yz, xz - zx, yx - xy, xx + yy + zz],
    ]
    return np.linalg.eigh(symmetric)[1][:, -1].tolist()  # of the largest eigenvalue


class Pregrasp(Node):
    """Turns results into pre-grasp poses."""

    def __init__(self) -> None:
        """Listen to segzero, and to tf where a base frame is wanted."""
        super().__init__('pregrasp')
        self._standoff = self.declare_parameter('standoff', 0.1)  # metres
        self._base_frame = self.declare_parameter('base_frame', '').value  # '': the camera's own
        self._poses = self.create_publisher(PoseStamped, 'pregrasp', 10)
        self.create_subscription(String, 'segzero/result', self._on_result, 10)
        if self._base_frame:
            # Listens from the start: the transform that counts is that of the image's time, and
            # when the answer comes the image is seconds old. A node and thread of its own, so
            # that transforms keep coming while the callback below waits for one.
            import tf2_ros

            self._tf = tf2_ros.Buffer(cache_time=TF_MEMORY)
            node = rclpy.create_node('pregrasp_tf')
            self._listener = tf2_ros.TransformListener(self._tf, node, spin_thread=True)

    def _on_result(self, message: String) -> None:
        result = json.loads(message.data)
        try:
            pose = pregrasp_pose(result, self._standoff.value)
        except ValueError as error:
            self.get_logger().info(f'no pose for {result["query"]!r}: {error}')
            return
        if self._base_frame:
            import tf2_geometry_msgs  # noqa: F401  (teaches the buffer to transform poses)
            import tf2_ros

            try:
                pose = self._tf.transform(pose, self._base_frame, timeout=TF_TIMEOUT)
            except tf2_ros.TransformException as error:
                self.get_logger().warning(f'no pose for {result["query"]!r}: {error}')
                return
        self._poses.publish(pose)
        width = result['target']['width_m']
        self.get_logger().info(f'pose for {result["query"]!r}; the object is {width} m wide')


def main() -> None:
    """Run until Ctrl-C."""
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Pregrasp())
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
