# SPDX-License-Identifier: Apache-2.0
"""What the messages hold."""

import json

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from segzero_core.errors import AnswerError, QueryError, TargetError
from segzero_core.grasping.camera_model import Distortion
from segzero_core.grasping.target import GraspTarget
from segzero_core.types import Box, Intrinsics, Point, Segmentation, Size
from segzero_ros.images import image_to_array
from segzero_ros.messages import (
    PerceptionResult,
    answer_document,
    document_message,
    failure_document,
    mask_message,
    poses_message,
    read_lens,
    text_message,
)
from segzero_ros.sim_camera import info_message

HEADER = Header(stamp=Time(sec=3, nanosec=5), frame_id='optical')


def answer(target=None, score=0.5):
    found = Segmentation(
        mask=np.ones((4, 6), bool),
        score=score,
        box=Box(1, 1, 3, 2),
        points=(Point(1, 1), Point(2, 2)),
        reasoning='because',
        text='<think>because</think>',
        repairs=('single quotes',),
    )
    return PerceptionResult(HEADER, np.zeros((4, 6, 3), np.uint8), found, target, {'total': 0.1})


def test_masks_are_0_or_255():
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    message = mask_message(HEADER, mask)
    assert message.encoding == 'mono8'
    np.testing.assert_array_equal(image_to_array(message), np.where(mask, 255, 0))


def test_poses_have_no_rotation():
    (pose,) = poses_message(HEADER, [(1.0, 2.0, 3.0)]).poses
    assert (pose.position.x, pose.position.y, pose.position.z) == (1, 2, 3)
    q = pose.orientation
    assert (q.x, q.y, q.z, q.w) == (0, 0, 0, 1)


def test_every_document_has_the_same_keys():
    documents = [
        answer_document(answer(), 'q'),
        failure_document(HEADER, 'q', 'cancelled'),
        failure_document(Header(), 'q', 'error', ValueError('x')),
    ]
    assert len({tuple(sorted(document)) for document in documents}) == 1
    for document in documents:
        assert json.loads(document_message(document).data) == document


def test_an_answers_document():
    target = GraspTarget(
        (0.1, 0.2, 0.3), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), Point(1, 1), (), 0.06, Point(0.0, 1.0)
    )
    document = answer_document(answer(target), 'the mug')
    assert document['stamp'] == {'sec': 3, 'nanosec': 5}
    assert document['box'] == [1, 1, 3, 2]
    assert document['points'] == [[1, 1], [2, 2]]
    assert document['repairs'] == ['single quotes']
    assert document['target'] == {
        'frame_id': 'optical',
        'point_m': [0.1, 0.2, 0.3],
        'points_m': [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
        'width_m': 0.06,
        'closing': [0.0, 1.0],
        'axis': None,
        'reason': None,
    }


def test_why_there_is_no_target_is_in_the_document():
    target = answer_document(answer(TargetError('no_valid_depth', 'dark')), 'q')['target']
    assert target['points_m'] == []
    assert target['reason'] == {'kind': 'no_valid_depth', 'message': 'dark'}


@pytest.mark.parametrize('score', [float('nan'), float('inf')])
def test_what_json_cannot_say_is_null(score):
    assert answer_document(answer(score=score), 'q')['score'] is None


@pytest.mark.parametrize(
    ('error', 'kind'),
    [
        (QueryError('too long'), 'bad_query'),
        (AnswerError('no_json', 'no JSON', 'what I wrote'), 'no_json'),
        (KeyError('x'), 'internal'),
    ],
)
def test_errors_have_a_kind(error, kind):
    document = failure_document(HEADER, 'q', 'error', error)
    assert document['error']['kind'] == kind
    assert document['reasoning'] == ('what I wrote' if kind == 'no_json' else '')


def test_text_that_utf8_cannot_carry():
    assert text_message('mug ☕\ud83d!').data == 'mug ☕?!'


SIZE = Size(64, 48)
BENT = Distortion('plumb_bob', (-0.2, 0.1, 0.0, 0.0, 0.0))


def bent_info(**changes):
    """A calibration whose K and P differ, as those of a distorted camera do."""
    info = info_message(HEADER, Intrinsics(60.0, 66.0, 31.5, 23.5), SIZE)
    info.d = list(BENT.coefficients)
    info.p[0], info.p[5], info.p[2], info.p[6] = 50.0, 55.0, 30.0, 20.0
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def test_raw_images_have_k_and_d_rectified_ones_have_p():
    info = bent_info()
    assert read_lens(info, SIZE, rectified=False) == (Intrinsics(60, 66, 31.5, 23.5), BENT)
    assert read_lens(info, SIZE, rectified=True) == (Intrinsics(50, 55, 30, 20), None)


def test_without_distortion_and_with_one_pinhole_both_agree():
    info = info_message(HEADER, Intrinsics(60.0, 66.0, 31.5, 23.5), SIZE)
    assert read_lens(info, SIZE, rectified=False) == read_lens(info, SIZE, rectified=True)


def test_rectified_images_have_k_where_the_driver_leaves_p_empty():
    info = bent_info(p=[0.0] * 12)
    assert read_lens(info, SIZE, rectified=True) == (Intrinsics(60, 66, 31.5, 23.5), None)


@pytest.mark.parametrize('rectified', [False, True])
def test_roi_comes_before_binning(rectified):
    info = bent_info(binning_x=2, binning_y=4)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 10, 12, 40, 32
    whole, distortion = read_lens(bent_info(), SIZE, rectified)
    part, same = read_lens(info, Size(20, 8), rectified)
    assert same == distortion  # at focal length one: it knows no pixels
    assert part == Intrinsics(whole.fx / 2, whole.fy / 4, (whole.cx - 10) / 2, (whole.cy - 12) / 4)


@pytest.mark.parametrize('binning', [0, 1])
def test_no_binning_has_two_names(binning):
    info = bent_info(binning_x=binning, binning_y=binning)
    assert read_lens(info, SIZE, rectified=False)[0] == Intrinsics(60, 66, 31.5, 23.5)


@pytest.mark.parametrize(
    ('changes', 'size', 'message'),
    [
        ({}, Size(128, 96), '64 x 48 pixels, the image has 128 x 96'),
        ({'binning_x': 2, 'binning_y': 2}, SIZE, '32 x 24 pixels, the image has 64 x 48'),
        ({'roi': RegionOfInterest(width=10, height=8)}, SIZE, '10 x 8 pixels, the image has'),
    ],
)
def test_the_calibration_of_another_image_size_is_refused(changes, size, message):
    with pytest.raises(TargetError, match=message) as error:
        read_lens(bent_info(**changes), size, rectified=False)
    assert error.value.kind == 'size_mismatch'
