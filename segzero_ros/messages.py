# SPDX-License-Identifier: Apache-2.0
"""What the node found, as standard messages; all but the strings carry the frame's header."""

from __future__ import annotations

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

from segzero_core.errors import AnswerError, SegZeroError
from segzero_core.types import Image as RgbImage
from segzero_core.types import Intrinsics, Mask, Point, Segmentation, Size
from segzero_ros.grasp import Metres, Target, TargetError
from segzero_ros.images import array_to_image


@dataclass(frozen=True)
class Answer:
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
    target: Target | SegZeroError | None
    timings: Mapping[str, float]


def text_message(text: str) -> String:
    """Return ``text`` as a message; what UTF-8 cannot carry (lone surrogates) becomes ``?``."""
    return String(data=text.encode('utf-8', 'replace').decode('utf-8'))


def mask_message(header: Header, mask: Mask) -> Image:
    """Return a (H, W) bool mask as mono8, 0 or 255."""
    return array_to_image(mask.view(np.uint8) * np.uint8(255), 'mono8', header)


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


def read_intrinsics(info: CameraInfo, size: Size) -> Intrinsics:
    """Return the pinhole of a rectified image (P, REP 104); K where a driver leaves P empty.

    Raises:
        TargetError: The calibration is for images of another size than ``size``.
    """
    if (info.width, info.height) != size:
        raise TargetError(
            'size_mismatch',
            f'camera_info is for {info.width} x {info.height} pixels, the image has '
            f'{size.width} x {size.height}: remap camera_info to the image that is used',
        )
    p, k = info.p, info.k
    if p[0] or p[5]:
        return Intrinsics(float(p[0]), float(p[5]), float(p[2]), float(p[6]))
    return Intrinsics(float(k[0]), float(k[4]), float(k[2]), float(k[5]))


def answer_document(answer: Answer, query: str) -> dict[str, Any]:
    """Return the JSON document of a sentence that was answered."""
    found = answer.segmentation
    return {
        **_document(answer.header, query, 'ok'),
        'box': list(found.box),
        'points': [list(point) for point in found.points],
        'score': _number(found.score),
        'reasoning': found.reasoning,
        'repairs': list(found.repairs),
        'timings': dict(answer.timings),
        'target': _target(answer.header, answer.target),
    }


def failure_document(
    header: Header, query: str, status: str, error: Exception | None = None
) -> dict[str, Any]:
    """Return the JSON document of a sentence that was not answered.

    Args:
        header: Of the frame that was looked at; an empty one if none was.
        query: The sentence.
        status: ``nothing_found``, ``cancelled``, ``replaced`` or ``error``.
        error: What went wrong. Errors that segzero does not raise on purpose have the kind
            ``internal``.
    """
    document = _document(header, query, status)
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


def _document(header: Header, query: str, status: str) -> dict[str, Any]:
    return {
        'stamp': {'sec': header.stamp.sec, 'nanosec': header.stamp.nanosec},
        'frame_id': header.frame_id,
        'query': query,
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


def _target(header: Header, target: Target | SegZeroError | None) -> dict[str, Any] | None:
    if target is None:
        return None
    if isinstance(target, SegZeroError):
        found: dict[str, Any] = {'point_m': None, 'points_m': [], 'reason': _error(target)}
    else:
        points = [list(point) for point in target.points]
        found = {'point_m': list(target.point), 'points_m': points, 'reason': None}
    return {'frame_id': header.frame_id, **found}


def _error(error: Exception) -> dict[str, str]:
    if isinstance(error, SegZeroError):
        return {'kind': error.kind, 'message': str(error)}
    return {'kind': 'internal', 'message': f'{type(error).__name__}: {error}'}


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


def _point(point: Metres) -> PointMessage:
    x, y, z = point
    return PointMessage(x=x, y=y, z=z)
