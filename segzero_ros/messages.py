# SPDX-License-Identifier: Apache-2.0
"""What the node found, as standard messages; all but the strings carry the frame's header."""

from __future__ import annotations

import array
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point as PointMessage
from geometry_msgs.msg import (
    Point32,
    PointStamped,
    Polygon,
    PolygonStamped,
    Pose,
    PoseArray,
    Quaternion,
)
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String

from segzero_core.errors import AnswerError, SegZeroError, TargetError
from segzero_core.grasping.camera_model import Distortion
from segzero_core.grasping.target import GraspTarget, Metres
from segzero_core.types import Image as RgbImage
from segzero_core.types import Intrinsics, Mask, Point, Segmentation, Size


@dataclass(frozen=True)
class PerceptionResult:
    """What the node found out about one sentence.

    Attributes:
        header: Of the frame that was looked at.
        image: The frame, (H, W, 3) uint8 RGB.
        segmentation: What the pipeline answered.
        target: Metric points, or why there are none; ``None`` without a depth camera.
        timings: Seconds per stage, the pipeline's included.
    """

    header: Header
    image: RgbImage
    segmentation: Segmentation
    target: GraspTarget | SegZeroError | None
    timings: Mapping[str, float]


def text_message(text: str) -> String:
    """Return ``text`` as a message; what UTF-8 cannot carry (lone surrogates) becomes ``?``."""
    return String(data=text.encode('utf-8', 'replace').decode('utf-8'))


def mask_message(header: Header, mask: Mask) -> Image:
    """Return a (H, W) bool mask as mono8, 0 or 255."""
    data = array.array('B', [0]) * mask.size
    np.multiply(mask.ravel().view(np.uint8), np.uint8(255), out=np.frombuffer(data, np.uint8))
    height, width = mask.shape
    message = Image(header=header, height=height, width=width, encoding='mono8', step=width)
    message.data = data
    return message


def pixels_message(header: Header, points: Sequence[Point]) -> PolygonStamped:
    """Return pixels as a polygon with z = 0; the header's frame names the camera."""
    vertices = [Point32(x=float(p.x), y=float(p.y)) for p in points]
    return PolygonStamped(header=header, polygon=Polygon(points=vertices))


def poses_message(header: Header, points: Sequence[Metres]) -> PoseArray:
    """Return points in metres as poses without a rotation."""
    poses = [Pose(position=_point(p), orientation=Quaternion(w=1.0)) for p in points]
    return PoseArray(header=header, poses=poses)


def point_message(header: Header, point: Metres) -> PointStamped:
    """Return a point in metres."""
    return PointStamped(header=header, point=_point(point))


def target_header(header: Header, target: GraspTarget) -> Header:
    """Return the header of a target's points: that of its image, in the frame they are in."""
    return Header(stamp=header.stamp, frame_id=target.frame_id or header.frame_id)


def read_lens(
    info: CameraInfo, size: Size, rectified: bool
) -> tuple[Intrinsics, Distortion | None]:
    """Return the lens an image was taken through, in the image's own pixels (REP 104).

    A rectified image has the pinhole P (K where a driver leaves P empty), a raw one K and the
    distortion D. Both are moved to the ROI and divided by the binning as image_geometry does it.

    Args:
        info: Of the image.
        size: Of the image.
        rectified: Whether the image is.

    Raises:
        TargetError: The calibration is for images of another size than ``size``.
    """
    binning = max(info.binning_x, 1), max(info.binning_y, 1)
    roi = info.roi
    expected = Size(
        (roi.width or info.width) // binning[0], (roi.height or info.height) // binning[1]
    )
    if expected != size:
        raise TargetError(
            'size_mismatch',
            f'camera_info is for {expected.width} x {expected.height} pixels, the image has '
            f'{size.width} x {size.height}: remap camera_info to the image that is used',
        )
    p, k = info.p, info.k
    fx, fy, cx, cy = (p[0], p[5], p[2], p[6]) if rectified and p[0] else (k[0], k[4], k[2], k[5])
    intrinsics = Intrinsics(
        float(fx / binning[0]),
        float(fy / binning[1]),
        float((cx - roi.x_offset) / binning[0]),
        float((cy - roi.y_offset) / binning[1]),
    )
    if rectified or not any(info.d):
        return intrinsics, None
    return intrinsics, Distortion(info.distortion_model, tuple(float(d) for d in info.d))


def answer_document(answer: PerceptionResult, query: str, repeat: int = 0) -> dict[str, Any]:
    """Return the JSON document of a sentence that was answered.

    Args:
        answer: What was found.
        query: The sentence.
        repeat: How often it had been answered before, in continuous mode.
    """
    found = answer.segmentation
    return {
        **_document(answer.header, query, 'ok', repeat),
        'box': list(found.box) if found.box else None,
        'points': [list(point) for point in found.points],
        'score': _number(found.score),
        'reasoning': found.reasoning,
        'repairs': list(found.repairs),
        'timings': dict(answer.timings),
        'target': _target(answer.header, answer.target),
    }


def failure_document(
    header: Header, query: str, status: str, error: BaseException | None = None, repeat: int = 0
) -> dict[str, Any]:
    """Return the JSON document of a sentence that was not answered.

    Args:
        header: Of the frame that was looked at; an empty one if none was.
        query: The sentence.
        status: ``nothing_found``, ``cancelled``, ``replaced``, ``rejected`` or ``error``.
        error: What went wrong. Errors that segzero does not raise on purpose have the kind
            ``internal``.
        repeat: As in ``answer_document``.
    """
    document = _document(header, query, status, repeat)
    if isinstance(error, AnswerError):
        document['reasoning'] = error.text
    if error is not None:
        document['error'] = _error(error)
    return document


def document_message(document: Mapping[str, Any]) -> String:
    """Return a JSON document as a message."""
    return String(data=json.dumps(document, allow_nan=False))


def diagnostics_message(
    header: Header, name: str, level: bytes, summary: str, values: Mapping[str, str]
) -> DiagnosticArray:
    """Return the state of one node."""
    status = DiagnosticStatus(
        level=level,
        name=name,
        message=summary,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    return DiagnosticArray(header=header, status=[status])


def _document(header: Header, query: str, status: str, repeat: int) -> dict[str, Any]:
    return {
        'stamp': {'sec': header.stamp.sec, 'nanosec': header.stamp.nanosec},
        'frame_id': header.frame_id,
        'query': query,
        'repeat': repeat,
        'status': status,
        'box': None,
        'points': None,
        'score': None,
        'reasoning': '',
        'repairs': [],
        'timings': {},
        'target': None,
        'error': None,
    }


def _target(header: Header, target: GraspTarget | SegZeroError | None) -> dict[str, Any] | None:
    if target is None:
        return None
    if isinstance(target, SegZeroError):
        point, points, width, closing, axis, reason = None, [], None, None, None, _error(target)
        frame_id = header.frame_id
    else:
        point, points = list(target.point), [list(point) for point in target.points]
        width, reason = target.width, None
        frame_id = target_header(header, target).frame_id
        closing, axis = (None if v is None else list(v) for v in (target.closing, target.axis))
    return {
        'frame_id': frame_id,
        'point_m': point,
        'points_m': points,
        'width_m': width,
        'closing': closing,
        'axis': axis,
        'reason': reason,
    }


def _error(error: BaseException) -> dict[str, str]:
    if isinstance(error, SegZeroError):
        return {'kind': error.kind, 'message': str(error)}
    return {'kind': 'internal', 'message': f'{type(error).__name__}: {error}'}


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


def _point(point: Metres) -> PointMessage:
    x, y, z = point
    return PointMessage(x=x, y=y, z=z)
