# SPDX-License-Identifier: Apache-2.0
"""Geometry, compared with brute force and with the documented properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segzero_core.errors import EmptyMaskError
from segzero_core.geometry import (
    box_iou,
    largest_inscribed_circles,
    mask_to_box,
    rescale_box,
    rescale_point,
    touched_borders,
)
from segzero_core.types import Box, Point, Size

SQUARE = Size(840, 840)
masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(np.any)
sizes = st.builds(Size, st.integers(1, 4000), st.integers(1, 4000))


def test_points_are_scaled_without_truncation():
    assert rescale_point(Point(10, 100), SQUARE, Size(640, 480)) == Point(10 * 640 / 840, 400 / 7)
    assert rescale_box(Box(1.9, 2, 419, 420), SQUARE, Size(1680, 420)) == Box(3.8, 1, 838, 210)


def test_thousandths_are_scaled_like_pixels():
    assert rescale_point(Point(500, 250), Size(1000, 1000), Size(640, 480)) == Point(320, 120)


@given(st.floats(-10, 2000), st.floats(-10, 2000), sizes)
def test_rescaled_points_lie_on_pixels_of_the_target(x, y, size):
    point = rescale_point(Point(x, y), SQUARE, size)
    assert 0 <= point.x <= size.width - 1
    assert 0 <= point.y <= size.height - 1


@given(st.integers(0, 639), st.integers(0, 479))
def test_to_the_model_and_back_is_the_same_pixel(x, y):
    image = Size(640, 480)
    there = rescale_point(Point(x, y), image, SQUARE)
    assert rescale_point(there, SQUARE, image) == pytest.approx((x, y))


def test_box_iou():
    box = Box(0, 0, 10, 10)
    assert box_iou(box, box) == 1
    assert box_iou(box, Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_iou(box, Box(10, 10, 20, 20)) == 0
    assert box_iou(box, Box(30, 30, 40, 40)) == 0
    assert box_iou(box, Box(30, 0, 40, 10)) == 0
    assert box_iou(box, Box(0, 30, 10, 40)) == 0
    assert box_iou(Box(0, 0, 0.5, 0.5), Box(0, 0, 0.5, 0.25)) == pytest.approx(1 / 2)
    assert box_iou(Box(1, 1, 1, 5), Box(1, 1, 1, 5)) == 1
    assert box_iou(Box(1, 1, 1, 5), Box(2, 1, 2, 5)) == 0


@given(masks)
def test_mask_to_box_is_the_smallest_box_and_includes_its_corners(mask):
    ys, xs = np.nonzero(mask)
    assert mask_to_box(mask) == Box(xs.min(), ys.min(), xs.max(), ys.max())


def test_an_empty_mask_is_a_typed_error():
    with pytest.raises(EmptyMaskError, match=r'\(3, 4\) has no pixel set'):
        mask_to_box(np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match='no pixel set'):
        largest_inscribed_circles(np.zeros((3, 4), bool))


def reach(mask: np.ndarray, x: float, y: float) -> float:
    """Distance from a pixel to the nearest one outside the mask, by trying all."""
    ys, xs = np.nonzero(~np.pad(mask, 1))
    return float(np.hypot(xs - 1 - x, ys - 1 - y).min())


@given(masks)
def test_circles_are_inside_apart_and_the_largest_there_are(mask):
    first, second = largest_inscribed_circles(mask)
    pixels = [(x, y) for y, x in np.argwhere(mask)]
    reaches = {pixel: reach(mask, *pixel) for pixel in pixels}
    assert first.radius == pytest.approx(max(reaches.values()), abs=1e-4)
    assert reaches[first.center] == pytest.approx(first.radius, abs=1e-4)
    rooms = {
        pixel: min(reaches[pixel], math.dist(pixel, first.center) - first.radius)
        for pixel in pixels
    }
    assert second.radius == pytest.approx(max(0, *rooms.values(), 0), abs=1e-4)
    assert rooms[second.center] == pytest.approx(max(rooms.values()), abs=1e-4)


def test_circles_of_two_discs_are_at_their_centres():
    y, x = np.mgrid[:100, :160]
    mask = (np.hypot(x - 40, y - 50) <= 30) | (np.hypot(x - 115, y - 45) <= 20)
    first, second = largest_inscribed_circles(mask)
    assert first.center == Point(40, 50)
    assert second.center == Point(115, 45)
    assert first.radius == pytest.approx(30, abs=1)
    assert second.radius == pytest.approx(20, abs=1)


def test_the_image_border_counts_as_outside():
    first, _ = largest_inscribed_circles(np.ones((21, 41), bool))
    assert first.radius == 11
    assert first.center.y == 10
    assert 10 <= first.center.x <= 30


def test_one_pixel_has_no_room_for_a_second_circle():
    mask = np.zeros((5, 7), bool)
    mask[2, 3] = True
    first, second = largest_inscribed_circles(mask)
    assert first == (Point(3, 2), 1)
    assert second == (Point(3, 2), 0)


def test_a_line_gets_two_different_points():
    mask = np.zeros((5, 30), bool)
    mask[4, 2:28] = True
    first, second = largest_inscribed_circles(mask)
    assert first.radius == second.radius == 1
    assert math.dist(first.center, second.center) >= 2
    assert mask[int(second.center.y), int(second.center.x)]


@pytest.mark.parametrize(
    ('rows', 'columns', 'sides'),
    [
        (slice(1, 3), slice(1, 5), []),
        (slice(0, 3), slice(1, 5), ['top']),
        (slice(1, 3), slice(0, 5), ['left']),
        (slice(1, 4), slice(1, 6), ['right', 'bottom']),
        (slice(0, 4), slice(0, 6), ['left', 'right', 'top', 'bottom']),
    ],
)
def test_the_borders_that_a_mask_touches(rows, columns, sides):
    mask = np.zeros((4, 6), bool)
    mask[rows, columns] = True
    assert touched_borders(mask) == sides
