# SPDX-License-Identifier: Apache-2.0
"""Targets in a frame that tf knows: the real tf2_ros over real DDS, where it is installed."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.time import Time as RosTime
from std_msgs.msg import Header

from segzero_core.types import Intrinsics, Size
from segzero_ros.images import array_to_image
from segzero_ros.sim_camera import info_message

tf2_ros = pytest.importorskip('tf2_ros', reason='needs tf2_ros, which is not on PyPI')

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


@pytest.fixture
def look(graph):
    """Looks at an object half a metre away, at a second; tf knows about seconds 10 and 20."""
    node = graph.active_node(
        'image', 'depth', 'camera_info', depth__enabled=True, depth__target_frame='base_link'
    )
    broadcaster = tf2_ros.TransformBroadcaster(graph.client.node)
    graph.client.wait_for(lambda: graph.client.node.count_subscribers('/tf'), 'the listener')
    broadcaster.sendTransform([quarter_turn(10, 1.0), quarter_turn(20, 2.0)])
    buffer = node._target_frame._buffer
    graph.client.wait_for(
        lambda: buffer.can_transform('base_link', 'optical', RosTime(seconds=15)), 'tf'
    )

    def at(second):
        info, depth = info_message(Header(), LENS, Size(80, 60)), np.full((60, 80), 0.5, 'f4')
        graph.client.show('camera_info', info, second)
        graph.client.show('depth', array_to_image(depth, '32FC1', Header()), second)
        graph.client.wait_for(lambda: node._frames._depths, 'depth')
        graph.client.show_picture(second)
        return graph.client.ask('the red mug')

    return at


def test_a_target_is_moved_by_where_the_camera_was_at_the_stamp_of_the_image(graph, look):
    result = look(15)
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


def test_where_tf_does_not_know_the_way_there_is_no_target_but_a_reason(look):
    target = look(30)['target']
    assert target['point_m'] is None
    assert target['reason']['kind'] == 'no_transform'
    assert "from 'optical' to 'base_link'" in target['reason']['message']


def test_after_cleanup_nobody_listens_to_tf(graph, look):
    node = graph.nodes[0].node
    assert node.trigger_deactivate().name == 'SUCCESS'
    assert node.trigger_cleanup().name == 'SUCCESS'
    for topic in ('/tf', '/tf_static'):
        graph.client.wait_for(
            lambda topic=topic: not graph.client.node.count_subscribers(topic), 'silence'
        )
