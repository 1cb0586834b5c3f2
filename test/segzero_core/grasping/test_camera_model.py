# SPDX-License-Identifier: Apache-2.0
"""Rays through lenses, compared with a projection that is implemented here."""

import cv2
import numpy as np
import pytest

from segzero_core.errors import CalibrationError
from segzero_core.grasping.camera_model import Distortion, rays
from segzero_core.types import Intrinsics

CAMERA = Intrinsics(600.0, 610.0, 320.5, 238.5)
PIXELS = np.stack(np.meshgrid(np.linspace(0, 639, 9), np.linspace(0, 479, 7)), -1).reshape(-1, 2)


def radial_tangential(x, y, d):
    k1, k2, p1, p2, k3, k4, k5, k6 = (*d, 0, 0, 0)[:8]
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    radial /= 1 + k4 * r2 + k5 * r2**2 + k6 * r2**3
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def fisheye(x, y, d):
    r = np.hypot(x, y)
    theta = np.arctan(r)
    bent = theta * (1 + sum(k * theta ** (2 * i) for i, k in enumerate(d, start=1)))
    scale = bent / np.where(r > 0, r, 1)
    return x * scale, y * scale


@pytest.mark.parametrize(
    ('model', 'coefficients', 'bend'),
    [
        ('plumb_bob', (-0.28, 0.08, 0.001, -0.0005, 0.0), radial_tangential),
        ('plumb_bob', (0.15, -0.3, 0.0, 0.002, 0.1), radial_tangential),
        (
            'rational_polynomial',
            (0.4, -0.2, 1e-4, -2e-4, 0.05, 0.7, -0.1, 0.02),
            radial_tangential,
        ),
        ('equidistant', (-0.01, 0.02, -0.01, 0.002), fisheye),
    ],
)
def test_the_projection_takes_every_ray_back_to_its_pixel(model, coefficients, bend):
    x, y = rays(PIXELS, CAMERA, Distortion(model, coefficients)).T
    u, v = bend(x, y, coefficients)
    back = np.column_stack([u * CAMERA.fx + CAMERA.cx, v * CAMERA.fy + CAMERA.cy])
    np.testing.assert_allclose(back, PIXELS, atol=1e-3)


def test_a_pinhole():
    np.testing.assert_allclose(
        rays([(320.5, 238.5), (920.5, 238.5), (320.5, -371.5)], CAMERA),
        [(0, 0), (1, 0), (0, -1)],
        atol=1e-12,
    )


@pytest.mark.parametrize(
    'more', [(0.01, -0.02, 0.02, 0.01), (0.01, -0.02, 0.02, 0.01, 0.03, -0.02)]
)
def test_a_thin_prism_and_a_tilted_sensor(more):
    lens = Distortion('rational_polynomial', (0.1, -0.05, 1e-3, 2e-3, 0.01, 0.02, 0.0, 0.0, *more))
    x, y = rays(PIXELS, CAMERA, lens).T
    matrix = np.array([[CAMERA.fx, 0, CAMERA.cx], [0, CAMERA.fy, CAMERA.cy], [0, 0, 1]])
    points = np.column_stack([x, y, np.ones_like(x)])
    back, _ = cv2.projectPoints(
        points, np.zeros(3), np.zeros(3), matrix, np.array(lens.coefficients)
    )
    np.testing.assert_allclose(back[:, 0], PIXELS, atol=0.01)


@pytest.mark.parametrize('model', ['plumb_bob', 'rational_polynomial'])
def test_without_coefficients_worth_the_name_a_lens_is_a_pinhole(model):
    straight = rays(PIXELS, CAMERA, Distortion(model, (0.0,) * 8))
    np.testing.assert_allclose(straight, rays(PIXELS, CAMERA), atol=1e-9)


@pytest.mark.parametrize(
    ('intrinsics', 'distortion', 'message'),
    [
        (Intrinsics(0.0, 0.0, 0.0, 0.0), None, 'no usable focal length'),
        (Intrinsics(600.0, float('nan'), 320.0, 240.0), None, 'no usable focal length'),
        (Intrinsics(0.0, 600.0, 320.0, 240.0), None, 'no usable focal length'),
        (Intrinsics(600.0, 0.0, 320.0, 240.0), None, 'no usable focal length'),
        (Intrinsics(600.0, -600.0, 320.0, 240.0), None, 'no usable focal length'),
        (CAMERA, Distortion('barrel', (0.1,)), "'barrel'; one of plumb_bob, rational_polynomial"),
        (CAMERA, Distortion('plumb_bob', (0.1, 0.1, 0.0)), 'does not fit .* 4 or 5 or 8'),
        (CAMERA, Distortion('equidistant', (0.1,) * 5), 'takes 4 finite numbers'),
        (CAMERA, Distortion('plumb_bob', (float('nan'),) * 5), 'finite numbers'),
    ],
)
def test_calibrations_that_cannot_be_used(intrinsics, distortion, message):
    with pytest.raises(CalibrationError, match=message) as error:
        rays(PIXELS, intrinsics, distortion)
    assert error.value.kind == 'bad_intrinsics'


@pytest.mark.parametrize(
    ('model', 'coefficients'),
    [
        ('plumb_bob', (-0.35, 0.15, 0.0, 0.0, -0.03)),  # folds back on itself off the axis
        ('equidistant', (0.01, 0.0, 0.0, 0.0)),  # sees behind itself there
    ],
)
def test_pixels_that_no_ray_reaches_are_refused(model, coefficients):
    wide = Intrinsics(180.0, 180.0, 319.5, 239.5)
    middle = rays([(319.5, 239.5)], wide, Distortion(model, coefficients))
    np.testing.assert_allclose(middle, [(0, 0)], atol=1e-9)
    with pytest.raises(CalibrationError, match=r'no ray belongs to pixel \(0, 0\)'):
        rays([(319.5, 239.5), (0, 0)], wide, Distortion(model, coefficients))
