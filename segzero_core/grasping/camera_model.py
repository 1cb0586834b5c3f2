# SPDX-License-Identifier: Apache-2.0
"""The camera model: from calibration messages to a lens, and from pixels to viewing rays.

The module imports no ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.errors import CalibrationError, TargetError
from segzero_core.types import Intrinsics, Size

Floats = npt.NDArray[np.float64]

POLYNOMIAL_MODELS = ('plumb_bob', 'rational_polynomial')  # OpenCV's radial-tangential family
FISHEYE_MODELS = ('equidistant', 'fisheye')  # two names of one model; equidistant is ROS's name
POLYNOMIAL_LENGTHS = (4, 5, 8, 12, 14)  # numbers of coefficients that OpenCV accepts
MAX_ERROR = 0.1  # largest reprojection error of a viewing ray, pixels
# OpenCV's default termination criteria stop too early for wide lenses.
CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-10)


class Distortion(NamedTuple):
    """Lens distortion.

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


class CameraInfo(Protocol):
    """The fields of ``sensor_msgs/CameraInfo`` that are used; 0 or '' = the driver left it empty.

    Attributes:
        width: Columns of the sensor, unbinned pixels.
        height: Rows of the sensor.
        distortion_model: Name of the distortion model that ``d`` belongs to.
        d: Coefficients of the lens distortion.
        k: (3, 3) intrinsics of the raw image, row by row.
        p: (3, 4) projection of the rectified image, row by row.
        binning_x: Sensor columns per image column.
        binning_y: Sensor rows per image row.
        roi: Region of the sensor that the image shows, with ``x_offset``, ``y_offset``, ``width``
            and ``height`` in unbinned pixels; all 0 = the whole sensor.
    """

    width: int
    height: int
    distortion_model: str
    d: Sequence[float]
    k: Sequence[float]
    p: Sequence[float]
    binning_x: int
    binning_y: int
    roi: Any


def read_lens(
    info: CameraInfo, size: Size, rectified: bool
) -> tuple[Intrinsics, Distortion | None]:
    """Return the lens of an image, in pixels of that image (REP 104).

    A rectified image has the pinhole P; a raw image has K and the distortion D. If the driver left
    P or K empty and there is no distortion, the other one is used. Both are shifted by the ROI
    and divided by the binning, as in image_geometry. A size of 0 is unknown and fits any image.

    Args:
        info: Calibration of the camera: a ROS message, or any object with the same fields.
        size: Size of the image, pixels.
        rectified: Whether the image is rectified.

    Raises:
        CalibrationError: The camera is not calibrated, or its distortion model has no name.
        TargetError: The calibration is for images of another size than ``size``.
    """
    k, p = info.k, info.p
    pinholes = {'K': (k[0], k[4], k[2], k[5]), 'P': (p[0], p[5], p[2], p[6])}
    bends = not rectified and any(info.d)
    names = ('P', 'K') if rectified else ('K',) if bends else ('K', 'P')
    # cx = cy = 0 would be the corner of the image, so the driver did not fill in the matrix.
    usable = [name for name in names if pinholes[name][0] and any(pinholes[name][2:])]
    if not usable:
        raise CalibrationError(
            f'{" and ".join(names)} of camera_info hold no calibration: is the camera calibrated?'
        )
    binning = max(info.binning_x, 1), max(info.binning_y, 1)
    _check_size(info, size, binning)
    fx, fy, cx, cy = pinholes[usable[0]]
    intrinsics = Intrinsics(
        float(fx / binning[0]),
        float(fy / binning[1]),
        float((cx - info.roi.x_offset) / binning[0]),
        float((cy - info.roi.y_offset) / binning[1]),
    )
    if not bends:
        return intrinsics, None
    if not info.distortion_model:
        raise CalibrationError(
            'camera_info has distortion coefficients d, but no distortion_model: let the driver '
            'name it, or rectify the image and set image.rectification to rectified'
        )
    return intrinsics, Distortion(info.distortion_model, tuple(float(d) for d in info.d))


def _check_size(info: CameraInfo, size: Size, binning: tuple[int, int]) -> None:
    full = info.roi.width or info.width, info.roi.height or info.height
    expected = [length // factor for length, factor in zip(full, binning, strict=True)]
    if any(known and known != given for known, given in zip(expected, size, strict=True)):
        raise TargetError(
            'size_mismatch',
            f'camera_info is for {expected[0] or "?"} x {expected[1] or "?"} pixels, the image '
            f'has {size.width} x {size.height}: remap camera_info to the image that is used',
        )


def check_lens(intrinsics: Intrinsics, distortion: Distortion | None) -> None:
    """Check that ``rays`` can use a calibration.

    Raises:
        CalibrationError: The calibration is unusable; the message names the wrong values.
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

    Multiply a ray by the depth of its pixel to get the point that the pixel shows, in the camera
    optical frame (REP 103).

    Args:
        pixels: (N, 2) pixels, x and y, of the image as received.
        intrinsics: K of a distorted image, P of a rectified one.
        distortion: Distortion of the lens; ``None`` for a pinhole.

    Raises:
        CalibrationError: The calibration is unusable, or it maps no ray to one of the pixels.
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
