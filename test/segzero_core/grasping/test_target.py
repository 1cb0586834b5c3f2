# SPDX-License-Identifier: Apache-2.0
"""Metric targets against scenes and shapes whose surface is known exactly."""

import functools

import cv2
import numpy as np
import pytest

from segzero_core.errors import CalibrationError, TargetError
from segzero_core.grasping.camera_model import Distortion, rays
from segzero_core.grasping.target import find_target
from segzero_core.synthetic import make_scene, noisy_depth
from segzero_core.types import Intrinsics, Point

CAMERA = Intrinsics(100.0, 110.0, 39.5, 29.5)
SHAPE = (60, 80)


scene_of = functools.lru_cache(make_scene)


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


WIDE = Intrinsics(300.0, 310.0, 159.5, 119.5)
LARGE = (240, 320)
ROWS, COLUMNS = np.mgrid[: LARGE[0], : LARGE[1]]
X, Y = (COLUMNS - WIDE.cx) / WIDE.fx, (ROWS - WIDE.cy) / WIDE.fy


def tilted(degrees, distance=0.6, turn=30):
    """Depth of a plane through (0, 0, distance), and its normal."""
    tilt, turn = np.radians(degrees), np.radians(turn)
    normal = np.array([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)])
    depth = normal[2] * distance / (normal[0] * X + normal[1] * Y + normal[2])
    return depth.astype(np.float32), normal


def large_disc(row, column, radius):
    return np.hypot(ROWS - row, COLUMNS - column) <= radius


def flying(depth):
    """Measure like a sensor that averages over a patch: in mid-air at every edge."""
    return cv2.blur(depth, (5, 5))


@pytest.mark.parametrize('degrees', [0, 30, 60, 75])
def test_every_point_lies_on_a_tilted_plane(degrees):
    depth, normal = tilted(degrees)
    mask = large_disc(120, 160, 40)
    # Next to the outline, all trustworthy depth is on one side.
    edges = [Point(160 + 40 * np.cos(a), 120 + 40 * np.sin(a)) for a in np.radians([30, 120, 210])]
    target = find_target(mask, depth, WIDE, edges)
    for point in (target.point, *target.points):
        assert abs(normal @ (np.array(point) - (0, 0, 0.6))) < 0.0002


def test_a_coarse_camera_that_looks_along_a_table_still_has_a_target():
    rows, _ = np.mgrid[: SHAPE[0], : SHAPE[1]]
    y = (rows - CAMERA.cy) / CAMERA.fy
    normal = np.array([0.0, np.sin(np.radians(75)), np.cos(np.radians(75))])
    depth = (normal[2] * 0.6 / (y * normal[1] + normal[2])).astype(np.float32)
    target = find_target(disc(30, 40, 12), depth, CAMERA, [])
    assert abs(normal @ (np.array(target.point) - (0, 0, 0.6))) < 0.0002


def test_a_long_thing_seen_from_its_end_keeps_both_ends():
    # A pan: most of it faces the camera, its handle runs 0.4 m away from it.
    pan = large_disc(120, 80, 45)
    handle = (np.abs(ROWS - 120) <= 8) & (COLUMNS > 120) & (COLUMNS < 300)
    depth = np.where(handle, 0.6 + 0.4 * np.clip((COLUMNS - 120) / 180, 0, 1), 0.6)
    mask = pan | handle
    depth = np.where(mask, depth, 1.5).astype(np.float32)
    target = find_target(mask, depth, WIDE, [Point(290, 120), Point(80, 120)])
    assert target.pixels[0] == Point(290, 120)
    assert target.points[0][2] == pytest.approx(0.6 + 0.4 * 170 / 180, abs=0.001)


def test_flying_pixels_at_the_outline_are_not_used():
    mask = large_disc(120, 160, 30)
    depth = flying(np.where(mask, np.float32(0.5), np.float32(1.2)))
    assert (depth[mask] > 0.6).any()
    edges = [Point(160 + 30 * np.cos(a), 120 + 30 * np.sin(a)) for a in np.linspace(0, 6, 12)]
    target = find_target(mask, depth, WIDE, edges)
    assert [point[2] for point in target.points] == pytest.approx([0.5] * 12, abs=1e-4)


@pytest.mark.parametrize(('measure', 'off'), [(flying, 0.002), (np.asarray, 0.0001)])
def test_points_at_a_rim_inside_the_object_are_on_one_side_of_it(measure, off):
    # A cup from above, tilted: the rim is near, the bottom far, both are the cup's.
    rim, bottom = large_disc(120, 160, 40), large_disc(120, 160, 25)
    plane, _ = tilted(40, 0.5)
    depth = measure(plane + np.select([bottom, rim], [0.06, 0.0], 0.3).astype(np.float32))
    on_the_edge = [Point(160 + 25, 120), Point(160, 120 - 25), Point(160 - 25, 120)]
    target = find_target(rim, depth, WIDE, on_the_edge)
    for pixel, point in zip(
        (target.pixel, *target.pixels), (target.point, *target.points), strict=True
    ):
        above = point[2] - plane[int(pixel.y), int(pixel.x)]
        assert min(abs(above), abs(above - 0.06)) < off


def test_the_best_point_keeps_away_from_steps_on_the_object():
    mask = large_disc(120, 160, 40)
    depth = np.where(COLUMNS < 160, np.float32(0.5), np.float32(0.54))
    target = find_target(mask, depth, WIDE, [])
    assert abs(target.pixel.x - 160) > 12


@pytest.mark.parametrize('thickness', [2, 4, 6, 8])
def test_thin_things_keep_their_middle(thickness):
    mask = (np.abs(ROWS - 119.5) < thickness / 2) & (np.abs(COLUMNS - 160) < 80)
    depth = np.where(mask, np.float32(0.5), np.float32(0.9))
    if thickness > 4:  # the others are all edge
        depth = cv2.blur(depth, (3, 3))
    target = find_target(mask, depth, WIDE, [Point(100, 119), Point(200, 120)])
    for pixel, point in zip(target.pixels, target.points, strict=True):
        assert on(mask, pixel)
        assert point[2] == pytest.approx(0.5, abs=1e-4)
    assert target.width == pytest.approx(thickness / 310 * 0.5, rel=0.05)


def test_a_wire_of_single_pixels():
    mask = np.zeros(LARGE, bool)
    np.fill_diagonal(mask[50:150, 60:160], True)
    depth = np.where(mask, np.float32(0.5), np.float32(0.9))
    target = find_target(mask, depth, WIDE, [Point(110, 100), Point(130, 120)])
    assert on(mask, target.pixel)
    assert target.point[2] == pytest.approx(0.5)


def test_single_wild_measurements_do_not_move_a_point():
    depth, normal = tilted(40)
    depth[::4, ::4] *= 0.8
    depth[2::4, 2::4] *= 1.4
    mask = large_disc(120, 160, 40)
    # The first point is on a wild measurement, which must not become the target.
    target = find_target(mask, depth, WIDE, [Point(160, 120), Point(162, 122)])
    for point in (target.point, *target.points):
        assert abs(normal @ (np.array(point) - (0, 0, 0.6))) < 0.001


@pytest.mark.parametrize(('share', 'enough'), [(0.1, False), (0.3, True)])
def test_too_small_a_measured_share_is_no_target(share, enough):
    mask = large_disc(120, 160, 40)
    depth = np.full(LARGE, 0.5, np.float32)
    depth[np.random.default_rng(3).random(LARGE) > share] = 0
    if enough:
        assert find_target(mask, depth, WIDE, []).point[2] == pytest.approx(0.5)
        return
    with pytest.raises(TargetError, match=r'only \d+\.\d% of the mask .* 20\.0% is') as error:
        find_target(mask, depth, WIDE, [])
    assert error.value.kind == 'sparse_depth'
    assert find_target(mask, depth, WIDE, [], min_valid=0.05).point[2] == pytest.approx(0.5)


def test_points_keep_away_from_where_hardly_anything_was_measured():
    mask = large_disc(120, 160, 60)
    depth = np.full(LARGE, 0.5, np.float32)
    few = (COLUMNS > 150) & ((ROWS % 5 > 0) | (COLUMNS % 5 > 0))
    depth[few] = 0
    target = find_target(mask, depth, WIDE, [Point(190, 120), Point(180, 100)])
    for pixel in (target.pixel, *target.pixels):
        assert pixel.x <= 153  # up to the window that decides


@pytest.mark.parametrize('nothing', [0.0, np.nan])
@pytest.mark.parametrize('seed', range(700, 702))
def test_an_object_without_depth_has_no_target_whatever_stands_behind_it(seed, nothing):
    scene = scene_of(seed)
    for i in range(len(scene.objects)):
        depth = np.where(scene.mask(i), np.float32(nothing), scene.depth)
        with pytest.raises(TargetError) as error:
            find_target(scene.mask(i), depth, scene.intrinsics, [])
        assert error.value.kind == 'no_valid_depth'


LENSES = [
    Distortion('plumb_bob', (-0.35, 0.15, 0.001, -0.002, 0.0)),
    Distortion('rational_polynomial', (0.4, -0.2, 1e-4, -2e-4, 0.05, 0.7, -0.1, 0.02)),
    Distortion('equidistant', (-0.01, 0.02, -0.01, 0.002)),
]


@pytest.mark.parametrize('lens', LENSES, ids=lambda lens: lens.model)
def test_the_lens_shows_every_point_at_its_pixel(lens):
    depth, _ = tilted(30)
    marks = [Point(20, 15), Point(250, 200)]
    target = find_target(np.ones(LARGE, bool), depth, WIDE, marks, distortion=lens)
    project = cv2.fisheye.projectPoints if lens.model == 'equidistant' else cv2.projectPoints
    matrix = np.array([[WIDE.fx, 0, WIDE.cx], [0, WIDE.fy, WIDE.cy], [0, 0, 1]])
    points = np.array([target.point, *target.points])[:, None]
    seen, _ = project(points, np.zeros(3), np.zeros(3), matrix, np.array(lens.coefficients))
    np.testing.assert_allclose(seen[:, 0], [target.pixel, *target.pixels], atol=0.01)
    plain = find_target(np.ones(LARGE, bool), depth, WIDE, marks)
    assert np.linalg.norm(np.subtract(plain.points[0], target.points[0])) > 0.01


@pytest.mark.parametrize(
    ('intrinsics', 'distortion'),
    [(Intrinsics(0.0, 0.0, 0.0, 0.0), None), (CAMERA, Distortion('odd', (1.0,)))],
)
def test_a_calibration_that_cannot_be_used(intrinsics, distortion):
    with pytest.raises(CalibrationError):
        find_target(disc(30, 40, 12), flat(), intrinsics, [], distortion=distortion)


def test_where_the_object_is_in_the_image_changes_nothing_else():
    for column in (60, 160, 260):
        mask = large_disc(120, column, 30)
        target = find_target(mask, np.full(LARGE, 0.5, np.float32), WIDE, [Point(column, 120)])
        assert target.pixel == Point(column, 120)
        expected = ((column - WIDE.cx) / WIDE.fx * 0.5, (120 - WIDE.cy) / WIDE.fy * 0.5, 0.5)
        assert target.point == pytest.approx(expected, abs=1e-7)
        assert target.width == pytest.approx(61 / 310 * 0.5, rel=0.04)


def test_what_a_leaking_mask_adds_does_not_widen_the_object():
    bar = (np.abs(ROWS - 60) <= 15) & (np.abs(COLUMNS - 160) <= 70)
    leak = (ROWS > 75) & (ROWS <= 180) & (np.abs(COLUMNS - 160) <= 18)
    depth = np.where(bar, np.float32(0.5), np.float32(0.8))
    target = find_target(bar | leak, depth, WIDE, [Point(160, 60), Point(150, 60)])
    assert target.width == pytest.approx(31 / 310 * 0.5, rel=0.15)
    assert abs(target.closing.y) > 0.98
    assert abs(target.axis.x) > 0.98


@pytest.mark.parametrize('lens', LENSES, ids=lambda lens: lens.model)
def test_widths_are_measured_through_the_lens(lens):
    x, y = rays(np.column_stack([COLUMNS.ravel(), ROWS.ravel()]), WIDE, lens).T
    plate = ((np.abs(x * 0.5) < 0.2) & (np.abs(y * 0.5) < 0.15)).reshape(LARGE)
    target = find_target(plate, np.full(LARGE, 0.5, np.float32), WIDE, [], distortion=lens)
    assert target.width == pytest.approx(0.3, rel=0.02)


def test_a_ball_is_about_as_wide_as_it_is():
    radius, centre = 0.04, np.array([0.05, -0.02, 0.6])
    lines = np.stack([X, Y, np.ones(LARGE)], axis=-1)
    a, b, c = (lines**2).sum(-1), lines @ centre, centre @ centre - radius**2
    hit = b * b > a * c
    depth = np.where(hit, (b - np.sqrt(np.maximum(b * b - a * c, 0))) / a, 1.0).astype(np.float32)
    target = find_target(hit, depth, WIDE, [])
    assert target.width == pytest.approx(2 * radius, rel=0.1)
    assert target.axis is None
    assert np.linalg.norm(target.point - centre) == pytest.approx(radius, abs=0.001)


@pytest.mark.parametrize('seed', range(700, 704))
def test_the_target_lies_on_the_exact_surface_despite_sensor_noise(seed):
    scene = scene_of(seed)
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


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('seed', range(40))
def test_whatever_comes_there_is_a_point_on_the_mask_or_a_reason(seed):
    rng = np.random.default_rng(seed)
    for _ in range(5):
        shape = tuple(rng.integers(1, 60, 2))
        mask = rng.random(shape) < rng.choice([0.1, 0.6, 0.95, 1])
        depth = rng.random(shape) * rng.choice([0.01, 1, 12]) + rng.choice([0, 0.5])
        depth[rng.random(shape) < rng.choice([0, 0.3, 0.6])] = rng.choice([0, np.nan, np.inf, -1])
        points = [Point(*rng.uniform(-5, 70, 2)) for _ in range(rng.integers(0, 3))]
        try:
            target = find_target(mask, depth.astype(np.float32), CAMERA, points)
        except TargetError:
            continue
        for pixel, point in zip(
            (target.pixel, *target.pixels), (target.point, *target.points), strict=True
        ):
            assert on(mask, pixel)
            assert np.isfinite(point).all()
            assert 0.1 <= point[2] <= 10
        assert target.width is None or target.width > 0


# -- objects that fill a large image --------------------------------------------------------------

HD = Intrinsics(900.0, 900.0, 639.5, 359.5)
HD_ROWS, HD_COLUMNS = np.mgrid[:720, :1280]


def measured_plane(rng):
    """Depth of a plane that is farther on the right, with noise and gaps."""
    depth = 1 / (1 / 0.8 - 0.0003 * (HD_COLUMNS - 639.5)) * rng.normal(1, 0.01, (720, 1280))
    depth[rng.random(depth.shape) < 0.05] = 0
    return depth.astype(np.float32)


def plane_error(target):
    """Return how far off the plane of ``measured_plane`` the target is, metres along its ray."""
    return abs(target.point[2] - 1 / (1 / 0.8 - 0.0003 * (target.pixel.x - 639.5)))


@pytest.mark.parametrize('inner', [0, 150])
def test_a_large_object_is_measured_as_well_as_a_small_one(inner):
    far = np.hypot(HD_ROWS - 360, HD_COLUMNS - 640)
    mask = (far < 330) & (far >= inner)
    wanted = [Point(640.0, 360.0), Point(500.0, 200.0)]
    target = find_target(mask, measured_plane(np.random.default_rng(0)), HD, wanted)
    assert on(mask, target.pixel)
    assert np.hypot(target.pixels[1].x - 500, target.pixels[1].y - 200) < 3
    assert plane_error(target) < 0.005
    ray = (target.point[0] / target.point[2], target.point[1] / target.point[2])
    assert ray == pytest.approx(
        ((target.pixel.x - 639.5) / 900, (target.pixel.y - 359.5) / 900), abs=1e-9
    )


@pytest.mark.parametrize('cut', [False, True])
def test_the_width_of_a_large_object_is_known_unless_the_border_cuts_it(cut):
    mask = np.zeros((720, 1280), bool)
    mask[3 * (not cut) : 720 - 3 * (not cut), 3 * (not cut) : 1280 - 3 * (not cut)] = True
    depth = np.full((720, 1280), 0.8, np.float32)
    target = find_target(mask, depth, HD, [Point(640.0, 360.0)])
    if cut:
        assert target.width is None
    else:
        assert target.width == pytest.approx(714 * 0.8 / 900, rel=0.01)
        assert abs(target.closing.y) > 0.99


@pytest.mark.parametrize('period', [2, 3, 4, 5])
def test_a_grid_of_depth_is_seen_in_any_block_size(period):
    """Depth that was registered to a larger image measures only every second, third, ... pixel."""
    mask = np.zeros((720, 1280), bool)
    mask[50:670, 100:1180] = True
    depth = np.zeros((720, 1280), np.float32)
    depth[1::period, 1::period] = 0.8
    target = find_target(mask, depth, HD, [Point(640.0, 360.0)], min_valid=0.02)
    assert target.point[2] == pytest.approx(0.8)


def test_a_long_thin_object_keeps_its_width_in_a_large_image():
    mask = np.abs(HD_ROWS - 360 - 0.3 * (HD_COLUMNS - 640)) < 6
    depth = np.full((720, 1280), 0.8, np.float32)
    target = find_target(mask, depth, HD, [Point(640.0, 360.0)])
    assert target.width == pytest.approx(12 / np.hypot(1, 0.3) * 0.8 / 900, rel=0.15)
