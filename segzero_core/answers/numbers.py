# SPDX-License-Identifier: Apache-2.0
"""The values of one object in an answer -> box and points inside the expected space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from segzero_core.answers.coordinate_space import check_space
from segzero_core.errors import AnswerError
from segzero_core.types import Box, Point, Size


@dataclass
class Findings:
    """Box and points of one object, and how they were repaired.

    Attributes:
        box: With sides of at least one pixel (or thousandth), inside the space; ``None`` where no
            box was asked for.
        points: Inside the space; empty where no points were asked for.
        spelling: Repairs of the way the numbers were written.
        coordinates: Repairs that changed coordinates.
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    spelling: list[str] = field(default_factory=list)
    coordinates: list[str] = field(default_factory=list)


class ValueReader:
    """Reads objects of one answer.

    Args:
        text: The whole reply, for errors.
        size: The space its coordinates are in.
        thousandths: Whether that is thousandths, and not pixels.
    """

    def __init__(self, text: str, size: Size, thousandths: bool) -> None:
        self._text, self._size, self._thousandths = text, size, thousandths

    def read(self, values: dict[str, Any], box: bool, points: bool, unread: str) -> Findings:
        """Return box and points of one object.

        Args:
            values: By the keys ``bbox``, ``points_1``, ``points_2``, ``points``.
            box: Whether a box was asked for.
            points: Whether two points were asked for.
            unread: The part of the object that could not be read, for messages; '' = none.

        Raises:
            AnswerError: Something is missing, is no number, or names no place in the space.
        """
        found = Findings()
        if all(value in (None, []) for value in values.values()) and not unread:
            raise self._error('nothing_found', 'the reasoner says that nothing matches')
        corners = self._box(values, found.spelling, unread) if box else None
        spots = self._points(values, found.spelling, unread) if points else []
        checked = check_space(corners, spots, self._size, self._thousandths)
        if checked.problem:
            raise self._error('wrong_space', checked.problem)
        if checked.repair:
            found.coordinates.append(checked.repair)
        if checked.box is not None:
            found.box = self._inside(checked.box, found.coordinates)
        found.points = tuple(_clamped(point, self._size) for point in checked.points)
        if found.points != checked.points:
            found.coordinates.append('a point was outside the image')
        return found

    def _box(self, values: dict[str, Any], spelling: list[str], unread: str) -> list[float]:
        self._check_present(values, ('bbox',), unread)
        return self._numbers(values['bbox'], 4, 'bad_box', 'bbox', spelling)

    def _points(
        self, values: dict[str, Any], spelling: list[str], unread: str
    ) -> list[list[float]]:
        if 'points' in values and not {'points_1', 'points_2'} & values.keys():
            numbers = self._numbers(values['points'], 4, 'bad_point', 'points', spelling)
            spelling.append("both points were under one key 'points'")
            return [numbers[:2], numbers[2:]]
        self._check_present(values, ('points_1', 'points_2'), unread)
        return [
            self._numbers(values[key], 2, 'bad_point', key, spelling)
            for key in ('points_1', 'points_2')
        ]

    def _check_present(self, values: dict[str, Any], keys: Sequence[str], unread: str) -> None:
        for key in keys:
            if key not in values:
                reason = f': {unread}' if unread else ''
                raise self._error('missing_key', f'the answer has no {key!r}{reason}')

    def _numbers(
        self, value: Any, count: int, kind: str, name: str, spelling: list[str]
    ) -> list[float]:
        """Return ``value`` as ``count`` finite numbers; reads nested lists and numeric strings."""
        items = [value] if not isinstance(value, list) else value
        if any(isinstance(item, list) for item in items):
            spelling.append(f'{name} was nested')
            items = [i for item in items for i in (item if isinstance(item, list) else [item])]
        numbers = []
        for item in items[: count + 1]:
            if isinstance(item, str):
                spelling.append(f'{name} held numbers written as text')
            try:
                numbers.append(math.nan if isinstance(item, bool) else float(item))
            except (TypeError, ValueError):
                numbers.append(math.nan)
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            shown = ' '.join(repr(value)[:80].split())
            raise self._error(kind, f'{name} must be {count} finite numbers, got {shown}')
        return numbers

    def _inside(self, box: Box, repairs: list[str]) -> Box:
        """Return ``box`` with its corners in order and inside the space."""
        size = self._size
        x1, x2 = sorted(box[0::2])
        y1, y2 = sorted(box[1::2])
        if [x1, y1, x2, y2] != list(box):
            repairs.append('the corners of the box were swapped')
        shown = f'[{x1:g}, {y1:g}, {x2:g}, {y2:g}]'
        if x2 < 0 or y2 < 0 or x1 > size.width or y1 > size.height:
            message = f'the box {shown} lies outside the {size.width} x {size.height} image'
            raise self._error('out_of_image', message)
        low, high = _clamped(Point(x1, y1), size), _clamped(Point(x2, y2), size)
        if (low, high) != ((x1, y1), (x2, y2)):
            repairs.append('the box reached outside the image')
        width, height = high.x - low.x, high.y - low.y
        if width == 0 or height == 0:
            raise self._error('bad_box', f'the box {shown} has no area in the image')
        if min(width, height) < 1 - 1e-6:  # 1.67 - 0.67 is a little less than 1
            unit = 'thousandth' if self._thousandths else 'pixel'
            raise self._error('bad_box', f'the box {shown} is less than a {unit} wide or high')
        return Box(*low, *high)

    def _error(self, kind: str, message: str) -> AnswerError:
        return AnswerError(kind, message, self._text)


def _clamped(point: Point, size: Size) -> Point:
    x, y = point
    return Point(min(max(x, 0.0), float(size.width)), min(max(y, 0.0), float(size.height)))
