# SPDX-License-Identifier: Apache-2.0
"""Pixels -> viewing rays, through whatever lens the image was taken. Knows no ROS."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.errors import CalibrationError
from segzero_core.types import Intrinsics

Floats = npt.NDArray[np.float64]

POLYNOMIAL_MODELS = ('plumb_bob', 'rational_polynomial')  # OpenCV's radial-tangential family
FISHEYE_MODELS = ('equidistant', 'fisheye')  # the same one; ROS calls it equidistant
POLYNOMIAL_LENGTHS = (4, 5, 8, 12, 14)  # numbers of coefficients that OpenCV knows
MAX_ERROR = 0.1  # pixels; a ray that lands farther from where it came from was not found
# The defaults stop too early for wide lenses.
CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-10)


class Distortion(NamedTuple):
    """How a lens bends the image.

    Attributes:
        model: One of ``POLYNOMIAL_MODELS`` or ``FISHEYE_MODELS``.
        coefficients: In the order of ``sensor_msgs/CameraInfo.d``, which is OpenCV's.
    """

    model: str
    coefficients: tuple[float, ...]

    @property
    def is_fisheye(self) -> bool:
        """Whether the model is OpenCV's fisheye."""
        return self.model in FISHEYE_MODELS


def check_lens(intrinsics: Intrinsics, distortion: Distortion | None) -> None:
    """Check that ``rays`` can work with a calibration.

    Raises:
        CalibrationError: It cannot.
    """
    if not np.isfinite(intrinsics).all() or intrinsics.fx <= 0 or intrinsics.fy <= 0:
        raise CalibrationError(
            f'no usable focal length in {tuple(intrinsics)}: is the camera calibrated?'
        )
    if distortion is None:
        return
    model, coefficients = distortion
    if model not in POLYNOMIAL_MODELS + FISHEYE_MODELS:
        known = ', '.join(POLYNOMIAL_MODELS + FISHEYE_MODELS)
        raise CalibrationError(f'unknown distortion_model {model!r}; one of {known}')
    lengths = (4,) if distortion.is_fisheye else POLYNOMIAL_LENGTHS
    if len(coefficients) not in lengths or not np.isfinite(coefficients).all():
        raise CalibrationError(
            f'distortion {coefficients} does not fit {model!r}: it takes '
            f'{" or ".join(map(str, lengths))} finite numbers'
        )


def rays(
    pixels: npt.ArrayLike, intrinsics: Intrinsics, distortion: Distortion | None = None
) -> Floats:
    """Return the viewing rays of pixels, (N, 2): x and y at one metre along the optical axis.

    A ray times the depth of its pixel is the point that the pixel shows, in the camera optical
    frame (REP 103).

    Args:
        pixels: (N, 2), x and y, of the image as it was taken.
        intrinsics: K of a distorted image, P of a rectified one.
        distortion: Of the lens; ``None`` for a pinhole.

    Raises:
        CalibrationError: It cannot be used, or it maps no ray onto one of the pixels.
    """
    check_lens(intrinsics, distortion)
    fx, fy, cx, cy = intrinsics
    pixels = np.asarray(pixels, np.float64)
    bent = (pixels - (cx, cy)) / (fx, fy)
    if distortion is None:
        return bent
    straight = _straighten(bent, distortion)
    missed = np.hypot(*((_bend(straight, distortion) - bent) * (fx, fy)).T)
    bad = ~(missed <= MAX_ERROR)  # NaN is bad too
    if bad.any():
        x, y = pixels[bad][0]
        raise CalibrationError(
            f'no ray belongs to pixel ({x:g}, {y:g}): {distortion.model} with '
            f'{distortion.coefficients} does not hold there'
        )
    return straight


def _straighten(bent: Floats, distortion: Distortion) -> Floats:
    """Undo the distortion of (N, 2) image coordinates at focal length one."""
    d, points = np.array(distortion.coefficients), bent[:, None]
    if distortion.is_fisheye:
        found = cv2.fisheye.undistortPoints(points, np.eye(3), d, criteria=CRITERIA)
    else:
        found = cv2.undistortPointsIter(points, np.eye(3), d, None, None, CRITERIA)
    return np.asarray(found, np.float64)[:, 0]


def _bend(straight: Floats, distortion: Distortion) -> Floats:
    """Distort (N, 2) image coordinates at focal length one."""
    d = np.array(distortion.coefficients)
    points = np.column_stack([straight, np.ones(len(straight))])[:, None]
    project = cv2.fisheye.projectPoints if distortion.is_fisheye else cv2.projectPoints
    found, _ = project(points, np.zeros(3), np.zeros(3), np.eye(3), d)
    return np.asarray(found, np.float64)[:, 0]
