# SPDX-License-Identifier: Apache-2.0
"""Widths and directions of flat things whose size is known."""

import numpy as np
import pytest

from segzero_core.grasping.camera_model import Distortion, rays
from segzero_core.grasping.gripper_width import narrowest, principal_axis
from segzero_core.types import Intrinsics

CAMERA = Intrinsics(300.0, 310.0, 159.5, 119.5)
SHAPE = (240, 320)
PIXELS = np.stack(np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0])), -1).reshape(-1, 2)


def plate(length, width, turn=0.0, tilt=0.0, distance=0.6, distortion=None):
    """A rectangle in the middle of the image: turned in its plane, tilted about its y axis."""
    x, y = rays(PIXELS, CAMERA, distortion).T
    depth = distance / (1 - x * np.tan(tilt))  # z = distance + x_metres * tan(tilt)
    across, down = x * depth / np.cos(tilt), y * depth
    along = across * np.cos(turn) + down * np.sin(turn)
    aside = down * np.cos(turn) - across * np.sin(turn)
    mask = (np.abs(along) <= length / 2) & (np.abs(aside) <= width / 2)
    return mask.reshape(SHAPE), depth.reshape(SHAPE).astype(np.float32)


def angle_between(a, b):
    """Degrees between two undirected lines."""
    return np.degrees(np.arccos(min(1.0, abs(np.dot(a, b)))))


@pytest.mark.parametrize('degrees', [0, 20, 45, 90, 130, 175])
def test_a_turned_bar(degrees):
    turn = np.radians(degrees)
    mask, depth = plate(0.3, 0.06, turn)
    metres, closing = narrowest((119, 159), mask, depth, CAMERA)
    assert metres == pytest.approx(0.06, rel=0.04)
    direction = (np.cos(turn), np.sin(turn))
    assert angle_between(closing, direction) == pytest.approx(90, abs=8)
    axis = principal_axis(mask)
    assert angle_between(axis, direction) < 3
    for vector in (closing, axis):
        assert np.hypot(*vector) == pytest.approx(1)
        assert vector.x >= 0


@pytest.mark.parametrize('tilt', [30, 60, -60])
def test_a_tilted_plate_is_as_wide_as_it_is_not_as_it_looks(tilt):
    mask, depth = plate(0.1, 0.25, tilt=np.radians(tilt))
    metres, closing = narrowest((119, 159), mask, depth, CAMERA)
    assert metres == pytest.approx(0.1, rel=0.05)
    assert angle_between(closing, (1, 0)) < 6


def test_the_narrowest_way_is_chosen_in_metres():
    # 0.12 m looks like 0.03 m from the side, less than the 0.06 m it measures the other way.
    mask, depth = plate(0.12, 0.06, tilt=np.radians(75))
    metres, closing = narrowest((119, 159), mask, depth, CAMERA)
    assert np.ptp(np.nonzero(mask)[1]) < np.ptp(np.nonzero(mask)[0])
    assert metres == pytest.approx(0.06, rel=0.05)
    assert angle_between(closing, (0, 1)) < 6


@pytest.mark.parametrize(
    'distortion',
    [
        Distortion('plumb_bob', (-0.4, 0.2, 0.0, 0.0, 0.0)),
        Distortion('equidistant', (-0.02, 0.01, 0.0, 0.0)),
    ],
)
def test_a_plate_through_a_lens(distortion):
    mask, depth = plate(0.55, 0.45, distortion=distortion)
    metres, _ = narrowest((119, 159), mask, depth, CAMERA, distortion)
    assert metres == pytest.approx(0.45, rel=0.02)
    assert narrowest((119, 159), mask, depth, CAMERA)[0] != pytest.approx(0.45, rel=0.02)


def ring(outer, inner):
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(rows - 120, columns - 160)
    return (radius <= outer) & (radius >= inner)


def test_a_ring_is_as_wide_as_its_tube_where_it_is_grasped():
    depth = np.full(SHAPE, 0.6, np.float32)
    metres, closing = narrowest((120, 160 + 60), ring(70, 50), depth, CAMERA)
    assert metres == pytest.approx(21 / 300 * 0.6, rel=0.04)
    assert angle_between(closing, (1, 0)) < 6


def test_round_things_have_no_axis():
    assert principal_axis(ring(50, 0)) is None
    assert principal_axis(ring(50, 30)) is None


def test_a_line_of_pixels_has_an_axis():
    mask = np.zeros(SHAPE, bool)
    mask[50, 20:90] = True
    assert principal_axis(mask) == (1, 0)


def test_specks_that_the_segmenter_missed_are_no_edges():
    mask, depth = plate(0.3, 0.06)
    mask[125, 150:170] = False
    mask[112, 159] = False
    assert narrowest((119, 159), mask, depth, CAMERA)[0] == pytest.approx(0.06, rel=0.04)


@pytest.mark.parametrize('border', ['top', 'bottom', 'left', 'right'])
def test_what_the_border_cuts_is_measured_the_other_way(border):
    depth = np.full(SHAPE, 0.6, np.float32)
    mask = np.zeros(SHAPE, bool)
    upright = mask if border in ('top', 'bottom') else mask.T
    upright[:20, 20:220] = True  # twenty rows are in sight, who knows how many are not
    pixel, expected = (10, 120), (1, 0)
    if upright is not mask:
        pixel, expected = pixel[::-1], (0, 1)
    if border == 'bottom':
        mask, pixel = mask[::-1], (SHAPE[0] - 1 - pixel[0], pixel[1])
    if border == 'right':
        mask, pixel = mask[:, ::-1], (pixel[0], SHAPE[1] - 1 - pixel[1])
    metres, closing = narrowest(pixel, mask, depth, CAMERA)
    assert metres > 0.35
    assert angle_between(closing, expected) < 8


def test_what_all_borders_cut_is_not_measured():
    depth = np.full(SHAPE, 0.6, np.float32)
    assert narrowest((119, 159), np.ones(SHAPE, bool), depth, CAMERA) == (None, None)
