# SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes: exactness of masks, depth and surfaces; one true answer per sentence."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from segzero_core.errors import SceneError, UnknownNameError
from segzero_core.synthetic import (
    COLOURS,
    KINDS,
    SHAPES,
    SIZES,
    TABLES,
    VERSION,
    make_scene,
    noisy_depth,
)
from segzero_core.synthetic.shapes import build
from segzero_core.types import Size

SMALL = Size(160, 120)
NAMES = {'cup': 'mug', 'tin': 'can', 'little': 'small', 'big': 'large'}


@pytest.fixture(scope='module')
def scenes():
    return [make_scene(seed) for seed in range(6)]


@pytest.fixture(scope='module')
def small_scenes():
    return [make_scene(seed, SMALL) for seed in range(80)]


def camera_points(scene, mask):
    rows, columns = np.nonzero(mask)
    depth = scene.depth[mask].astype(np.float64)
    fx, fy, cx, cy = scene.intrinsics
    return np.column_stack([(columns - cx) / fx * depth, (rows - cy) / fy * depth, depth])


def test_everything_has_the_promised_shape_and_type(scenes):
    for scene in scenes:
        assert scene.image.shape == (480, 640, 3)
        assert scene.image.dtype == np.uint8
        assert scene.depth.shape == (480, 640)
        assert scene.depth.dtype == np.float32
        assert np.isfinite(scene.depth).all()
        assert scene.instances.shape == (480, 640)
        assert 3 <= len(scene.objects) <= 7
        assert set(np.unique(scene.instances)) == set(range(len(scene.objects) + 1))


def test_masked_pixels_lie_on_the_exact_surface(scenes):
    shapes = set()
    for scene in scenes:
        for i, item in enumerate(scene.objects):
            points = camera_points(scene, scene.mask(i))
            step = max(1, len(points) // 40)
            distances = [scene.surface_distance(i, point) for point in points[::step]]
            assert max(distances) < 1e-6, item
            shapes.add(item.shape)
    assert len(shapes) >= 6


def test_other_pixels_lie_on_the_table(scenes):
    for scene in scenes:
        world = scene.camera.to_world(camera_points(scene, scene.instances == 0))
        assert np.abs(world[:, 2]).max() < 1e-6


def test_nothing_of_an_object_lies_in_front_of_what_is_seen(scenes):
    # Surface points found without the ray caster are never nearer than the depth image there.
    rng = np.random.default_rng(0)
    scene = scenes[0]
    nearest = cv2.erode(scene.depth, np.ones((3, 3), np.uint8))  # a point may fall between pixels
    for item in scene.objects:
        placed, model = item.placed, item.placed.model
        local = rng.uniform(-1, 1, (40000, 3)) * [model.radius, model.radius, model.height / 2]
        local[:, 2] += model.height / 2
        near = np.min([part.solid.distance(local) for part in model.parts], axis=0) < 2e-4
        c, s = np.cos(placed.yaw), np.sin(placed.yaw)
        world = local[near] @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + placed.position
        u, v = np.rint(scene.camera.project(world)).astype(int).T
        depth = scene.camera.to_camera(world)[:, 2]
        assert near.sum() > 100
        assert (depth - nearest[v, u]).min() > -0.001


@pytest.mark.parametrize('shape', SHAPES)
def test_distances_are_those_to_the_nearest_surface_point(shape):
    # The surface is sampled by rays from all around; the exact distance must agree.
    rng = np.random.default_rng(1)
    model = build(shape, 'medium', rng.uniform(-1, 1, 3))
    directions = rng.normal(size=(60000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    middle = np.array([0, 0, model.height / 2])
    targets = middle + rng.uniform(-1, 1, (60000, 3)) * [model.radius] * 3
    origins = targets + directions
    t = np.min([part.solid.hit(origins, -directions) for part in model.parts], axis=0)
    surface = (origins - t[:, None] * directions)[np.isfinite(t)]
    surface = surface[surface[:, 2] > 1e-4]
    exact = np.min([part.solid.distance(surface) for part in model.parts], axis=0)
    assert exact.max() < 1e-9
    outside = middle + directions[:200] * (model.radius + model.height)
    outside[:, 2] = np.abs(outside[:, 2]) + 0.02
    sampled = [np.linalg.norm(surface - point, axis=1).min() for point in outside]
    exact = np.min([part.solid.distance(outside) for part in model.parts], axis=0)
    assert np.all(exact <= np.array(sampled) + 1e-9)
    assert np.abs(exact - sampled).max() < 0.006


def test_rings_show_the_table_through_their_hole():
    holes = rings = 0
    for seed in range(8):
        scene = make_scene(seed, shapes=('ring',), count=(2, 3))
        for i, item in enumerate(scene.objects):
            outside, _, areas, _ = cv2.connectedComponentsWithStats(
                (~scene.mask(i)).view(np.uint8)
            )
            rings += item.visible == 1
            holes += outside > 2 and np.sort(areas[1:, cv2.CC_STAT_AREA])[-2] > 20
    assert rings > 8
    assert holes >= rings


def test_the_same_seed_makes_the_same_scene():
    first, second = make_scene(12, SMALL), make_scene(12, SMALL)
    assert first.objects == second.objects
    assert first.queries() == second.queries()
    for name in ('image', 'depth', 'instances'):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.image, make_scene(13, SMALL).image)


def test_a_seed_means_the_same_scene_on_every_machine():
    # A change here changes every benchmark and training set: raise VERSION along with it.
    assert VERSION == 2
    scene = make_scene(7)
    assert scene.table == 'marble'
    assert [(item.size, item.colour, item.shape) for item in scene.objects] == [
        ('medium', 'orange', 'bottle'),
        ('small', 'black', 'ring'),
        ('small', 'orange', 'mug'),
        ('large', 'black', 'can'),
        ('large', 'black', 'mug'),
        ('medium', 'orange', 'ring'),
    ]
    position = (-0.15291057223780968, -0.01731453368429281, 0.0)
    assert scene.objects[0].position == pytest.approx(position, abs=1e-9)
    assert scene.image.mean(axis=(0, 1)) == pytest.approx((179.16, 174.40, 170.54), abs=0.5)
    areas = (266954, 8742, 4079, 4793, 11897, 8197, 2538)
    assert np.bincount(scene.instances.ravel()) == pytest.approx(areas, abs=2)
    sentences = scene.queries()
    assert len(sentences) == 83
    assert sentences[4] == ('the little mug', 'attribute', 2)


def test_held_out_shapes_colours_and_tables_do_not_appear():
    for seed in range(30):
        scene = make_scene(
            seed, SMALL, shapes=('mug', 'box'), colours=('red', 'white'), tables=('oak', 'marble')
        )
        assert {item.shape for item in scene.objects} <= {'mug', 'box'}
        assert {item.colour for item in scene.objects} <= {'red', 'white'}
        assert scene.table in ('oak', 'marble')
        assert all(item.colour not in TABLES[scene.table] for item in scene.objects)


def test_everything_there_is_appears(small_scenes):
    items = [item for scene in small_scenes for item in scene.objects]
    assert {item.shape for item in items} == set(SHAPES)
    assert {item.colour for item in items} == set(COLOURS)
    assert {item.size for item in items} == set(SIZES)
    assert {scene.table for scene in small_scenes} == set(TABLES)
    assert min(item.visible for item in items) > 0.5


def test_things_hide_parts_of_one_another(small_scenes):
    visible = np.array([item.visible for scene in small_scenes for item in scene.objects])
    assert (visible < 1.0).mean() > 0.12
    assert (visible < 0.9).mean() > 0.04


def test_crowding_makes_objects_hide_one_another():
    def hidden(crowding):
        scenes = [make_scene(seed, SMALL, crowding=crowding) for seed in range(40)]
        return np.mean([item.visible < 0.97 for scene in scenes for item in scene.objects])

    assert hidden(0.0) < 0.04
    assert 0.1 < hidden(0.9) < 0.6


def test_objects_do_not_sink_into_one_another(small_scenes):
    for scene in small_scenes:
        for i, a in enumerate(scene.objects):
            for b in scene.objects[:i]:
                gap = np.hypot(a.position[0] - b.position[0], a.position[1] - b.position[1])
                assert gap > a.placed.model.radius + b.placed.model.radius


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        ({'shapes': ('mgu',)}, UnknownNameError, "Did you mean 'mug'"),
        ({'colours': ('mauve',)}, UnknownNameError, 'mauve'),
        ({'tables': ()}, SceneError, 'no table to choose from'),
        ({'colours': ('white',), 'tables': ('marble',)}, SceneError, 'white shows on marble'),
        ({'count': (5, 2)}, SceneError, r'\(5, 2\)'),
        ({'count': (1, 300)}, SceneError, '255'),
        ({'crowding': 1.5}, SceneError, '1.5'),
        ({'seed': -1}, SceneError, '-1'),
        ({'size': Size(0, 4)}, SceneError, '0 x 4'),
    ],
)
def test_impossible_scenes_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        make_scene(**{'seed': 1, 'size': SMALL, **change})


def test_any_size_works():
    for size in (Size(1, 1), Size(16, 12), Size(50, 90)):
        assert make_scene(3, size).image.shape == (size.height, size.width, 3)
    assert make_scene(3, SMALL, count=(0, 0)).objects == ()


# -- sentences ---------------------------------------------------------------------------------


def test_every_kind_of_sentence_is_made(small_scenes):
    kinds = [query.kind for scene in small_scenes for query in scene.queries()]
    assert set(kinds) == set(KINDS)
    assert min(kinds.count(kind) for kind in KINDS) >= 30


def test_a_sentence_has_one_target_that_can_be_seen(small_scenes):
    for scene in small_scenes:
        texts = [query.text for query in scene.queries()]
        assert len(texts) == len(set(texts))
        for query in scene.queries():
            assert scene.objects[query.target].visible >= 0.7


def words_of(text):
    return [NAMES.get(word, word) for word in re.findall('[a-z]+', text)]


def fitting(scene, text):
    """Which objects have all attributes that a plain phrase names; an independent reading."""
    words = set(words_of(text))
    said = [words & set(names) for names in (SHAPES, COLOURS, SIZES)]
    return [
        i
        for i, item in enumerate(scene.objects)
        if all(
            not names or value in names
            for names, value in zip(said, (item.shape, item.colour, item.size), strict=True)
        )
    ]


def test_attributes_fit_exactly_one_object(small_scenes):
    for scene in small_scenes:
        for query in scene.queries():
            if query.kind == 'attribute':
                assert fitting(scene, query.text) == [query.target], query.text


def test_sides_are_true_and_nothing_else_fits(small_scenes):
    checked = 0
    for scene in small_scenes:
        centres = [np.nonzero(scene.mask(i))[1].mean() for i in range(len(scene.objects))]
        for query in scene.queries():
            found = re.fullmatch(r'the (.+?) (?:to the )?(left|right) of the (.+)', query.text)
            if query.kind != 'relation' or not found:
                continue
            noun, side, anchor_words = found.groups()
            (anchor,) = fitting(scene, anchor_words)
            sign = -1 if side == 'left' else 1
            there = [i for i in fitting(scene, noun) if sign * (centres[i] - centres[anchor]) > 0]
            assert there == [query.target], query.text
            checked += 1
    assert checked > 100


def test_superlatives_are_true(small_scenes):
    checked = 0
    for scene in small_scenes:
        columns = [np.nonzero(scene.mask(i))[1].mean() for i in range(len(scene.objects))]
        areas = [int(scene.mask(i).sum()) for i in range(len(scene.objects))]
        for query in scene.queries():
            for word, values, best in (
                ('leftmost', columns, min),
                ('rightmost', columns, max),
                ('largest', areas, max),
                ('smallest', areas, min),
            ):
                if query.kind == 'superlative' and word in query.text:
                    group = fitting(scene, query.text)
                    assert best(group, key=values.__getitem__) == query.target, query.text
                    checked += 1
    assert checked > 100


def test_exclusions_leave_exactly_one_object(small_scenes):
    checked = 0
    for scene in small_scenes:
        for query in scene.queries():
            if query.kind != 'exclusion':
                continue
            wanted, unwanted = re.split(r"that (?:is not|isn't|is neither)", query.text)
            group = fitting(scene, wanted)
            out = set().union(*(fitting(scene, part) for part in unwanted.split(' nor ')))
            assert [i for i in group if i not in out] == [query.target], query.text
            checked += 1
    assert checked > 100


def test_only_one_object_serves_a_purpose(small_scenes):
    vessels = {'mug', 'bottle', 'can', 'bowl'}
    for scene in small_scenes:
        for query in scene.queries():
            if query.kind == 'function' and 'drink' in query.text:
                able = [i for i, item in enumerate(scene.objects) if item.shape in vessels]
                assert able == [query.target]
                assert scene.objects[query.target].shape == 'mug'


# -- sensor ------------------------------------------------------------------------------------


def test_noisy_depth_is_noisy_as_asked(scenes):
    scene = scenes[0]
    measured = noisy_depth(scene, np.random.default_rng(0), noise=0.02, invalid=0.1)
    assert measured.dtype == np.float32
    assert measured.shape == scene.depth.shape
    valid = measured > 0
    assert 0.05 < 1 - valid.mean() <= 0.101
    relative = (measured[valid] - scene.depth[valid]) / scene.depth[valid]
    assert relative.std() == pytest.approx(0.02, rel=0.02)
    assert abs(relative.mean()) < 5e-4


def test_depth_is_lost_at_edges_and_in_patches(scenes):
    scene = scenes[0]
    lost = noisy_depth(scene, np.random.default_rng(0), noise=0.0, invalid=0.06) == 0
    step = np.hypot(*np.gradient(scene.depth))
    edge = step > np.quantile(step, 0.99)
    assert lost[edge].mean() > 0.7
    assert lost[~edge].mean() < 0.08
    kept = ~lost
    measured = noisy_depth(scene, np.random.default_rng(0), noise=0.0, invalid=0.06)
    assert np.array_equal(measured[kept], scene.depth[kept])


def test_importing_it_needs_no_torch():
    code = 'import sys, segzero_core.synthetic; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
