# SPDX-License-Identifier: Apache-2.0
"""Standard messages of the results; all but the strings carry the header of the frame."""

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
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from segzero_core.errors import AnswerError, SegZeroError
from segzero_core.grasping.oriented_box import OrientedBox
from segzero_core.grasping.target import GraspTarget, Metres
from segzero_core.types import Image as RgbImage
from segzero_core.types import Mask, Point, ResultWarning, Segmentation

NOWHERE: Metres = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class PerceptionResult:
    """The answer to one sentence.

    Attributes:
        header: Of the frame that the sentence was about.
        image: The frame, (H, W, 3) uint8 RGB.
        segmentation: The pipeline's answer.
        target: Metric points, or the reason why there are none; ``None`` without a depth camera.
        timings: Seconds per stage, the pipeline's included.
        warnings: About the frame, the answer and the target.
    """

    header: Header
    image: RgbImage
    segmentation: Segmentation
    target: GraspTarget | SegZeroError | None
    timings: Mapping[str, float]
    warnings: tuple[ResultWarning, ...] = ()


@dataclass(frozen=True)
class ResultHead:
    """The part that the results of all sentences share, whether answered or not.

    Attributes:
        header: Of the frame that the sentence was about; empty if no frame was chosen.
        query: The sentence.
        id: Chosen by the asker; ``None`` if there is none.
        repeat: Number of times the sentence was answered before, in continuous mode.
        warnings: Doubts about a result that is not an error.
    """

    header: Header
    query: str
    id: str | None = None
    repeat: int = 0
    warnings: tuple[ResultWarning, ...] = ()


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
    """Return a point in metres; ``NOWHERE`` takes the last one back."""
    return PointStamped(header=header, point=_point(point))


def target_header(header: Header, target: GraspTarget) -> Header:
    """Return the header of a target's points: that of its image, in the frame they are in."""
    return Header(stamp=header.stamp, frame_id=target.frame_id or header.frame_id)


def answer_document(head: ResultHead, answer: PerceptionResult) -> dict[str, Any]:
    """Return the JSON document of a sentence that was answered."""
    found = answer.segmentation
    return {
        **_document(head, 'ok'),
        'box': list(found.box) if found.box else None,
        'points': [list(point) for point in found.points] or None,
        'score': _number(found.score),
        'reasoning': found.reasoning,
        'repairs': list(found.repairs),
        'timings': dict(answer.timings),
        'target': _target(answer.header, answer.target),
    }


def failure_document(
    head: ResultHead, status: str, error: BaseException | None = None
) -> dict[str, Any]:
    """Return the JSON document of a sentence that was not answered.

    Args:
        head: The sentence, and the frame that was chosen for it.
        status: ``nothing_found``, ``cancelled``, ``replaced``, ``rejected`` or ``error``.
        error: The reason. Errors that segzero does not raise on purpose have the kind
            ``internal``.
    """
    document = _document(head, status)
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


def _document(head: ResultHead, status: str) -> dict[str, Any]:
    stamp = head.header.stamp
    return {
        'id': head.id,
        'stamp': {'sec': stamp.sec, 'nanosec': stamp.nanosec},
        'frame_id': head.header.frame_id,
        'query': head.query,
        'repeat': head.repeat,
        'status': status,
        'warnings': [{'kind': kind, 'message': message} for kind, message in head.warnings],
        'box': None,
        'points': None,
        'score': None,
        'reasoning': '',
        'repairs': [],
        'timings': {},
        'target': None,
        'error': None,
    }


_TARGET_KEYS = (
    'frame_id',
    'point_m',
    'points_m',
    'grasp',
    'width_m',
    'width_bound',
    'width_reason',
    'closing',
    'closing_vector',
    'axis',
    'normal',
    'box',
    'reason',
)


def _target(header: Header, target: GraspTarget | SegZeroError | None) -> dict[str, Any] | None:
    """Return the document of a target; all keys are there where there is none, too."""
    if target is None:
        return None
    document: dict[str, Any] = dict.fromkeys(_TARGET_KEYS)
    if isinstance(target, SegZeroError):
        return document | {'frame_id': header.frame_id, 'points_m': [], 'reason': _error(target)}
    reason = target.width_reason
    return document | {
        'frame_id': target_header(header, target).frame_id,
        'point_m': list(target.point),
        'points_m': [list(point) for point in target.points],
        'grasp': target.grasp,
        'width_m': target.width,
        'width_bound': target.width_bound,
        'width_reason': None if reason is None else _error(reason),
        'closing': _list(target.closing),
        'closing_vector': _list(target.closing_vector),
        'axis': _list(target.axis),
        'normal': _list(target.normal),
        'box': None if target.box is None else _box(target.box),
    }


def _box(box: OrientedBox) -> dict[str, Any]:
    return {
        'centre_m': list(box.centre),
        'axes': [list(axis) for axis in box.axes],
        'extents_m': list(box.extents),
        'bounds': list(box.bounds),
    }


def _list(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else list(values)


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
