# SPDX-License-Identifier: Apache-2.0
"""Metric targets over real DDS: choice of the calibration, and required share of depth."""

from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from std_msgs.msg import Header

from segzero_core.grasping.camera_model import Distortion, rays
from segzero_core.types import Intrinsics, Size
from segzero_ros.images import array_to_image
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


def ask(graph, depth, info=None, **parameters):
    """Publish a frame, ask a sentence, and return the target in the result."""
    node = graph.active_node('image', 'depth', 'camera_info', depth__enabled=True, **parameters)
    graph.client.show('camera_info', info or bent_info(), 1)
    graph.client.show('depth', array_to_image(depth, '32FC1', Header()), 1)
    graph.client.wait_for(lambda: node.frames.age('depth') is not None, 'depth')
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


@pytest.mark.parametrize(('rectification', 'turned'), [('raw', True), ('rectified', False)])
def test_targets_of_raw_images_are_turned_to_the_rectified_axes(graph, rectification, turned):
    turn, _ = cv2.Rodrigues(np.array([0.0, 0.3, 0.1]))
    info = bent_info()
    info.r = turn.ravel().tolist()
    depth = np.full((60, 80), 0.5, np.float32)
    points, target = ask(graph, depth, info, image__rectification=rectification)
    lines = rays(np.round(points), *((K, BENT) if turned else (P, None)))
    raw = 0.5 * np.column_stack([lines, np.ones(2)])
    expected = raw @ turn.T if turned else raw
    np.testing.assert_allclose(target['points_m'], expected, atol=1e-6)
    assert target['frame_id'] == 'optical'


def test_an_r_that_is_no_rotation_is_a_reason(graph):
    info = bent_info()
    info.r = [2.0] * 9
    _, target = ask(graph, np.full((60, 80), 0.5, np.float32), info)
    assert target['reason']['kind'] == 'bad_intrinsics'
    assert 'R of camera_info is no rotation' in target['reason']['message']


@pytest.mark.skipif(find_spec('tf2_ros') is not None, reason='tf2_ros is installed')
def test_without_tf2_ros_targets_stay_in_the_cameras_frame(graph):
    depth = np.full((60, 80), 0.5, np.float32)
    _, target = ask(graph, depth, depth__target_frame='base_link')
    assert target['frame_id'] == 'optical'
    assert target['point_m'][2] == pytest.approx(0.5)


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
