# SPDX-License-Identifier: Apache-2.0
"""Recognise coordinates that are written in another space than the expected one.

Answers and training data hold boxes and points in pixels of one image size, or in thousandths of
the sides of an image. Models and datasets mix these up with each other, with shares (0 to 1) and
with y before x. Numbers that cannot be meant in the expected space are converted where only one
reading is possible, and refused otherwise; they are never used as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from segzero_core.types import Box, Point, Size

# How far numbers may go beyond the far edge, as a multiple of the side. Models overshoot by a few
# pixels; a box that reaches further was not measured in this space.
MAX_OVERSHOOT = 1.1
# Thousandths are a scale that models know well: beyond 1020 they are something else.
MAX_OVERSHOOT_THOUSANDTHS = 1.02


class SpaceCheck(NamedTuple):
    """The result of ``check_space``.

    Attributes:
        box: The box in the expected space; ``None`` where none was given.
        points: The points in the expected space.
        repair: How the numbers were converted; '' where they were used as they are.
        problem: Why they cannot be used, and what they may be instead; '' where they can.
    """

    box: Box | None
    points: tuple[Point, ...]
    repair: str = ''
    problem: str = ''


def check_space(
    box: Sequence[float] | None,
    points: Iterable[Sequence[float]],
    size: Size,
    thousandths: bool = False,
) -> SpaceCheck:
    """Check that a box and points can be meant in the space they are expected in.

    Nothing is clamped, and a box without an area is left alone: both are up to the caller.

    Args:
        box: Left, top, right, bottom, finite, in any order of the corners; ``None`` = no box.
        points: (x, y) each, finite.
        size: The far corner of the expected space: the size of the image in pixels, or
            1000 x 1000 for thousandths.
        thousandths: Whether thousandths are expected, and not pixels.

    Returns:
        Box and points in the expected space, with the name of the repair that was needed, or with
        the problem why they are in no space that can be told.

    Examples:
        >>> check_space([0.25, 0.5, 0.5, 1.0], [], Size(640, 480))
        SpaceCheck(box=Box(x1=160.0, y1=240.0, x2=320.0, y2=480.0), points=(),
            repair='the coordinates were shares of the image', problem='')
        >>> check_space([100, 500, 300, 980], [], Size(640, 480)).problem
        'the box [100, 500, 300, 980] reaches far beyond 640 x 480 pixels: ...'
    """
    corners = None if box is None else _sorted(box)
    spots = tuple(Point(*point) for point in points)
    given = SpaceCheck(corners if box is None else Box(*box), spots)
    numbers = [*(corners or ()), *(value for spot in spots for value in spot)]
    if not numbers:
        return given
    if all(0 <= value <= 1 for value in numbers):
        return _shares(given, numbers, size)
    # A box of zeros stands for no box at all, which is not a matter of the space.
    if corners is not None and any(corners) and all(0 <= value <= 1 for value in corners):
        problem = f'the box {_shown(corners)} is less than a pixel wide, the points are not'
        return given._replace(problem=f'{problem}: is the box in shares of the image?')
    checked = _shares_of_points(given, corners, size)
    y_first = corners is not None and not thousandths and _is_y_first(corners, spots, size)
    if given.box is not None and y_first:
        x1, y1, x2, y2 = given.box
        return SpaceCheck(Box(y1, x1, y2, x2), spots, 'the box was written with y before x')
    if not _overshoots(corners, spots, size, thousandths):
        return checked
    return given._replace(problem=_beyond(corners, spots, size, thousandths))


def _sorted(box: Sequence[float]) -> Box:
    x1, x2 = sorted(box[0::2])
    y1, y2 = sorted(box[1::2])
    return Box(x1, y1, x2, y2)


def _shares(given: SpaceCheck, numbers: Sequence[float], size: Size) -> SpaceCheck:
    """Read numbers from 0 to 1, unless all are 0 or 1 and may be pixels after all."""
    if all(value in (0, 1) for value in numbers):
        what = 'the point' if given.box is None else f'the box {_shown(given.box)}'
        problem = f'{what} is at most one pixel from the corner: is it in shares of the image?'
        # The box of zeros stands for no box at all.
        return given._replace(problem=problem if any(numbers) else '')
    box = None
    if given.box is not None:
        x1, y1, x2, y2 = given.box
        box = Box(x1 * size.width, y1 * size.height, x2 * size.width, y2 * size.height)
    points = tuple(_scaled(point, size) for point in given.points)
    return SpaceCheck(box, points, 'the coordinates were shares of the image')


def _shares_of_points(given: SpaceCheck, corners: Box | None, size: Size) -> SpaceCheck:
    """Read points from 0 to 1 as shares where that puts them into a box of the expected space."""
    numbers = [value for point in given.points for value in point]
    if corners is None or not all(0 <= value <= 1 for value in numbers):
        return given
    scaled = tuple(_scaled(point, size) for point in given.points)
    if all(value in (0, 1) for value in numbers) or not _inside(scaled, corners):
        return given
    return given._replace(points=scaled, repair='the points were shares of the image')


def _scaled(point: Point, size: Size) -> Point:
    return Point(point.x * size.width, point.y * size.height)


def _overshoots(
    corners: Box | None, points: Sequence[Point], size: Size, thousandths: bool
) -> bool:
    """Return whether the box, or without one a point, reaches too far beyond the far edges.

    Next to a usable box, a point far outside says nothing about the space. A box outside the image
    is only a wrong box where its points lie in the image: they were measured in the same space.
    """
    most = MAX_OVERSHOOT_THOUSANDTHS if thousandths else MAX_OVERSHOOT
    if corners is None:
        return any(x > most * size.width or y > most * size.height for x, y in points)
    outside = corners.x1 > size.width or corners.y1 > size.height
    if outside and points and _inside(points, Box(0, 0, *size)):
        return False
    return corners.x2 > most * size.width or corners.y2 > most * size.height


def _is_y_first(corners: Box, points: Sequence[Point], size: Size) -> bool:
    """Return whether only exchanging x and y, in the box but not in the points, explains all.

    As written, the box leaves the image and misses its points; exchanged, it does neither.
    """
    turned = Box(corners.y1, corners.x1, corners.y2, corners.x2)
    image = Box(0, 0, *size)
    leaves = corners.x2 > MAX_OVERSHOOT * size.width or corners.y2 > MAX_OVERSHOOT * size.height
    fits = turned.x2 <= size.width and turned.y2 <= size.height
    if not (leaves and fits and points and _inside(points, image)):
        return False
    return _inside(points, turned) and not any(_inside([point], corners) for point in points)


def _inside(points: Sequence[Point], box: Box) -> bool:
    return all(box.x1 <= x <= box.x2 and box.y1 <= y <= box.y2 for x, y in points)


def _beyond(corners: Box | None, points: Sequence[Point], size: Size, thousandths: bool) -> str:
    what = 'the points ' + ' '.join(map(_shown, points)) if corners is None else ''
    what = what or f'the box {_shown(corners or ())}'
    reach = 'reach' if corners is None else 'reaches'
    if thousandths:
        return (
            f'{what} {reach} beyond 1020 thousandths: are these pixels? '
            'Then choose a prompt family whose answers are in pixels'
        )
    guess = 'thousandths, pixels of another image size'
    if size.width != size.height:
        guess += ', or y before x'
    return f'{what} {reach} far beyond {size.width} x {size.height} pixels: are these {guess}?'


def _shown(numbers: Sequence[float]) -> str:
    return '[' + ', '.join(f'{value:g}' for value in numbers) + ']'
