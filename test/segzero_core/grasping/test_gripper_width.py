# SPDX-License-Identifier: Apache-2.0
"""Widths of things of exactly known size: plates, rings, solids, and scenes of hollow things."""

import functools

import numpy as np
import pytest

from segzero_core.grasping.camera_model import Distortion, rays
from segzero_core.grasping.gripper_width import principal_axis
from segzero_core.grasping.target import find_target
from segzero_core.synthetic import make_scene, noisy_depth
from segzero_core.types import Intrinsics

CAMERA = Intrinsics(300.0, 310.0, 159.5, 119.5)
SHAPE = (240, 320)
PIXELS = np.stack(np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0])), -1).reshape(-1, 2)

scene_of = functools.lru_cache(make_scene)


def plate(length, width, turn=0.0, tilt=0.0, distance=0.6, distortion=None):
    """A rectangle in the middle of the image: turned in its plane, tilted about its y axis."""
    x, y = rays(PIXELS, CAMERA, distortion).T
    depth = distance / (1 - x * np.tan(tilt))  # z = distance + x_metres * tan(tilt)
    across, down = x * depth / np.cos(tilt), y * depth
    along = across * np.cos(turn) + down * np.sin(turn)
    aside = down * np.cos(turn) - across * np.sin(turn)
    mask = (np.abs(along) <= length / 2) & (np.abs(aside) <= width / 2)
    return mask.reshape(SHAPE), depth.reshape(SHAPE).astype(np.float32)


def measure(mask, depth, distortion=None):
    return find_target(mask, depth, CAMERA, [], distortion=distortion)


def angle_between(a, b):
    """Degrees between two undirected lines."""
    return np.degrees(np.arccos(min(1.0, abs(np.dot(a, b)))))


@pytest.mark.parametrize('degrees', [0, 20, 45, 90, 130, 175])
def test_a_turned_bar(degrees):
    turn = np.radians(degrees)
    mask, depth = plate(0.3, 0.06, turn)
    target = measure(mask, depth)
    assert target.width == pytest.approx(0.06, rel=0.04)
    assert target.width_bound == 'measured'
    direction = (np.cos(turn), np.sin(turn))
    assert angle_between(target.closing, direction) == pytest.approx(90, abs=8)
    assert angle_between(target.closing_vector, (*direction, 0)) == pytest.approx(90, abs=8)
    axis = principal_axis(mask)
    assert angle_between(axis, direction) < 3
    for vector in (target.closing, axis):
        assert np.hypot(*vector) == pytest.approx(1)
        assert vector.x >= 0


@pytest.mark.parametrize('tilt', [30, 60, -60])
def test_a_tilted_plate_is_as_wide_as_it_is_not_as_it_looks(tilt):
    mask, depth = plate(0.1, 0.25, tilt=np.radians(tilt))
    target = measure(mask, depth)
    assert target.width == pytest.approx(0.1, rel=0.05)
    turned = np.cos(np.radians(tilt)), 0, np.sin(np.radians(tilt))
    assert angle_between(target.closing_vector, turned) < 6
    assert angle_between(target.normal, (turned[2], 0, -turned[0])) < 2


def test_the_narrowest_way_is_chosen_in_metres():
    # Seen from the side, 0.12 m appear as 0.03 m, less than the 0.06 m of the other direction.
    mask, depth = plate(0.12, 0.06, tilt=np.radians(75))
    target = measure(mask, depth)
    assert np.ptp(np.nonzero(mask)[1]) < np.ptp(np.nonzero(mask)[0])
    assert target.width == pytest.approx(0.06, rel=0.05)
    assert angle_between(target.closing, (0, 1)) < 6


@pytest.mark.parametrize(
    'distortion',
    [
        Distortion('plumb_bob', (-0.4, 0.2, 0.0, 0.0, 0.0)),
        Distortion('equidistant', (-0.02, 0.01, 0.0, 0.0)),
    ],
)
def test_a_plate_through_a_lens(distortion):
    mask, depth = plate(0.55, 0.45, distortion=distortion)
    assert measure(mask, depth, distortion).width == pytest.approx(0.45, rel=0.02)
    assert measure(mask, depth).width != pytest.approx(0.45, rel=0.02)


def ring(outer, inner):
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(rows - 120, columns - 160)
    return (radius <= outer) & (radius >= inner)


def test_a_flat_ring_is_grasped_at_its_rim_and_is_as_wide_as_all_of_it():
    depth = np.full(SHAPE, 0.6, np.float32)
    target = measure(ring(70, 50), depth)
    assert target.grasp == 'rim'
    assert target.width == pytest.approx(141 / 305 * 0.6, rel=0.04)
    assert 50 < np.hypot(target.pixel.x - 160, target.pixel.y - 120) < 70


def test_a_small_hole_makes_no_ring():
    assert measure(ring(70, 10), np.full(SHAPE, 0.6, np.float32)).grasp == 'body'


def test_round_things_have_no_axis():
    assert principal_axis(ring(50, 0)) is None
    assert principal_axis(ring(50, 30)) is None


def test_a_line_of_pixels_has_an_axis():
    mask = np.zeros(SHAPE, bool)
    mask[50, 20:90] = True
    assert principal_axis(mask) == (1, 0)


def test_specks_that_the_segmenter_missed_or_added_are_no_edges():
    mask, depth = plate(0.3, 0.06)
    mask[125, 150:170] = False
    mask[112, 159] = False
    mask[60:62, 100:102] = True
    assert measure(mask, depth).width == pytest.approx(0.06, rel=0.04)


@pytest.mark.parametrize('border', ['top', 'bottom', 'left', 'right'])
def test_what_the_border_cuts_is_measured_the_other_way(border):
    depth = np.full(SHAPE, 0.6, np.float32)
    mask = np.zeros(SHAPE, bool)
    upright = mask if border in ('top', 'bottom') else mask.T
    upright[:20, 20:220] = True  # twenty rows are visible, the number of others is unknown
    expected = (1, 0) if upright is mask else (0, 1)
    if border == 'bottom':
        mask = mask[::-1]
    if border == 'right':
        mask = mask[:, ::-1]
    target = measure(mask, depth)
    assert target.width > 0.35
    assert angle_between(target.closing, expected) < 8
    assert target.cut_at_border


def test_what_all_borders_cut_is_not_measured():
    target = measure(np.ones(SHAPE, bool), np.full(SHAPE, 0.6, np.float32))
    assert target.width is target.width_bound is target.closing is target.closing_vector is None
    assert target.width_reason.kind == 'width_cut'
    assert target.point[2] == pytest.approx(0.6)


def test_without_depth_near_its_ends_an_object_is_not_measured():
    mask = ring(80, 0)
    depth = np.full(SHAPE, 0.6, np.float32)
    depth[ring(85, 35)] = 0
    target = find_target(mask, depth, CAMERA, [], min_valid=0.05)
    assert target.width_reason.kind == 'width_unmeasured'
    assert target.width is None
    assert target.depth_share == pytest.approx((35 / 80) ** 2, rel=0.1)


def test_what_something_nearer_hides_is_a_lower_bound():
    mask, depth = ring(60, 0), np.full(SHAPE, 0.6, np.float32)
    assert measure(mask, depth).width_bound == 'measured'
    before = PIXELS[:, 0].reshape(SHAPE) > 180
    depth[before] = 0.5
    target = measure(mask & ~before, depth)
    assert target.width_bound == 'lower'
    assert target.width <= 121 / 300 * 0.6 * 1.02


def test_bowls_cups_and_rings_are_as_wide_as_they_are():
    kinds = {'bowl': [], 'mug': [], 'ring': []}
    for seed in (900006, 900007, 900008, 900009, 900010, 900011):
        scene = scene_of(seed, shapes=('bowl', 'mug', 'ring'), crowding=0.0)
        for i, item in enumerate(scene.objects):
            target = find_target(scene.mask(i), scene.depth, scene.intrinsics, [])
            ratio = target.width / scene.extent(i, target.closing_vector)
            kinds[item.shape].append(ratio if target.width_bound == 'measured' else None)
            on_rim = 1000 * scene.surface_distance(i, target.point) < 2
            assert on_rim, (seed, i)
            if item.shape == 'bowl':
                assert target.grasp == 'rim'
    for shape, ratios in kinds.items():
        assert len(ratios) >= 5, shape
        assert None not in ratios, shape
        assert 0.95 < min(ratios) <= max(ratios) < 1.06, shape


def test_the_bowl_that_a_gripper_was_told_would_fit():
    scene = scene_of(900006)
    target = find_target(scene.mask(5), scene.depth, scene.intrinsics, [])
    assert scene.objects[5].shape == 'bowl'
    assert target.width == pytest.approx(2 * scene.objects[5].placed.model.radius, rel=0.05)
    assert target.grasp == 'rim'


@pytest.mark.parametrize('shape', ['ball', 'bottle', 'box', 'can', 'cone'])
def test_solid_things_are_grasped_around_their_body(shape):
    scene = scene_of(31, shapes=(shape,), crowding=0.0)
    depth = noisy_depth(scene, np.random.Generator(np.random.PCG64(5)), noise=0.003)
    for i in range(len(scene.objects)):
        target = find_target(scene.mask(i), depth, scene.intrinsics, [])
        assert target.grasp == 'body'
        assert target.width == pytest.approx(scene.extent(i, target.closing_vector), rel=0.08)


def test_the_box_holds_what_is_seen_and_says_what_is_out_of_sight():
    scene = scene_of(31, shapes=('can',), crowding=0.0)
    for i, item in enumerate(scene.objects):
        target = find_target(scene.mask(i), scene.depth, scene.intrinsics, [])
        axes = np.array(target.box.axes)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(axes) == pytest.approx(1)
        np.testing.assert_allclose(axes[0], target.closing_vector)
        assert target.box.extents[0] == pytest.approx(target.width, rel=0.01)
        up = scene.camera.rotation.T @ (0, 0, 1)
        assert axes[2] @ up > 0.99
        assert target.box.extents[2] == pytest.approx(item.height, rel=0.1)
        for axis, extent, bound in zip(axes, target.box.extents, target.box.bounds, strict=True):
            exact = scene.extent(i, axis)
            assert extent < 1.05 * exact
            if bound == 'measured':
                assert extent > 0.93 * exact
