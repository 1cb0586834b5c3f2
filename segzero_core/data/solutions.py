# SPDX-License-Identifier: Apache-2.0
"""Parse the column ``solution`` of the released datasets into targets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from segzero_core.answers.coordinate_space import check_space
from segzero_core.data.records import Annotation
from segzero_core.errors import DataError, quoted
from segzero_core.types import Box, Point, Size

_NUMBER = r'\s*(-?\d+(?:\.\d+)?)\s*'
_PAIR = rf'\({_NUMBER},{_NUMBER}\)'
_SINGLE = re.compile(
    rf'\s*<box>\s*{_PAIR}\s*,\s*{_PAIR}\s*</box>\s*<points>\s*{_PAIR}\s*,\s*{_PAIR}\s*</points>\s*'
)


def parse_solution(
    solution: Any, size: Size, stored: Size | None = None
) -> tuple[Annotation, ...]:
    """Read a solution of either released form.

    ``<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>`` (refCOCOg_2k_840, _9k_840) or
    ``[{"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y]}, ...]`` (VisionReasoner_multi_object), as
    text or as the list itself.

    Args:
        solution: The column ``solution``.
        size: Size of the picture as it is shown; the solution is in its pixels.
        stored: Size of the picture as it is stored, if its orientation turns it.

    Raises:
        DataError: The solution has neither form, or ``make_target`` refuses an object.
    """
    single = _SINGLE.fullmatch(solution) if isinstance(solution, str) else None
    if single:
        numbers = [float(value) for value in single.groups()]
        return (make_target(numbers[:4], (numbers[4:6], numbers[6:]), size, stored),)
    items = solution
    if isinstance(solution, str):
        try:
            items = json.loads(solution)
        except (ValueError, RecursionError):
            items = None
    if not isinstance(items, list) or not items:
        raise DataError(
            f'the solution {quoted(solution)} is neither "<box>(x1,y1),(x2,y2)</box>'
            '<points>(x,y),(x,y)</points>" nor a JSON list of objects'
        )
    targets = []
    for item in items:
        if not isinstance(item, dict) or not {'bbox_2d', 'point_2d'} <= item.keys():
            raise DataError(f'the solution item {quoted(item)} lacks bbox_2d or point_2d')
        targets.append(make_target(item['bbox_2d'], (item['point_2d'],), size, stored))
    return tuple(targets)


def make_target(
    box: Any, points: Sequence[Any], size: Size, stored: Size | None = None
) -> Annotation:
    """Check the coordinates of a target.

    The far edges (``width``, ``height``) are allowed, because objects at the border are rounded to
    them.

    Args:
        box: x1, y1, x2, y2 in pixels of the picture.
        points: x, y of each point, in the same pixels.
        size: Size of the picture.
        stored: See ``parse_solution``.

    Raises:
        DataError: The coordinates are not finite numbers, lie outside the picture or in another
            space (see ``check_space``), the box has no area, or a point is far from it.
    """
    corners = _numbers(box, 4, 'box')
    spots = [Point(*_numbers(point, 2, 'point')) for point in points]
    places = [corners[:2], corners[2:], *spots]
    x1, y1, x2, y2 = corners
    if not (x1 < x2 and y1 < y2):
        raise DataError(
            f'the box {corners} has no area: x1 < x2 and y1 < y2 are needed'
            f'{_width_and_height(corners, size)}'
        )
    for x, y in places:
        if not (0 <= x <= size.width and 0 <= y <= size.height):
            raise DataError(
                f'({x:g}, {y:g}) lies outside the {size.width} x {size.height} image'
                f'{_other_space(places, size, stored)}'
            )
    check = check_space(corners, spots, size)
    if check.repair or check.problem:
        raise DataError(
            f'{check.repair or check.problem}: box {corners}. Write them in pixels of the image'
        )
    if x2 - x1 < 1 or y2 - y1 < 1:
        raise DataError(
            f'the box {corners} is less than a pixel wide or high: are these shares of the image? '
            'Coordinates must be in its pixels'
        )
    for x, y in spots:
        if not (
            x1 - _margin(size.width) <= x <= x2 + _margin(size.width)
            and y1 - _margin(size.height) <= y <= y2 + _margin(size.height)
        ):
            raise DataError(
                f'the point ({x:g}, {y:g}) lies far from its box {corners}: both must be in '
                'pixels of the image, the box as x1, y1, x2, y2'
            )
    return Annotation(Box(*corners), tuple(spots))


def _margin(side: int) -> float:
    """Return how far from its box a point may lie, in pixels: boxes are drawn by hand."""
    return max(2.0, 0.05 * side)


def _width_and_height(corners: Sequence[float], size: Size) -> str:
    x, y, width, height = corners
    fits = width > 0 and height > 0 and x + width <= size.width and y + height <= size.height
    return ', not x, y, width, height' if fits else ''


def _other_space(places: Sequence[Any], size: Size, stored: Size | None) -> str:
    """Name the space that coordinates outside the picture may be meant in."""
    if stored and stored != size and _all_inside(places, stored):
        return (
            f', but inside the {stored.width} x {stored.height} pixels that are stored: the '
            'picture is turned by its orientation, and the annotation is not. Annotate the '
            'picture as it is shown, or remove the orientation from the file '
            '(exiftool -Orientation= FILE)'
        )
    if _all_inside([(y, x) for x, y in places], size):
        return ': is y written before x?'
    if _all_inside(places, Size(1000, 1000)):
        return ': are these thousandths, or pixels of another size?'
    return ': coordinates must be in pixels of this image'


def _all_inside(places: Sequence[Any], size: Size) -> bool:
    return all(0 <= x <= size.width and 0 <= y <= size.height for x, y in places)


def _numbers(value: Any, count: int, name: str) -> list[float]:
    usable = isinstance(value, (list, tuple)) and len(value) == count
    if not usable or not all(
        isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) < 1e9
        for number in value
    ):
        raise DataError(f'the {name} must be {count} finite numbers, got {quoted(value)}')
    return [float(number) for number in value]
