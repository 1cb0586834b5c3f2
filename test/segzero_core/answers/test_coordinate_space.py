# SPDX-License-Identifier: Apache-2.0
"""Coordinates of another space: converted if the space is certain, else refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero_core.answers.coordinate_space import SpaceCheck, check_space
from segzero_core.types import Box, Point, Size

VGA = Size(640, 480)
SQUARE = Size(840, 840)
THOUSAND = Size(1000, 1000)


def test_pixels_are_left_alone():
    box, points = (10, 100, 200, 210), ((30, 110), (35, 180))
    assert check_space(box, points, SQUARE) == SpaceCheck(box, points)


def test_corners_in_the_wrong_order_are_left_to_the_caller():
    assert check_space((200, 210, 10, 100), [], SQUARE) == SpaceCheck((200, 210, 10, 100), ())


@pytest.mark.parametrize(
    ('box', 'points', 'size', 'wanted'),
    [
        ((0.25, 0.5, 0.5, 1), (), VGA, (160, 240, 320, 480)),
        ((0.12, 0.3, 0.5, 0.7), ((0.3, 0.5), (0.25, 0.55)), SQUARE, (100.8, 252, 420, 588)),
        ((0, 0, 1, 0.5), ((0.5, 0.25),), VGA, (0, 0, 640, 240)),
        ((0.1, 0.2, 0.3, 0.4), (), THOUSAND, (100, 200, 300, 400)),
        ((0.5, 1, 0.25, 0.5), (), VGA, (320, 480, 160, 240)),
    ],
)
def test_shares_of_the_image_are_read(box, points, size, wanted):
    found = check_space(box, points, size, thousandths=size == THOUSAND)
    assert found.box == pytest.approx(wanted)
    assert found.points == pytest.approx([(x * size.width, y * size.height) for x, y in points])
    assert found.repair == 'the coordinates were shares of the image'
    assert not found.problem


def test_points_in_shares_are_read_where_they_fall_into_a_box_in_pixels():
    found = check_space((64, 48, 320, 240), ((0.25, 0.25), (0.3, 0.4)), VGA)
    assert found.points == pytest.approx([(160, 120), (192, 192)])
    assert found.repair == 'the points were shares of the image'
    elsewhere = check_space((400, 300, 500, 400), ((0.25, 0.25), (0.3, 0.4)), VGA)
    assert elsewhere.points == ((0.25, 0.25), (0.3, 0.4))


@pytest.mark.parametrize(
    ('box', 'points', 'size', 'thousandths', 'problem'),
    [
        ((0, 0, 1, 1), (), SQUARE, False, r'\[0, 0, 1, 1\] is at most one pixel.*shares'),
        (None, ((1, 1), (0, 1)), SQUARE, False, 'the point is at most one pixel'),
        ((0.1, 0.1, 0.4, 0.5), ((30, 40), (50, 60)), VGA, False, 'less than a pixel.*shares'),
        ((187, 208, 437, 541), (), Size(320, 240), False, 'far beyond 320 x 240.*thousandths'),
        ((500, 600, 700, 900), ((600, 700), (650, 800)), VGA, False, 'thousandths.*y before x'),
        ((10, 100, 2000, 210), ((30, 110), (35, 180)), SQUARE, False, 'pixels of another'),
        (None, ((700, 900), (600, 950)), VGA, False, 'the points .*reach far beyond'),
        ((300, 200, 1500, 900), (), THOUSAND, True, 'beyond 1020 thousandths: are these pixels'),
        ((1100, 200, 1500, 900), (), THOUSAND, True, 'beyond 1020'),
        # Both the box and its points may have y first, or all be thousandths: not certain.
        ((100, 500, 300, 620), ((200, 550), (210, 560)), VGA, False, 'thousandths.*y before x'),
        ((100, 500, 300, 620), (), VGA, False, 'y before x'),
    ],
)
def test_what_may_be_several_things_is_refused_by_name(box, points, size, thousandths, problem):
    found = check_space(box, points, size, thousandths)
    assert re.search(problem, found.problem)
    assert not found.repair


@pytest.mark.parametrize(
    ('box', 'points'),
    [
        ((100, 500, 300, 620), ((550, 200), (560, 250))),
        ((20, 530, 470, 600), ((560, 100), (580, 400))),
        ((300, 620, 100, 500), ((550, 200), (560, 250))),
    ],
)
def test_y_before_x_is_read_where_the_points_say_so(box, points):
    found = check_space(box, points, VGA)
    assert found.box == (box[1], box[0], box[3], box[2])
    assert found.points == points
    assert found.repair == 'the box was written with y before x'


@pytest.mark.parametrize(
    ('box', 'size', 'thousandths'),
    [
        ((-5, 100, 900, 210), SQUARE, False),  # a model that overshoots by 7 %
        ((500, 500, 1020, 1001), THOUSAND, True),
        ((0, 0, 840, 840), SQUARE, False),
        ((10, 20, 11, 21), SQUARE, False),  # a small object
        ((0, 0, 0, 0), SQUARE, False),  # no box at all
    ],
)
def test_a_little_too_far_is_left_to_the_caller(box, size, thousandths):
    assert check_space(box, [], size, thousandths) == SpaceCheck(box, ())


def test_a_box_outside_whose_points_lie_in_the_image_is_no_matter_of_the_space():
    points = ((30, 110), (35, 180))
    assert check_space((900, 100, 990, 210), points, SQUARE).problem == ''
    assert check_space((900, 100, 990, 210), [(920, 150), (950, 160)], SQUARE).problem


_number = st.floats(-1e6, 1e6) | st.integers(-10, 2000) | st.floats(0, 1)


@given(
    st.tuples(_number, _number, _number, _number) | st.none(),
    st.lists(st.tuples(_number, _number), max_size=2),
    st.sampled_from([VGA, SQUARE, Size(1, 1), Size(1920, 1080)]),
    st.booleans(),
)
def test_the_result_is_as_given_converted_or_refused(box, points, size, thousandths):
    size = THOUSAND if thousandths else size
    found = check_space(box, points, size, thousandths)
    assert not (found.repair and found.problem)
    if not found.repair:
        assert (found.box, found.points) == (box, tuple(points))
    if found.box is not None and not found.problem:
        low = [min(found.box[0::2]), min(found.box[1::2])]
        high = [max(found.box[0::2]), max(found.box[1::2])]
        most = 1.02 if thousandths else 1.1
        inside = high[0] <= most * size.width and high[1] <= most * size.height
        assert inside or low[0] > size.width or low[1] > size.height
    assert all(isinstance(point, Point) for point in found.points)
    assert found.box is None or isinstance(found.box, Box)
