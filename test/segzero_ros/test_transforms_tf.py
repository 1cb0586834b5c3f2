# SPDX-License-Identifier: Apache-2.0
"""Targets in a frame that tf knows: the real tf2_ros over real DDS, where it is installed."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.clock import ClockType
from rclpy.time import Time as RosTime
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from segzero_core.types import Intrinsics, Size
from segzero_ros.images import array_to_image
from segzero_ros.sim_camera import info_message

pytest.importorskip('tf2_ros', reason='needs tf2_ros, which is not on PyPI')

from tf2_msgs.msg import TFMessage

LONG = 60.0  # seconds; only what is broken takes so long
LENS = Intrinsics(100.0, 110.0, 39.5, 29.5)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr('segzero_ros.node.FIRST_FRAME_S', LONG)


def quarter_turn(second, x):
    """Where the camera is: turned by 90 degrees about z, and moved."""
    moved = TransformStamped(child_frame_id='optical')
    moved.header = Header(frame_id='base_link', stamp=Time(sec=second))
    moved.transform.translation.x, moved.transform.translation.z = x, 0.25
    moved.transform.rotation.z = moved.transform.rotation.w = np.sqrt(0.5)
    return moved


class Robot:
    """A node whose targets are wanted in base_link, and the robot that tells tf where it is."""

    def __init__(self, graph, **parameters):
        self.graph = graph
        self.node = graph.active_node(
            'image', 'depth', 'camera_info', depth__enabled=True,
            depth__target_frame='base_link', **parameters,
        )  # fmt: skip
        self.tf = graph.client.node.create_publisher(TFMessage, '/tf', 10)
        graph.client.wait_for(self.tf.get_subscription_count, 'the listener')

    def knows(self, second):
        buffer, time = self.node.target_frame.buffer, RosTime(seconds=second)
        return buffer.can_transform('base_link', 'optical', time)

    def tell(self, start):
        """Say where the camera is, from a second on for ten seconds; wait until the node knows."""
        moved = [quarter_turn(start, 1.0), quarter_turn(start + 10, 2.0)]
        self.tf.publish(TFMessage(transforms=moved))
        self.graph.client.wait_for(lambda: self.knows(start + 5), 'tf')

    def look(self, second):
        """Look at an object half a metre away."""
        info, depth = info_message(Header(), LENS, Size(80, 60)), np.full((60, 80), 0.5, 'f4')
        self.graph.client.show('camera_info', info, second)
        self.graph.client.show('depth', array_to_image(depth, '32FC1', Header()), second)
        self.graph.client.wait_for(lambda: self.node.frames.age('depth') is not None, 'depth')
        self.graph.client.show_picture(second)
        return self.graph.client.ask('the red mug')


@pytest.fixture
def robot(graph):
    robot = Robot(graph)
    robot.tell(10)
    return robot


def test_a_target_is_moved_by_where_the_camera_was_at_the_stamp_of_the_image(graph, robot):
    result = robot.look(15)
    target = result['target']
    assert (target['frame_id'], target['reason']) == ('base_link', None)
    point = graph.client.message('target_point')
    assert (point.header.frame_id, point.header.stamp.sec) == ('base_link', 15)
    assert [point.point.x, point.point.y, point.point.z] == target['point_m']
    for (u, v), (x, y, z) in zip(result['points'], target['points_m'], strict=True):
        # A quarter turn makes y of x, and -x of y; half-way between the two moments.
        assert y == pytest.approx(0.5 * (round(u) - LENS.cx) / LENS.fx)
        assert x == pytest.approx(1.5 - 0.5 * (round(v) - LENS.cy) / LENS.fy)
        assert z == pytest.approx(0.5 + 0.25)


def test_where_tf_does_not_know_the_way_there_is_no_target_but_a_reason(robot):
    target = robot.look(30)['target']
    assert target['point_m'] is None
    assert target['reason']['kind'] == 'no_transform'
    assert "from 'optical' to 'base_link'" in target['reason']['message']


def test_after_cleanup_nobody_listens_to_tf(graph, robot):
    node = robot.node
    assert node.trigger_deactivate().name == 'SUCCESS'
    assert node.trigger_cleanup().name == 'SUCCESS'
    for topic in ('/tf', '/tf_static'):
        graph.client.wait_for(
            lambda topic=topic: not graph.client.node.count_subscribers(topic), 'silence'
        )


def test_when_time_jumps_back_tf_is_learnt_anew(graph):
    robot = Robot(graph, use_sim_time=True)
    clock = graph.client.node.create_publisher(Clock, '/clock', 1)

    def set_time(second):
        def is_set():
            clock.publish(Clock(clock=Time(sec=second)))
            return robot.node.get_clock().now() == RosTime(
                seconds=second, clock_type=ClockType.ROS_TIME
            )

        graph.client.wait_for(is_set, f'second {second}')

    set_time(1000)
    robot.tell(1000)
    set_time(5)
    assert not robot.knows(1005)
    robot.tell(10)
    assert robot.look(15)['target']['reason'] is None
