# SPDX-License-Identifier: Apache-2.0
"""Refused frames, and warnings to the user."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from segzero_core.errors import FrameMismatchError, StaleFrameError
from segzero_core.types import WARNING_KINDS
from segzero_ros import frame_checks
from segzero_ros.frame_checks import (
    check_age,
    check_frame_ids,
    depth_warnings,
    frame_warnings,
)
from segzero_ros.frames import Frame

NOW = 100.0  # seconds, of the monotonic clock


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(frame_checks.time, 'monotonic', lambda: NOW)


def limits(max_arrival_age=2.0, max_age=0.0):
    return SimpleNamespace(max_arrival_age=max_arrival_age, max_age=max_age)


def frame(stamp=50, age=0.0, frame_id='camera', **changes):
    image = Image(header=Header(stamp=Time(sec=stamp), frame_id=frame_id))
    return Frame(image, NOW - age, **changes)


def part(kind, frame_id):
    return kind(header=Header(frame_id=frame_id))


def test_a_frame_that_arrived_too_long_ago_is_refused():
    check_age(frame(age=1.9), limits(), 50.0)
    check_age(frame(age=900.0), limits(max_arrival_age=0.0), 50.0)
    with pytest.raises(StaleFrameError, match=r'arrived 8\.0 s ago.*max_arrival_age = 2 s'):
        check_age(frame(age=8.0), limits(), 50.0)


def test_a_frame_that_the_sentence_names_is_used_and_warned_of():
    named = frame(age=8.0, is_newest=False)
    check_age(named, limits(), 50.0)
    (warning,) = frame_warnings(named, limits())
    assert warning.kind == 'stale_frame'
    assert 'arrived 8.0 s ago' in warning.message


@pytest.mark.parametrize(('now', 'when'), [(54.0, '4.000 s ago'), (46.5, '3.500 s in the future')])
def test_a_stamp_too_far_from_now_is_refused_on_either_side(now, when):
    for most in (0.0, 4.5):
        check_age(frame(), limits(max_age=most), now)
    with pytest.raises(StaleFrameError, match=rf'stamped {when} \(at 50.000\), more than'):
        check_age(frame(), limits(max_age=3.0), now)


def test_the_age_of_a_frame_without_a_stamp_cannot_be_checked():
    check_age(frame(stamp=0), limits(), 1e9)
    with pytest.raises(StaleFrameError, match='has no stamp'):
        check_age(frame(stamp=0), limits(max_age=3.0), 1e9)


@pytest.mark.parametrize('offset', [None, 0.0, 1.9, -1.9])
def test_a_camera_with_the_nodes_clock_is_not_warned_of(offset):
    assert frame_warnings(frame(offset=offset), limits()) == []


@pytest.mark.parametrize(
    ('offset', 'when'), [(2.1, '2.100 s ago'), (-5.0, 'in the future'), (1.7e9, 's ago')]
)
def test_a_camera_with_another_clock_is_warned_of(offset, when):
    (warning,) = frame_warnings(frame(offset=offset), limits())
    assert warning.kind == 'clock_offset'
    assert when in warning.message


@pytest.mark.parametrize(
    ('image', 'depth', 'info'),
    [
        ('camera', 'camera', 'camera'),
        ('/camera', 'camera', '/camera'),  # as ROS 1 wrote it
        ('camera', '', ''),  # left empty by the driver
        ('', 'depth', ''),
        ('camera', None, None),
    ],
)
def test_frames_of_one_name_belong_together(image, depth, info):
    each = frame(
        frame_id=image,
        depth=None if depth is None else part(Image, depth),
        info=None if info is None else part(CameraInfo, info),
    )
    assert frame_warnings(each, limits()) == []
    check_frame_ids(each)


@pytest.mark.parametrize(
    ('image', 'depth', 'info', 'named'),
    [
        ('color', 'depth', 'color', "image in 'color', depth in 'depth', camera_info in 'color'"),
        ('color', 'color', 'depth', "camera_info in 'depth'"),
        ('color', '', 'depth', "image in 'color', camera_info in 'depth'"),
        ('a', 'b', 'c', "image in 'a', depth in 'b', camera_info in 'c'"),
    ],
)
def test_frames_of_other_names_are_warned_of_and_can_be_refused(image, depth, info, named):
    each = frame(frame_id=image, depth=part(Image, depth), info=part(CameraInfo, info))
    (warning,) = frame_warnings(each, limits())
    assert warning.kind == 'frame_id_mismatch'
    assert named in warning.message
    with pytest.raises(FrameMismatchError, match='registered') as error:
        check_frame_ids(each)
    assert error.value.kind == 'frame_id_mismatch'


def found(mask, warnings=()):
    return SimpleNamespace(mask=mask, warnings=warnings)


@pytest.mark.parametrize('hole', [0.0, np.nan, np.inf, 0.05, 11.0])
def test_an_object_with_little_depth_is_warned_of(hole):
    mask, depth = np.ones((4, 10), bool), np.full((4, 10), 0.5, np.float32)
    depth[:, :5] = hole
    assert depth_warnings(found(mask), depth, (0.1, 10.0)) == []
    depth[:, 5] = hole
    (warning,) = depth_warnings(found(mask), depth, (0.1, 10.0))
    assert warning.kind == 'little_depth'
    assert 'only 40%' in warning.message
    mask[:, :6] = False  # where the object is not, depth does not matter
    assert depth_warnings(found(mask), depth, (0.1, 10.0)) == []


def test_every_kind_is_one_of_the_documented_ones():
    each = replace(
        frame(age=9.0, offset=9.0, is_newest=False, frame_id='a'), depth=part(Image, 'b')
    )
    assert {warning.kind for warning in frame_warnings(each, limits())} <= WARNING_KINDS.keys()
