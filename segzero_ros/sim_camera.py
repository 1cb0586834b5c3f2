# SPDX-License-Identifier: Apache-2.0
"""The node ``sim_camera``: a registered RGB-D camera over a synthetic tabletop."""

from __future__ import annotations

if __name__ == '__main__':  # first: the imports below take seconds
    import sys

    from segzero_ros.programs import sim_camera

    sys.exit(sim_camera())

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from segzero_core.grasping.roi import Depth
from segzero_core.runtime.arguments import ArgumentParser
from segzero_core.synthetic import Scene, make_scene, noisy_depth
from segzero_core.types import Intrinsics, Size, image_size
from segzero_ros.images import array_to_image
from segzero_ros.parameters import Spec, declare_parameters, read_parameters
from segzero_ros.ros_context import creating_node, program_arguments, ros_context
from segzero_ros.signals import spin, stop_event

SEED = 4555  # the tabletop of the demonstrations
PARAMETERS = {
    'seed': Spec(
        SEED, 'Number of the tabletop scene; may be changed at any time', low=0, high=2**31 - 1
    ),
    'rate': Spec(10.0, 'Frames per second', low=0.1, high=120.0, read_only=True),
    'depth_encoding': Spec(
        '16UC1',
        'Millimetres with 0 for invalid, or metres with NaN for invalid (REP 118)',
        lambda: ['16UC1', '32FC1'],
        read_only=True,
    ),
    'frame_id': Spec(
        'camera_color_optical_frame', 'Frame of all messages (REP 103, optical)', read_only=True
    ),
}
STOP_S = 1.0  # for the callback that is running when a signal comes
NOISES = 8  # depth images per scene, shown in turn: making one takes too long at 30 Hz
# Reliable publishers serve reliable and best-effort subscribers alike.
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


class SimCamera(Node):
    """Publishes ``image``, ``depth`` and ``camera_info`` of one frame with the same stamp."""

    def __init__(self, **kwargs: Any) -> None:
        """Render the first scene and start publishing.

        Raises:
            ParameterError: A parameter cannot be used.
        """
        super().__init__('sim_camera', **kwargs)
        declare_parameters(self, PARAMETERS)
        values = read_parameters(self, PARAMETERS)
        self._frame_id: str = values['frame_id']
        self._encoding: str = values['depth_encoding']
        self._image = self.create_publisher(Image, 'image', NEWEST)
        self._depth = self.create_publisher(Image, 'depth', NEWEST)
        self._info = self.create_publisher(CameraInfo, 'camera_info', NEWEST)
        self._seed: int = values['seed']
        self._messages = self._render()
        self.create_timer(1 / values['rate'], self._publish)

    def _render(self) -> Iterator[tuple[Image, Image, CameraInfo]]:
        """Make the messages of a scene. They are shown in turn, with new stamps."""
        scene = make_scene(self._seed)
        header = Header(frame_id=self._frame_id)
        image = array_to_image(scene.image, 'rgb8', header)
        info = info_message(header, scene.intrinsics, image_size(scene.image))
        depths = [depth_message(header, depth, self._encoding) for depth in _noisy(scene)]
        return itertools.cycle([(image, depth, info) for depth in depths])

    def _publish(self) -> None:
        seed = self.get_parameter('seed').value
        if seed != self._seed:
            self._seed = seed
            self._messages = self._render()
        image, depth, info = next(self._messages)
        # All three share one header.
        image.header.stamp = depth.header.stamp = info.header.stamp = (
            self.get_clock().now().to_msg()
        )
        self._image.publish(image)
        self._depth.publish(depth)
        self._info.publish(info)


def depth_message(header: Header, depth: Depth, encoding: str) -> Image:
    """Return depth (H, W) in metres, 0 for invalid, as ``16UC1`` or ``32FC1``."""
    if encoding == '16UC1':
        return array_to_image(np.rint(1000 * depth).astype(np.uint16), encoding, header)
    return array_to_image(np.where(depth > 0, depth, np.float32(np.nan)), encoding, header)


def info_message(header: Header, intrinsics: Intrinsics, size: Size) -> CameraInfo:
    """Return the calibration of a rectified pinhole camera."""
    fx, fy, cx, cy = intrinsics
    return CameraInfo(
        header=header,
        width=size.width,
        height=size.height,
        distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def _noisy(scene: Scene) -> Iterator[Depth]:
    rng = np.random.default_rng(scene.seed)
    return (noisy_depth(scene, rng) for _ in range(NOISES))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, without the part for ROS."""
    names = '\n'.join(
        f'  {name:<15} {spec.description} (default: {spec.default})'
        for name, spec in PARAMETERS.items()
    )
    return ArgumentParser(
        prog='sim_camera',
        usage='sim_camera [-h] [--ros-args -p NAME:=VALUE ... -r FROM:=TO ...]',
        description='Publish image, depth and camera_info of a synthetic tabletop until Ctrl-C.',
        epilog=f'parameters:\n{names}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the camera until SIGINT or SIGTERM.

    Raises:
        ParameterError: A parameter cannot be used.
        RosStartError: ROS does not start.
    """
    words, ros_arguments = program_arguments('sim_camera', args)
    build_parser().parse_args(words)
    stop = stop_event(service=True)
    with ros_context(ros_arguments):
        with creating_node():
            camera = SimCamera()
        executor = SingleThreadedExecutor()
        executor.add_node(camera)
        spin(executor, stop, STOP_S)
    return 0
