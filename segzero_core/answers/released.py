# SPDX-License-Identifier: Apache-2.0
"""Answers read as the released Seg-Zero evaluation reads them, with all that it does wrong.

To compare with published figures; everything else uses ``answer``. Facts: dvlab-research/Seg-Zero
at 77f9ea5. The first braces anywhere count, also in the thinking. Numbers are cut to whole ones,
and rounded after scaling. Corners are neither sorted nor clamped. Without thinking, or with a
``<`` in it, the whole answer is lost.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from segzero_core.errors import AnswerError
from segzero_core.types import Box, Point, Size


class ReleasedAnswer(NamedTuple):
    """An answer as the released evaluation reads it, in whole pixels of the original image."""

    box: Box
    points: tuple[Point, Point]
    reasoning: str


def parse_released(text: str, space: Size, image: Size) -> ReleasedAnswer:
    """Read a text as the released evaluation does.

    Args:
        text: Everything the reasoner wrote.
        space: The size of the space its coordinates are in.
        image: The size they are carried over to.

    Raises:
        AnswerError: The released code fails on it.
    """
    content = _first_braces(text)
    factors = (image.width / space.width, image.height / space.height)
    boxes = [key for key in content if 'bbox' in key.lower()]
    points = [key for key in content if 'points' in key.lower()][:2]
    try:
        if not boxes or len(content[boxes[0]]) != 4:
            raise AnswerError('missing_key', 'there is no bbox of four numbers', text)
        if len(points) != 2:
            raise AnswerError('missing_key', 'there are not two keys with points', text)
        corners = _scaled(content[boxes[0]], 4, factors)
        spots = [Point(*_scaled(content[key], 2, factors)) for key in points]
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise AnswerError('bad_box', f'the coordinates cannot be read ({error})', text) from error
    thinking = re.search(r'<think>([^<]+)</think>', text)
    if not thinking:
        raise AnswerError('missing_key', 'there is no thinking', text)
    return ReleasedAnswer(Box(*corners), (spots[0], spots[1]), thinking.group(1))


def _first_braces(text: str) -> dict[str, Any]:
    found = re.search(r'{[^}]+}', text)
    if not found:
        raise AnswerError('no_json', 'there are no braces', text)
    try:
        content: dict[str, Any] = json.loads(found.group(0))
    except (ValueError, RecursionError) as error:
        raise AnswerError('bad_json', f'the first braces are no JSON ({error})', text) from error
    return content


def _scaled(numbers: Any, count: int, factors: tuple[float, float]) -> list[float]:
    return [float(round(int(numbers[i]) * factors[i % 2])) for i in range(count)]
