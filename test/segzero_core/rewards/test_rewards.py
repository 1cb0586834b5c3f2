# SPDX-License-Identifier: Apache-2.0
"""The rewards: the paper's Figure 2, the released code's quirks, and what hardening closes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero_core.answers.parse import Answer, format_answer
from segzero_core.errors import UnknownNameError
from segzero_core.rewards.hardened import REWARDS, Recipe, Truth, mask_iou, score
from segzero_core.types import Box, Point, Size

HARDENED = Recipe()
HARDENED_SOFT = Recipe(answer_format='soft')
RELEASED = Recipe(mode='released')
RELEASED_SOFT = Recipe(mode='released', answer_format='soft')

TRUTH = Truth(Box(35, 60, 354, 423), (Point(183, 235), Point(168, 305)))
JSON = '{"bbox": [35, 60, 354, 423], "points_1": [183, 235], "points_2": [168, 305]}'


def answered(content: str, thinking: str = 'He wears the brown coat.') -> str:
    return f'<think>{thinking}</think> <answer>{content}</answer>'


def total(text: str, recipe: Recipe, truth: Truth = TRUTH) -> float:
    return sum(score(text, truth, recipe).values())


# Figure 2 of the paper. Its own totals are 5, 2 and 0; the released code gives 5, 3 and 1.
# Sample 2 also repeats the right box to the pixel, which earns box L1 as well as IoU. Sample 3 has
# no thinking, but an IoU of 0.76.
SAMPLE_1 = (
    '<think> Thought process: 1. Identify the elements.</think> <answer> ' + JSON + ' </answer>'
)
SAMPLE_2 = (
    '<think> The person in the brown coat is the one holding the cell phone.</think> '
    '<answer> {"bbox": [35, 60, 354, 423], "bbox": [35, 60, 354, 423]}</answer>'
)
SAMPLE_3 = (
    'The people wearing a hat is on the right. <answer> {"bbox": [25, 70, 300, 410]} </answer>'
)


@pytest.mark.parametrize(
    ('sample', 'recipe', 'expected'),
    [
        (SAMPLE_1, RELEASED, (1, 1, 1, 1, 1)),
        (SAMPLE_2, RELEASED, (1, 0, 1, 1, 0)),
        (SAMPLE_3, RELEASED, (0, 0, 1, 0, 0)),
        (SAMPLE_1, HARDENED, (1, 1, 1, 1, 1)),
        (SAMPLE_2, HARDENED, (1, 0, 0, 0, 0)),  # a duplicated key makes the answer unreadable
        (SAMPLE_3, HARDENED, (0, 0, 1, 0, 0)),
    ],
)
def test_figure_2(sample, recipe, expected):
    assert tuple(score(sample, TRUTH, recipe).values()) == expected


def test_names_and_order_are_those_of_the_figure():
    assert list(score(SAMPLE_1, TRUTH)) == [
        'think_format', 'answer_format', 'box_iou', 'box_l1', 'point_l1',
    ]  # fmt: skip


# Cases in which the released code differs from the paper or is unreasonable: text, recipe, total.
QUIRKS = {
    'empty thinking': (answered(JSON, ''), 5, 4),
    'JSON in the thinking': (answered('nothing', JSON), 5, 1),
    'two answer blocks': (answered(JSON) + answered(JSON), 5, 0),
    'two ends': (answered(JSON) + '</answer>', 5, 0),
    'space in front': (' ' + answered(JSON), 4, 5),
    'single quotes': (answered(JSON.replace('"', "'")), 1, 1),
    'answer in unclosed thinking': (f'<think>a <answer>{JSON}</answer>', 4, 0),
    'empty object first': (answered('{} ' + JSON), 5, 1),
    'answer in closed thinking': (f'<think>a <answer>{JSON}</answer></think>', 4, 0),
    'nulls': (
        answered(
            '{"bbox": [null, null, null, null], "points_1": [null, null], "points_2": [0, 0]}'
        ),
        2,
        1,
    ),
    'duplicated key': (answered(JSON.replace('{', '{"bbox": [0, 0, 1, 1], ')), 5, 1),
    'true and false': (answered(JSON.replace('[35,', '[true,')), 5, 2),
    'numeric strings as points': (answered(JSON.replace('183', '"183"')), 5, 3),
    'extra key': (answered(JSON.replace('}', ', "label": "man"}')), 5, 4),
    'key of Figure 4': (answered(JSON.replace('s_', 's ')), 3, 3),
}


@pytest.mark.parametrize('quirk', QUIRKS)
def test_quirks_of_the_released_code_and_what_hardening_makes_of_them(quirk):
    text, as_released, hardened = QUIRKS[quirk]
    assert total(text, RELEASED) == as_released
    assert total(text, HARDENED) == hardened


SOFT_QUIRKS = {
    'key of Figure 4': (answered(JSON.replace('s_', 's ')), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
    'key with point': (answered(JSON.replace('ts_', 't_')), (1, 1, 1, 1, 0), (1, 1, 1, 1, 1)),
    'text for lists': (
        answered('{"bbox": "abcd", "points_1": "ab", "points_2": "ab"}'),
        (1, 1, 0, 0, 0),
        (1, 0, 0, 0, 0),
    ),
    'three points': (
        answered(JSON.replace('}', ', "points_3": [0, 0]}')),
        (1, 1, 1, 1, 1),
        (1, 0, 1, 1, 0),
    ),
    'markdown fence': (answered(f'```json\n{JSON}\n```'), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
    'two objects': (answered(f'[{JSON}, {JSON}]'), (1, 1, 1, 1, 1), (1, 0, 0, 0, 0)),
}


@pytest.mark.parametrize('quirk', SOFT_QUIRKS)
def test_quirks_of_the_soft_format(quirk):
    text, as_released, hardened = SOFT_QUIRKS[quirk]
    assert tuple(score(text, TRUTH, RELEASED_SOFT).values()) == as_released
    assert tuple(score(text, TRUTH, HARDENED_SOFT).values()) == hardened


def box_answer(*box: float) -> str:
    return answered(JSON.replace('[35, 60, 354, 423]', json.dumps(box)))


def test_box_iou_is_one_pixel_larger_as_released():
    truth = Truth(Box(0, 0, 9, 9), TRUTH.points)
    half = box_answer(0, 0, 9, 4)  # 50 of 100 pixels; 36 of 81 as continuous areas
    more = box_answer(0, 0, 9, 4.6)  # 56 of 100 pixels; 41.4 of 81: just over half
    assert REWARDS['box_iou'](half, truth, RELEASED) == 0
    assert REWARDS['box_iou'](more, truth, RELEASED) == 1
    assert REWARDS['box_iou'](more, truth, HARDENED) == 1
    assert REWARDS['box_iou'](half, truth, Recipe(accuracy='soft')) == pytest.approx(36 / 81)
    soft = Recipe(mode='released', accuracy='soft')
    assert REWARDS['box_iou'](half, truth, soft) == 0.5


@pytest.mark.parametrize('recipe', [HARDENED, RELEASED])
def test_box_l1_is_the_mean_of_the_four_and_under_ten(recipe):
    assert REWARDS['box_l1'](box_answer(35, 60, 354, 423 + 39), TRUTH, recipe) == 1
    assert REWARDS['box_l1'](box_answer(35, 60, 354, 423 + 40), TRUTH, recipe) == 0
    soft = Recipe(mode=recipe.mode, accuracy='soft')
    assert REWARDS['box_l1'](box_answer(35, 60, 354, 423 + 84), TRUTH, soft) == 1 - 21 / 840


@pytest.mark.parametrize('box', [(354, 60, 35, 423), (35, 423, 354, 60), (35, 60, 35, 423)])
def test_a_reversed_or_empty_box_earns_nothing_hardened(box):
    assert score(box_answer(*box), TRUTH) == {
        'think_format': 1, 'answer_format': 0, 'box_iou': 0, 'box_l1': 0, 'point_l1': 1,
    }  # fmt: skip


def point_answer(first: tuple[float, float], second: tuple[float, float]) -> str:
    return format_answer(Answer(TRUTH.box, (Point(*first), Point(*second)), 'Because.'))


def test_points_may_come_in_either_order():
    apart = Truth(TRUTH.box, (Point(40, 70), Point(350, 400)))
    for recipe in (HARDENED, RELEASED):
        assert REWARDS['point_l1'](point_answer((350, 400), (40, 70)), apart, recipe) == 1
        assert REWARDS['point_l1'](point_answer((40, 70), (350, 400)), apart, recipe) == 1
        assert REWARDS['point_l1'](point_answer((40, 70), (40, 70)), apart, recipe) == 0


def test_point_distance_is_l1_hardened_and_euclidean_as_released():
    near = point_answer((183 + 69, 235 + 69), (168 + 69, 305 + 69))  # L1 138, Euclidean 97.6
    assert REWARDS['point_l1'](near, TRUTH, RELEASED) == 1
    assert REWARDS['point_l1'](near, TRUTH, HARDENED) == 0
    soft = Recipe(accuracy='soft')
    assert REWARDS['point_l1'](near, TRUTH, soft) == 1 - 138 / 840


def test_points_must_be_in_the_predicted_box_as_released_and_in_the_true_one_hardened():
    elsewhere = answered(JSON.replace('[35, 60, 354, 423]', '[500, 500, 600, 600]'))
    assert REWARDS['point_l1'](elsewhere, TRUTH, RELEASED) == 0
    assert REWARDS['point_l1'](elsewhere, TRUTH, HARDENED) == 1
    outside = answered('{"bbox": [0, 0, 840, 840], "points_1": [30, 235], "points_2": [168, 305]}')
    near = Truth(TRUTH.box, (Point(40, 235), Point(168, 305)))
    assert REWARDS['point_l1'](outside, near, RELEASED) == 1
    assert REWARDS['point_l1'](outside, near, HARDENED) == 0


def test_thresholds_scale_with_the_space_hardened_only():
    tenth = Truth(Box(3.5, 6, 35.4, 42.3), (Point(18.3, 23.5), Point(16.8, 30.5)), Size(84, 84))
    off = format_answer(Answer(Box(5.5, 8, 37.4, 44.3), tenth.points, 'Because.'))  # 2 of 84
    assert REWARDS['box_l1'](off, tenth, HARDENED) == 0
    assert REWARDS['box_l1'](off, tenth, RELEASED) == 1


# Variants of the paper's tables.


def test_without_thinking_there_is_no_reward_for_its_form():
    names = list(score(f'<answer>{JSON}</answer>', TRUTH, Recipe(thinking=False)))
    assert names == ['answer_format', 'box_iou', 'box_l1', 'point_l1']
    assert total(f'<answer>{JSON}</answer>', Recipe(thinking=False)) == 4
    # Unwanted thinking loses the format reward.
    assert total(f'<think>a</think><answer>{JSON}</answer>', Recipe(thinking=False)) == 3


@pytest.mark.parametrize('mode', ['hardened', 'released'])
def test_box_only(mode):
    recipe = Recipe(mode=mode, targets='box')
    text = answered('{"bbox": [35, 60, 354, 423]}')
    assert score(text, TRUTH, recipe) == {
        'think_format': 1, 'answer_format': 1, 'box_iou': 1, 'box_l1': 1,
    }  # fmt: skip
    assert score(answered('{"points_1": [1, 2]}'), TRUTH, recipe)['answer_format'] == 0


@pytest.mark.parametrize('mode', ['hardened', 'released'])
def test_points_only(mode):
    recipe = Recipe(mode=mode, targets='points')
    text = answered('{"points_1": [183, 235], "points_2": [168, 305]}')
    assert score(text, TRUTH, recipe) == {'think_format': 1, 'answer_format': 1, 'point_l1': 1}
    outside = answered('{"points_1": [30, 235], "points_2": [168, 305]}')
    near = Truth(TRUTH.box, (Point(40, 235), Point(168, 305)))
    assert score(outside, near, recipe)['point_l1'] == 0


def test_an_unknown_choice_is_named():
    with pytest.raises(UnknownNameError, match=r"'relesed'.*Did you mean 'released'"):
        Recipe(mode='relesed')
    with pytest.raises(UnknownNameError, match=r"'lenght'.*Did you mean 'length'"):
        Recipe(extras=('lenght',))


# What successors added.


def test_mask_iou_has_three_tiers():
    assert [mask_iou(iou) for iou in (1, 0.81, 0.8, 0.71, 0.7, 0.51, 0.5, 0)] == [
        4, 4, 3, 3, 2, 2, 0, 0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('thinking', 'as_released', 'hardened'),
    [
        ('One. Two. Three', 1, 1),
        ('Well. So it is. So it is. Done', 1, 1),
        ('Well. So it is. So it is. So it is. Done', 0, 0),
        ('So it is! so  it is? SO IT IS. Done', 1, 0),
        ('', 1, 0),
    ],
)
def test_non_repeat(thinking, as_released, hardened):
    text = answered(JSON, thinking)
    assert REWARDS['non_repeat'](text, TRUTH, RELEASED) == as_released
    assert REWARDS['non_repeat'](text, TRUTH, HARDENED) == hardened


def test_length_rewards_short_thinking_before_a_right_answer_only():
    def reward(words, content=JSON):
        return REWARDS['length'](answered(content, 'word ' * words), TRUTH, HARDENED)

    assert [reward(n) for n in (0, 1, 30, 90, 150, 500)] == [0, 1, 1, 0.5, 0, 0]
    assert reward(10, '{"bbox": [700, 700, 800, 800]}') == 0
    points = Recipe(targets='points')
    text = answered('{"points_1": [183, 235], "points_2": [168, 305]}')
    assert REWARDS['length'](text, TRUTH, points) == 1


# Laws.

_pieces = st.sampled_from(
    ['<think>', '</think>', '<answer>', '</answer>', '{', '}', '{}', '[', ']', ',', ':', 'null',
     '"bbox"', '"points_1"', '"points_2"', '[1,2]', '[1,2,3,4]', '[NaN,1e999]', '9' * 400, '"a"',
     'why. ', ' ', JSON]
)  # fmt: skip
_texts = st.text() | st.lists(_pieces, max_size=25).map(''.join)
_recipes = st.builds(
    Recipe,
    mode=st.sampled_from(['hardened', 'released']),
    answer_format=st.sampled_from(['soft', 'strict']),
    accuracy=st.sampled_from(['soft', 'hard']),
    targets=st.sampled_from(['both', 'box', 'points']),
    extras=st.just(('length', 'non_repeat')),
)
_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
)
_objects = st.dictionaries(
    st.sampled_from(['bbox', 'points_1', 'points_2', 'point_1', 'my bbox']),
    _value | st.lists(st.integers(0, 840) | st.floats(0, 840), min_size=2, max_size=4),
).map(lambda content: answered(json.dumps(content)))


@given(_texts | _objects, _recipes)
def test_any_text_earns_between_nothing_and_one_for_each(text, recipe):
    assert all(0 <= reward <= 1 for reward in score(text, TRUTH, recipe).values())


_coordinate = st.integers(0, 840)


@given(*[_coordinate] * 8)
def test_the_true_answer_earns_everything(a, b, c, d, e, f, g, h):
    x1, x2 = sorted((a, b if b != a else (a + 1) % 841))
    y1, y2 = sorted((c, d if d != c else (c + 1) % 841))
    inside = [Point(min(max(x, x1), x2), min(max(y, y1), y2)) for x, y in ((e, f), (g, h))]
    truth = Truth(Box(x1, y1, x2, y2), (inside[0], inside[1]))
    text = format_answer(Answer(truth.box, truth.points, 'It is the only one.'))
    for recipe in (HARDENED, HARDENED_SOFT, RELEASED, RELEASED_SOFT, Recipe(accuracy='soft')):
        assert total(text, recipe, truth) == 5


@given(_texts)
def test_hardened_thinking_without_words_earns_nothing(junk):
    letterless = ''.join(character for character in junk if not character.isalpha())
    assert score(answered(JSON, letterless), TRUTH)['think_format'] == 0
