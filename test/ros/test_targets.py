# SPDX-License-Identifier: Apache-2.0
"""Metric targets over real DDS: which calibration holds, and how much must be measured."""

import numpy as np
import pytest
from std_msgs.msg import Header

from segzero_core.types import Intrinsics, Size
from segzero_ros.images import array_to_image
from segzero_ros.lens import Distortion, rays
from segzero_ros.sim_camera import info_message

LONG = 60.0  # seconds; only what is broken takes so long
K = Intrinsics(100.0, 110.0, 39.5, 29.5)
P = Intrinsics(80.0, 85.0, 41.0, 28.0)
BENT = Distortion('plumb_bob', (-0.4, 0.1, 0.0, 0.01, 0.0))


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr('segzero_ros.node.FIRST_FRAME_S', LONG)


def bent_info():
    info = info_message(Header(), K, Size(80, 60))
    info.d = list(BENT.coefficients)
    info.p[0], info.p[5], info.p[2], info.p[6] = P
    return info


def ask(graph, depth, **parameters):
    """Show one frame, say a sentence, return what the node says about its target."""
    node = graph.active_node('image', 'depth', 'camera_info', depth__enabled=True, **parameters)
    graph.client.show('camera_info', bent_info(), 1)
    graph.client.show('depth', array_to_image(depth, '32FC1', Header()), 1)
    graph.client.wait_for(lambda: node._frames._depths, 'depth')
    graph.client.show_picture()
    result = graph.client.ask('the red mug')
    return result['points'], result['target']


@pytest.mark.parametrize(
    ('rectification', 'intrinsics', 'distortion'),
    [('auto', K, BENT), ('raw', K, BENT), ('rectified', P, None)],
)
def test_the_calibration_of_the_kind_of_image_is_used(
    graph, rectification, intrinsics, distortion
):
    depth = np.full((60, 80), 0.5, np.float32)
    points, target = ask(graph, depth, image__rectification=rectification)
    lines = rays(np.round(points), intrinsics, distortion) * 0.5
    np.testing.assert_allclose(np.array(target['points_m'])[:, :2], lines, atol=1e-6)
    # The mask is a box of 40 x 30 pixels: it is narrower from top to bottom.
    above, below = rays([(39, 14.5), (39, 44.5)], intrinsics, distortion) * 0.5
    assert target['width_m'] == pytest.approx(below[1] - above[1], rel=0.05)
    assert abs(target['closing'][1]) > 0.99
    assert target['axis'] == pytest.approx([1, 0], abs=1e-6)


def test_how_much_must_be_measured_is_a_parameter(graph):
    depth = np.zeros((60, 80), np.float32)
    depth[::3, ::3] = 0.5  # one pixel in nine
    _, target = ask(graph, depth)
    assert target['reason']['kind'] == 'sparse_depth'
    assert 'depth.min_valid' in target['reason']['message']
    assert target['point_m'] is target['width_m'] is target['closing'] is target['axis'] is None


def test_a_smaller_share_may_be_enough(graph):
    depth = np.zeros((60, 80), np.float32)
    depth[::3, ::3] = 0.5
    _, target = ask(graph, depth, depth__min_valid=0.05)
    assert target['reason'] is None
    assert target['point_m'][2] == pytest.approx(0.5)
