# SPDX-License-Identifier: Apache-2.0
"""The content of the messages."""

import dataclasses
import json

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from segzero_core.errors import AnswerError, QueryError, TargetError
from segzero_core.grasping.target import GraspTarget
from segzero_core.types import Box, Point, ResultWarning, Segmentation
from segzero_ros.images import image_to_array
from segzero_ros.messages import (
    PerceptionResult,
    ResultHead,
    answer_document,
    document_message,
    failure_document,
    mask_message,
    poses_message,
    text_message,
)

HEADER = Header(stamp=Time(sec=3, nanosec=5), frame_id='optical')
HEAD = ResultHead(HEADER, 'the mug', 'id 7', 2, (ResultWarning('clock_offset', 'late'),))


def answer(target=None, score=0.5, **changes):
    found = Segmentation(
        mask=np.ones((4, 6), bool),
        score=score,
        box=Box(1, 1, 3, 2),
        points=(Point(1, 1), Point(2, 2)),
        reasoning='because',
        text='<think>because</think>',
        repairs=('single quotes',),
    )
    found = dataclasses.replace(found, **changes)
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
        answer_document(HEAD, answer()),
        failure_document(HEAD, 'cancelled'),
        failure_document(ResultHead(Header(), 'q'), 'error', ValueError('x')),
    ]
    assert len({tuple(sorted(document)) for document in documents}) == 1
    for document in documents:
        assert json.loads(document_message(document).data) == document


def test_an_answers_document():
    target = GraspTarget(
        point=(0.1, 0.2, 0.3),
        points=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        pixel=Point(1, 1),
        pixels=(),
        width=0.06,
        width_bound='measured',
        closing=Point(0.0, 1.0),
        closing_vector=(0.0, 0.8, 0.6),
    )
    document = answer_document(HEAD, answer(target))
    assert document['stamp'] == {'sec': 3, 'nanosec': 5}
    assert document['box'] == [1, 1, 3, 2]
    assert document['points'] == [[1, 1], [2, 2]]
    assert document['repairs'] == ['single quotes']
    assert document['target'] == {
        'frame_id': 'optical',
        'point_m': [0.1, 0.2, 0.3],
        'points_m': [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
        'grasp': 'body',
        'width_m': 0.06,
        'width_bound': 'measured',
        'width_reason': None,
        'closing': [0.0, 1.0],
        'closing_vector': [0.0, 0.8, 0.6],
        'axis': None,
        'normal': None,
        'box': None,
        'reason': None,
    }


def test_why_there_is_no_target_is_in_the_document():
    target = answer_document(HEAD, answer(TargetError('no_valid_depth', 'dark')))['target']
    assert target['points_m'] == []
    assert target['reason'] == {'kind': 'no_valid_depth', 'message': 'dark'}


@pytest.mark.parametrize('score', [float('nan'), float('inf')])
def test_what_json_cannot_say_is_null(score):
    assert answer_document(HEAD, answer(score=score))['score'] is None


@pytest.mark.parametrize(
    ('error', 'kind'),
    [
        (QueryError('too long'), 'bad_query'),
        (AnswerError('no_json', 'no JSON', 'what I wrote'), 'no_json'),
        (KeyError('x'), 'internal'),
    ],
)
def test_errors_have_a_kind(error, kind):
    document = failure_document(HEAD, 'error', error)
    assert document['error']['kind'] == kind
    assert document['reasoning'] == ('what I wrote' if kind == 'no_json' else '')


def test_text_that_utf8_cannot_carry():
    assert text_message('mug ☕\ud83d!').data == 'mug ☕?!'


def test_every_document_has_the_id_and_the_warnings():
    for document in (answer_document(HEAD, answer()), failure_document(HEAD, 'cancelled')):
        assert document['id'] == 'id 7'
        assert document['repeat'] == 2
        assert document['warnings'] == [{'kind': 'clock_offset', 'message': 'late'}]
    plain = failure_document(ResultHead(HEADER, 'q'), 'cancelled')
    assert (plain['id'], plain['warnings']) == (None, [])


def test_a_box_or_points_that_the_reasoner_did_not_name_are_null():
    document = answer_document(HEAD, answer(box=None, points=()))
    assert (document['box'], document['points']) == (None, None)
