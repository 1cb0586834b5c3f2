# SPDX-License-Identifier: Apache-2.0
"""Points in other frames."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Vector3
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from segzero_core.errors import CalibrationError
from segzero_core.grasping.oriented_box import OrientedBox
from segzero_core.grasping.target import GraspTarget
from segzero_core.types import Point
from segzero_ros.messages import target_header
from segzero_ros.transforms import Transform, from_quaternion, move_target, rectification

VECTOR = np.array([0.3, -0.5, 0.2])  # a rotation: its axis, as long as its angle
ROTATION, _ = cv2.Rodrigues(VECTOR)
SHIFT = np.array([0.1, 0.2, -0.3])
BOX = OrientedBox(
    (0.1, 0.2, 0.55),
    ((1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.0, -0.8, 0.6)),
    (0.07, 0.05, 0.04),
    ('measured', 'lower', 'lower'),
)
TARGET = GraspTarget(
    (0.1, 0.2, 0.5),
    ((0.3, 0.4, 0.6),),
    Point(1, 2),
    (Point(3, 4),),
    width=0.07,
    closing_vector=(1.0, 0.0, 0.0),
    normal=(0.0, -0.6, -0.8),
    box=BOX,
)


def test_a_target_is_turned_and_moved_but_its_pixels_and_width_stay():
    moved = move_target(TARGET, Transform(ROTATION, SHIFT))
    np.testing.assert_allclose(moved.point, ROTATION @ TARGET.point + SHIFT)
    np.testing.assert_allclose(moved.points, [ROTATION @ TARGET.points[0] + SHIFT])
    assert (moved.pixel, moved.pixels, moved.width) == (Point(1, 2), (Point(3, 4),), 0.07)
    np.testing.assert_allclose(moved.closing_vector, ROTATION @ TARGET.closing_vector)
    np.testing.assert_allclose(moved.normal, ROTATION @ TARGET.normal)
    np.testing.assert_allclose(moved.box.centre, ROTATION @ BOX.centre + SHIFT)
    np.testing.assert_allclose(moved.box.axes, np.array(BOX.axes) @ ROTATION.T)
    assert (moved.box.extents, moved.box.bounds) == (BOX.extents, BOX.bounds)


@pytest.mark.parametrize('length', [1.0, 3.0])  # some publishers do not normalise
def test_a_quaternion_is_the_same_rotation(length):
    angle = np.linalg.norm(VECTOR)
    x, y, z = length * np.sin(angle / 2) * VECTOR / angle
    quaternion = Quaternion(x=x, y=y, z=z, w=length * np.cos(angle / 2))
    found = from_quaternion(quaternion, Vector3(x=0.1, y=0.2, z=-0.3))
    np.testing.assert_allclose(found.rotation, ROTATION, atol=1e-12)
    np.testing.assert_allclose(found.translation, SHIFT)


@pytest.mark.parametrize('r', [[0.0] * 9, np.eye(3).ravel().tolist()])
def test_single_cameras_need_no_turn(r):
    assert rectification(CameraInfo(r=r)) is None


def test_stereo_cameras_are_turned_by_r():
    turn = rectification(CameraInfo(r=ROTATION.ravel().tolist()))
    np.testing.assert_allclose(turn(TARGET.point), ROTATION @ TARGET.point)


@pytest.mark.parametrize(
    'r', [[1.0] * 9, (2 * ROTATION).ravel(), (-ROTATION).ravel(), [np.nan] * 9]
)
def test_an_r_that_is_no_rotation_is_refused(r):
    with pytest.raises(CalibrationError, match='R of camera_info is no rotation'):
        rectification(CameraInfo(r=list(r)))


def test_the_header_of_a_target_names_the_frame_it_is_in():
    header = Header(frame_id='camera')
    header.stamp.sec = 7
    assert target_header(header, TARGET) == header
    moved = target_header(header, replace(TARGET, frame_id='base_link'))
    assert (moved.frame_id, moved.stamp) == ('base_link', header.stamp)
