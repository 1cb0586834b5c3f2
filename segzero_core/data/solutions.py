# SPDX-License-Identifier: Apache-2.0
"""Solutions as the released datasets write them -> targets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from segzero_core.data.records import Annotation
from segzero_core.errors import DataError
from segzero_core.types import Box, Point, Size

_NUMBER = r'\s*(-?\d+(?:\.\d+)?)\s*'
_PAIR = rf'\({_NUMBER},{_NUMBER}\)'
_SINGLE = re.compile(
    rf'\s*<box>\s*{_PAIR}\s*,\s*{_PAIR}\s*</box>\s*<points>\s*{_PAIR}\s*,\s*{_PAIR}\s*</points>\s*'
)


def parse_solution(text: str, size: Size) -> tuple[Annotation, ...]:
    """Read a solution of either released form.

    ``<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>`` (refCOCOg_2k_840, _9k_840) or
    ``[{"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y]}, ...]`` (VisionReasoner_multi_object).

    Args:
        text: The column ``solution``.
        size: Of the image, in whose pixels the solution is.

    Raises:
        DataError: Neither form, or a box without area or outside the image.
    """
    single = _SINGLE.fullmatch(text)
    if single:
        numbers = [float(value) for value in single.groups()]
        return (make_target(numbers[:4], (numbers[4:6], numbers[6:]), size),)
    try:
        items = json.loads(text)
    except ValueError:
        items = None
    if not isinstance(items, list) or not items:
        raise DataError(
            f'the solution {text[:80]!r} is neither "<box>(x1,y1),(x2,y2)</box>'
            '<points>(x,y),(x,y)</points>" nor a JSON list of objects'
        )
    targets = []
    for item in items:
        if not isinstance(item, dict) or not {'bbox_2d', 'point_2d'} <= item.keys():
            raise DataError(f'the solution item {str(item)[:80]!r} lacks bbox_2d or point_2d')
        targets.append(make_target(item['bbox_2d'], (item['point_2d'],), size))
    return tuple(targets)


def make_target(box: Any, points: Sequence[Any], size: Size) -> Annotation:
    """Check numbers and make a target of them.

    The far edges (``width``, ``height``) are allowed: rounding puts objects at the border there.

    Raises:
        DataError: Not finite numbers, a box without area, or something outside the image.
    """
    corners = _numbers(box, 4, 'box')
    spots = [Point(*_numbers(point, 2, 'point')) for point in points]
    if not (corners[0] < corners[2] and corners[1] < corners[3]):
        raise DataError(f'the box {corners} has no area: x1 < x2 and y1 < y2 are needed')
    for x, y in (corners[:2], corners[2:], *spots):
        if not (0 <= x <= size.width and 0 <= y <= size.height):
            raise DataError(f'({x:g}, {y:g}) lies outside the {size.width} x {size.height} image')
    return Annotation(Box(*corners), tuple(spots))


def _numbers(value: Any, count: int, name: str) -> list[float]:
    usable = isinstance(value, (list, tuple)) and len(value) == count
    if not usable or not all(
        isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) < 1e9
        for number in value
    ):
        raise DataError(f'the {name} must be {count} finite numbers, got {str(value)[:80]}')
    return [float(number) for number in value]
