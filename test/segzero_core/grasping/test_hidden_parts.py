# SPDX-License-Identifier: Apache-2.0
"""Widths of things of exactly known size that something nearer hides in part."""

import numpy as np
import pytest

from segzero_core.grasping.target import find_target
from segzero_core.synthetic import make_scene, noisy_depth
from segzero_core.types import Intrinsics

CAMERA = Intrinsics(300.0, 300.0, 159.5, 119.5)
SHAPE = (240, 320)
X, Y = np.meshgrid(np.arange(SHAPE[1]) - 159.5, np.arange(SHAPE[0]) - 119.5)
FAR, NEAR = 0.6, 0.5  # metres to the object and to what hides it
PIXEL = FAR / 300.0
SIDES = [0, 70, 90, 135, 180, 250, 315]  # degrees, where the hidden part is


def measure(mask, hidden, seed=None):
    """Hide a part of a flat thing; with a seed, measure its depth with 1 % noise."""
    depth = np.where(hidden, NEAR, FAR).astype(np.float32)
    if seed is not None:
        noise = np.random.Generator(np.random.PCG64(seed)).normal(1, 0.01, SHAPE)
        depth = (depth * noise).astype(np.float32)
    return find_target(mask & ~hidden, depth, CAMERA, [])


def beyond(degrees, pixels):
    """The half of the image that lies farther than so many pixels from its middle."""
    turn = np.radians(degrees)
    return X * np.cos(turn) + Y * np.sin(turn) > pixels


def extents(target):
    """Pairs of metres and bound of the target's box, shortest first."""
    return sorted(zip(target.box.extents, target.box.bounds, strict=True))[1:]


@pytest.mark.parametrize('seed', [None, 1])
@pytest.mark.parametrize('degrees', SIDES)
def test_a_disc_is_known_where_a_little_of_one_side_is_hidden(degrees, seed):
    target = measure(np.hypot(X, Y) < 60, beyond(degrees, 45), seed)
    assert target.width == pytest.approx(120 * PIXEL, rel=0.04)
    assert target.width_bound == 'measured'


@pytest.mark.parametrize('degrees', SIDES)
def test_a_disc_is_not_known_where_more_than_half_is_hidden(degrees):
    assert measure(np.hypot(X, Y) < 60, beyond(degrees, -20)).width_bound == 'lower'


@pytest.mark.parametrize('degrees', SIDES)
def test_a_bar_is_known_across_but_not_along_where_its_end_is_hidden(degrees):
    turn = np.radians(degrees)
    along, across = X * np.cos(turn) + Y * np.sin(turn), Y * np.cos(turn) - X * np.sin(turn)
    bar = (np.abs(along) < 80) & (np.abs(across) < 18)
    target = measure(bar, beyond(degrees, 40))
    assert target.width == pytest.approx(36 * PIXEL, rel=0.05)
    assert target.width_bound == 'measured'
    (_, across_bound), (_, along_bound) = extents(target)
    assert (across_bound, along_bound) == ('measured', 'lower')


@pytest.mark.parametrize('share', [0.3, 0.2])
def test_a_wedge_may_grow_out_of_sight(share):
    """Its wide end is hidden: across, it is wider than all that is seen."""
    half = 0.4 * (X + 90)
    wedge = (np.abs(Y) < half) & (X > -90) & (X < 90)
    target = measure(wedge, beyond(0, 90 - 180 * share))
    assert abs(target.closing_vector[1]) > 0.9
    assert target.width < 2 * 0.4 * 180 * PIXEL * 0.9
    assert target.width_bound == 'lower'


@pytest.mark.parametrize('corner', [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_rectangle_is_known_where_only_a_corner_is_hidden(corner):
    right, down = corner
    rectangle = (np.abs(X) < 70) & (np.abs(Y) < 45)
    target = measure(rectangle, (right * X > 45) & (down * Y > 25))
    for (metres, bound), pixels in zip(extents(target), (90, 140), strict=True):
        assert metres == pytest.approx(pixels * PIXEL, rel=0.04)
        assert bound == 'measured'


def test_widths_in_crowded_scenes_are_as_said():
    """Of objects of which others hide up to a tenth, most widths are known, and none wrongly."""
    ratios, unknown = [], 0
    for seed in range(3_000_400, 3_000_412):
        scene = make_scene(seed, crowding=0.9)
        depth = noisy_depth(scene, np.random.Generator(np.random.PCG64(seed)), noise=0.01)
        for i, item in enumerate(scene.objects):
            if not 0.9 <= item.visible < 0.995:
                continue
            target = find_target(scene.mask(i), depth, scene.intrinsics, [])
            if target.width_bound == 'measured':
                ratios.append(target.width / scene.extent(i, target.closing_vector))
            else:
                unknown += 1
    assert len(ratios) >= 8
    assert unknown <= 0.2 * len(ratios)
    assert 0.85 < min(ratios) <= max(ratios) < 1.15
