# SPDX-License-Identifier: Apache-2.0
"""Metric targets against scenes and shapes whose surface is known exactly."""

import numpy as np
import pytest

from segzero_core.synthetic import make_scene, noisy_depth
from segzero_core.types import Intrinsics, Point
from segzero_ros.grasp import TargetError, find_target

CAMERA = Intrinsics(100.0, 110.0, 39.5, 29.5)
SHAPE = (60, 80)


def disc(row, column, radius, inner=0.0):
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(rows - row, columns - column)
    return (distance <= radius) & (distance >= inner)


def flat(depth=0.5):
    return np.full(SHAPE, depth, np.float32)


def on(mask, pixel):
    return bool(mask[int(pixel.y), int(pixel.x)])


def test_points_are_in_the_optical_frame():
    target = find_target(disc(30, 40, 12), flat(), CAMERA, [Point(44, 26), Point(36, 34)])
    assert target.points[0] == pytest.approx((4.5 / 100 * 0.5, -3.5 / 110 * 0.5, 0.5))
    assert target.points[1] == pytest.approx((-3.5 / 100 * 0.5, 4.5 / 110 * 0.5, 0.5))
    assert target.pixels == (Point(44, 26), Point(36, 34))


def test_the_reasoners_deepest_point_is_the_best():
    inner, outer = Point(41, 31), Point(51, 30)
    target = find_target(disc(30, 40, 15), flat(), CAMERA, [outer, inner])
    assert target.pixel == inner


def test_points_at_the_outline_yield_to_the_objects_middle():
    edges = [Point(54, 30), Point(26, 30)]
    target = find_target(disc(30, 40, 15), flat(), CAMERA, edges)
    assert abs(target.pixel.x - 40) <= 1
    assert abs(target.pixel.y - 30) <= 1


def test_without_points_the_middle_is_the_best():
    target = find_target(disc(30, 40, 15), flat(), CAMERA, [])
    assert target.points == ()
    assert abs(target.pixel.x - 40) <= 1


def test_a_ring_is_not_grasped_in_its_hole():
    ring = disc(30, 40, 22, inner=10)
    depth = np.where(ring, np.float32(0.5), np.float32(0.9))
    target = find_target(ring, depth, CAMERA, [Point(40, 30), Point(41, 30)])
    for pixel in (target.pixel, *target.pixels):
        assert on(ring, pixel)
    assert target.point[2] == pytest.approx(0.5)


def test_what_a_leaking_mask_adds_is_left_out():
    thing, leak = disc(30, 30, 14), disc(30, 56, 10)
    depth = np.where(thing, np.float32(0.5), np.float32(0.9))
    target = find_target(thing | leak, depth, CAMERA, [Point(58, 30), Point(56, 31)])
    for pixel in (target.pixel, *target.pixels):
        assert on(thing, pixel)
    assert target.point[2] == pytest.approx(0.5)


@pytest.mark.parametrize('hole', [0.0, np.nan, np.inf, -1.0, 25.0])
def test_pixels_without_depth_are_not_used(hole):
    mask = disc(30, 40, 15)
    depth = flat()
    depth[25:36, 35:46] = hole
    target = find_target(mask, depth, CAMERA, [Point(40, 30), Point(41, 30)])
    for pixel, point in zip(
        (target.pixel, *target.pixels), (target.point, *target.points), strict=True
    ):
        assert depth[int(pixel.y), int(pixel.x)] == np.float32(0.5)
        assert point[2] == pytest.approx(0.5)


def test_a_mask_thinner_than_the_eroded_edge_still_has_a_target():
    mask = np.zeros(SHAPE, bool)
    mask[30:32, 10:70] = True
    target = find_target(mask, flat(), CAMERA, [Point(40, 30), Point(50, 31)])
    assert on(mask, target.pixel)


def test_a_mask_that_the_border_cuts():
    mask = disc(0, 0, 20)
    target = find_target(mask, flat(), CAMERA, [Point(0, 0), Point(1, 1)])
    assert on(mask, target.pixel)
    assert target.pixel.x > 0
    assert target.pixel.y > 0


@pytest.mark.parametrize(
    ('kind', 'change'),
    [
        ('size_mismatch', {'depth': np.ones((30, 40), np.float32)}),
        ('empty_mask', {'mask': np.zeros(SHAPE, bool)}),
        ('no_valid_depth', {'depth': flat(0.0)}),
        ('no_valid_depth', {'depth': flat(11.0)}),
    ],
)
def test_why_there_is_no_target(kind, change):
    arguments = {'mask': disc(30, 40, 12), 'depth': flat(), 'intrinsics': CAMERA, **change}
    with pytest.raises(TargetError) as error:
        find_target(points=[Point(40, 30)], **arguments)
    assert error.value.kind == kind


def test_a_few_measured_pixels_are_not_trusted():
    depth = flat(0.0)
    depth[30, 38:43] = 0.5
    with pytest.raises(TargetError, match='only 5 pixels') as error:
        find_target(disc(30, 40, 12), depth, CAMERA, [Point(40, 30)])
    assert error.value.kind == 'too_few_pixels'


def test_a_kind_must_be_known():
    with pytest.raises(ValueError, match='unknown TargetError kind'):
        TargetError('nonsense', 'message')


@pytest.mark.parametrize('seed', range(700, 705))
def test_the_target_lies_on_the_exact_surface_despite_sensor_noise(seed):
    scene = make_scene(seed)
    depth = noisy_depth(scene, np.random.default_rng(seed))
    distances = []
    for i in range(len(scene.objects)):
        mask = scene.mask(i)
        rows, columns = np.nonzero(mask)
        middle = Point(columns.mean(), rows.mean())
        target = find_target(mask, depth, scene.intrinsics, [middle, middle])
        assert on(mask, target.pixel)
        distances.append(scene.surface_distance(i, target.point))
    assert np.median(distances) < 0.01
