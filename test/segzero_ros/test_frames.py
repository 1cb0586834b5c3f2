# SPDX-License-Identifier: Apache-2.0
"""The choice of the frame for a query."""

import gc
import threading

import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from segzero_core.errors import CancelledError, NoImageError, UnknownFrameError
from segzero_ros import frames as frames_module
from segzero_ros.frames import FrameBuffer, stamp_seconds

GO_ON = threading.Event()
AT_ONCE = threading.Event()  # waiting is cancelled
AT_ONCE.set()


def image_at(seconds):
    sec = int(seconds)
    return Image(header=Header(stamp=Time(sec=sec, nanosec=round((seconds - sec) * 1e9))))


def with_depth(slop=0.02, patience=0.0):
    frames = FrameBuffer(slop, patience)
    frames.add_info(CameraInfo(width=3))
    return frames


def test_the_newest_image_is_used_and_the_others_are_forgotten():
    frames = FrameBuffer(None, 0.0)
    before = sum(isinstance(thing, Image) for thing in gc.get_objects())
    for i in range(2000):
        frames.add_image(image_at(i))
    assert frames.newest(GO_ON).image == image_at(1999)
    gc.collect()
    assert sum(isinstance(thing, Image) for thing in gc.get_objects()) - before <= 1


@pytest.mark.parametrize(('shift', 'most'), [(0, 2), (0.5, 100)])
def test_images_and_depth_wait_for_one_another_only_for_a_time(monkeypatch, shift, most):
    now = [0.0]
    monkeypatch.setattr(frames_module.time, 'monotonic', lambda: now[0])
    frames = with_depth()
    before = sum(isinstance(thing, Image) for thing in gc.get_objects())
    for i in range(2000):
        now[0] = i / 90
        frames.add_image(image_at(i))
        frames.add_depth(image_at(i + shift))
    gc.collect()
    assert sum(isinstance(thing, Image) for thing in gc.get_objects()) - before <= most


@pytest.mark.parametrize('rate', [15, 30, 60, 90, 120])
@pytest.mark.parametrize('late', [0.1, 0.3, 0.45])
def test_late_depth_finds_its_image_at_any_rate(monkeypatch, rate, late):
    now = [0.0]
    monkeypatch.setattr(frames_module.time, 'monotonic', lambda: now[0])
    frames, lag = with_depth(slop=0.4 / rate), round(late * rate)
    for number in range(2 * rate):
        now[0] = number / rate
        frames.add_image(image_at(5 + now[0]))
        if number >= lag:
            frames.add_depth(image_at(5 + (number - lag) / rate))
    frame = frames.newest(AT_ONCE)
    assert frame.image == frame.depth == image_at(5 + (2 * rate - 1 - lag) / rate)


def test_stamps_of_zero_say_nothing_about_what_belongs_together():
    frames = with_depth()
    for seconds in (0, 0, 0):
        frames.add_image(image_at(seconds))
        frames.add_depth(image_at(seconds))
    frame = frames.newest(GO_ON)
    assert frame.depth is None
    assert frame.no_depth.startswith('the image has no stamp')


def test_no_image_is_an_error():
    frames = FrameBuffer(None, 0.0)
    assert frames.age() is None
    with pytest.raises(NoImageError, match='no image has come'):
        frames.newest(GO_ON)


def test_age_is_since_the_newest_image():
    frames = FrameBuffer(None, 0.0)
    frames.add_image(image_at(1))
    assert frames.age() >= 0
    assert frames.newest(GO_ON).received > 0


def test_the_first_frame_is_waited_for():
    frames = FrameBuffer(None, 20.0)
    threading.Timer(0.05, frames.add_image, [image_at(3)]).start()
    assert frames.newest(GO_ON).image == image_at(3)


def test_waiting_can_be_cancelled():
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        FrameBuffer(None, 20.0).newest(cancel)


def test_depth_of_the_first_frame_is_waited_for():
    frames = with_depth(patience=20.0)
    frames.add_image(image_at(3))
    threading.Timer(0.05, frames.add_depth, [image_at(3)]).start()
    assert frames.newest(GO_ON).depth == image_at(3)


def test_depth_of_a_camera_that_comes_up_late_is_waited_for(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(frames_module.time, 'monotonic', lambda: now[0])
    frames = with_depth(patience=5.0)
    now[0] = 60.0
    frames.add_image(image_at(3))
    threading.Timer(0.05, frames.add_depth, [image_at(3)]).start()
    assert frames.newest(GO_ON).depth == image_at(3)


@pytest.mark.parametrize('depth_first', [False, True])
def test_depth_joins_the_image_whichever_comes_first(depth_first):
    frames = with_depth()
    steps = [lambda: frames.add_image(image_at(5.0)), lambda: frames.add_depth(image_at(5.01))]
    for step in reversed(steps) if depth_first else steps:
        step()
    frame = frames.newest(GO_ON)
    assert frame.image == image_at(5.0)
    assert frame.depth == image_at(5.01)
    assert frame.info == CameraInfo(width=3)


def test_depth_too_far_in_time_does_not_belong_to_the_image():
    frames = with_depth(slop=0.02)
    frames.add_image(image_at(5.0))
    frames.add_depth(image_at(4.5))
    frames.add_depth(image_at(5.03))
    frame = frames.newest(GO_ON)
    assert frame.image == image_at(5.0)
    assert frame.depth is None
    assert frame.no_depth.startswith(
        'the nearest depth image is stamped 0.030 s after the image (at 5.000), more than '
        'depth.sync_slop = 0.02 s'
    )


def test_without_any_depth_it_is_said_that_none_has_come():
    frames = with_depth()
    frames.add_image(image_at(5.0))
    assert frames.newest(GO_ON).no_depth.startswith('no depth image has come: is the depth camera')
    frames.add_depth(image_at(5.0))
    assert frames.newest(GO_ON).no_depth == ''


def test_the_offset_of_the_stamp_is_that_of_the_arrival():
    frames = FrameBuffer(None, 0.0, clock=lambda: 9.0)
    frames.add_image(image_at(5.0))
    assert frames.newest(GO_ON).offset == 4.0
    frames.add_image(image_at(0))  # a driver that does not stamp
    assert frames.newest(GO_ON).offset is None


def test_a_frame_can_be_named_by_its_stamp_while_it_is_kept():
    frames = with_depth()
    frames.add_depth(image_at(5.0))
    frames.add_image(image_at(5.0))
    answered = frames.newest(GO_ON)
    assert answered.is_newest
    frames.keep(answered)
    for stamp in (6.0, 7.0):
        frames.add_image(image_at(stamp))
        frames.add_depth(image_at(stamp))
    assert frames.newest(GO_ON).image == image_at(7.0)
    named = frames.at(Time(sec=5))
    assert (named.image, named.depth) == (image_at(5.0), image_at(5.0))
    assert not named.is_newest
    assert frames.at(Time(sec=7)).image == image_at(7.0)
    with pytest.raises(UnknownFrameError, match=r'stamped 6\.0+ is not kept.*5\.0+, 7\.0+') as e:
        frames.at(Time(sec=6))
    assert e.value.kind == 'unknown_frame'


def test_before_the_first_image_no_frame_can_be_named():
    with pytest.raises(UnknownFrameError, match='none yet'):
        FrameBuffer(None, 0.0).at(Time(sec=6))


def test_the_nearest_depth_is_chosen():
    frames = with_depth(slop=0.1)
    for stamp in (4.95, 5.01, 5.06):
        frames.add_depth(image_at(stamp))
    frames.add_image(image_at(5.0))
    assert stamp_seconds(frames.newest(GO_ON).depth.header) == pytest.approx(5.01)


def test_an_image_whose_depth_is_on_its_way_waits_for_the_next_query():
    frames = with_depth()
    frames.add_image(image_at(5.0))
    frames.add_depth(image_at(5.0))
    frames.add_image(image_at(5.033))
    assert frames.newest(GO_ON).image == image_at(5.0)
    frames.add_depth(image_at(5.033))
    assert frames.newest(GO_ON).image == image_at(5.033)


def test_when_depth_stops_the_newest_image_is_used_without(monkeypatch):
    monkeypatch.setattr(frames_module, 'DEPTH_LAG_S', -1.0)  # as if any lag were too long
    frames = with_depth()
    frames.add_image(image_at(5.0))
    frames.add_depth(image_at(5.0))
    frames.add_image(image_at(6.0))
    frame = frames.newest(GO_ON)
    assert frame.image == image_at(6.0)
    assert frame.depth is None


def test_after_a_pause_the_depth_of_the_newest_image_is_waited_for(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(frames_module.time, 'monotonic', lambda: now[0])
    frames = with_depth()
    frames.add_image(image_at(5.0))
    frames.add_depth(image_at(5.0))
    now[0] = 60.0  # no frame arrived in between
    frames.add_image(image_at(65.0))
    threading.Timer(0.05, frames.add_depth, [image_at(65.0)]).start()
    assert frames.newest(GO_ON).depth == image_at(65.0)


def test_the_newest_is_what_came_last_even_when_time_jumps_back():
    frames = with_depth()
    for stamp in (100.0, 5.0):
        frames.add_image(image_at(stamp))
        frames.add_depth(image_at(stamp))
    assert frames.newest(GO_ON).image == image_at(5.0)
