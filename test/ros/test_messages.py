# SPDX-License-Identifier: Apache-2.0
"""What the messages hold."""

import json

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from segzero_core.errors import AnswerError, QueryError
from segzero_core.types import Box, Intrinsics, Point, Segmentation, Size
from segzero_ros.grasp import Target, TargetError
from segzero_ros.images import image_to_array
from segzero_ros.messages import (
    Answer,
    answer_document,
    document_message,
    failure_document,
    mask_message,
    poses_message,
    read_intrinsics,
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
    return Answer(HEADER, np.zeros((4, 6, 3), np.uint8), found, target, {'total': 0.1})


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
    target = Target((0.1, 0.2, 0.3), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), Point(1, 1), ())
    document = answer_document(answer(target), 'the mug')
    assert document['stamp'] == {'sec': 3, 'nanosec': 5}
    assert document['box'] == [1, 1, 3, 2]
    assert document['points'] == [[1, 1], [2, 2]]
    assert document['repairs'] == ['single quotes']
    assert document['target'] == {
        'frame_id': 'optical',
        'point_m': [0.1, 0.2, 0.3],
        'points_m': [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
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


def test_intrinsics_come_from_p_and_where_that_is_empty_from_k():
    size = Size(6, 4)
    info = info_message(HEADER, Intrinsics(10.0, 11.0, 3.0, 2.0), size)
    info.p[0] = 12.0
    assert read_intrinsics(info, size) == Intrinsics(12.0, 11.0, 3.0, 2.0)
    info.p = [0.0] * 12
    assert read_intrinsics(info, size) == Intrinsics(10.0, 11.0, 3.0, 2.0)


def test_intrinsics_of_another_image_size_are_refused():
    info = info_message(HEADER, Intrinsics(10.0, 11.0, 3.0, 2.0), Size(6, 4))
    with pytest.raises(TargetError, match='6 x 4 pixels, the image has 12 x 8') as error:
        read_intrinsics(info, Size(12, 8))
    assert error.value.kind == 'size_mismatch'
