# SPDX-License-Identifier: Apache-2.0
"""Texts that the released evaluation accepts or refuses, as observed by running it."""

import pytest

from segzero_core.answers.released import parse_released
from segzero_core.errors import AnswerError
from segzero_core.types import Box, Point, Size

SPACE, IMAGE = Size(840, 840), Size(1680, 420)
GOOD = '{"bbox": [10, 20, 30, 41], "points_1": [15, 25], "points_2": [16, 26]}'


def text(found: str, thinking: str = '<think>the cup</think>') -> str:
    return f'{thinking}<answer>{found}</answer>'


def test_coordinates_are_scaled_and_rounded():
    found = parse_released(text(GOOD), SPACE, IMAGE)
    assert found.box == Box(20, 10, 60, 20)  # 41 / 2 = 20.5 is rounded to the even number
    assert found.points == (Point(30, 12), Point(32, 13))
    assert found.reasoning == 'the cup'


@pytest.mark.parametrize(
    ('found', 'box'),
    [
        (GOOD.replace('10, 20', '10.9, 20'), Box(20, 10, 60, 20)),  # cut, not rounded
        (GOOD.replace('10, 20', '"10", 20'), Box(20, 10, 60, 20)),
        (GOOD.replace('[10, 20, 30, 41]', '[30, 41, -10, 900]'), Box(60, 20, -20, 450)),
        (GOOD.replace('"bbox"', '"my_BBOX"'), Box(20, 10, 60, 20)),
        (f'```json\n{GOOD}\n```', Box(20, 10, 60, 20)),
    ],
)
def test_what_it_accepts(found, box):
    assert parse_released(text(found), SPACE, IMAGE).box == box


def test_the_first_braces_count_even_in_no_answer_tag():
    assert parse_released(f'{GOOD}<think>x</think>', SPACE, IMAGE).box == Box(20, 10, 60, 20)


@pytest.mark.parametrize(
    'broken',
    [
        text(GOOD, ''),
        text(GOOD, '<think></think>'),
        text(GOOD, '<think>3 < 4</think>'),
        text(GOOD.replace('"', "'")),
        text(GOOD.replace('"points_2"', '"point_2"')),
        text(GOOD.replace('30, 41', '30')),
        text(GOOD.replace('30, 41', '30, "41.5"')),
        text(GOOD.replace('30, 41', '30, NaN')),
        text(GOOD.replace('30, 41', '30, Infinity')),
        text(GOOD.replace('[15, 25]', '[15]')),
        text(GOOD.replace('[15, 25]', '7')),
        text('[]'),
        text(GOOD[:-1]),
        '',
    ],
)
def test_what_it_fails_on(broken):
    with pytest.raises(AnswerError):
        parse_released(broken, SPACE, IMAGE)
