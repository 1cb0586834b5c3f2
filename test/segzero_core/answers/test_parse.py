# SPDX-License-Identifier: Apache-2.0
"""The answer contract: accepted texts, repairs, refusals, and their messages."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segzero_core.answers.parse import Answer, format_answer, parse_answer
from segzero_core.errors import AnswerError
from segzero_core.types import Box, Point, Size

SIZE = Size(840, 840)
BOX = Box(10, 100, 200, 210)
POINTS = (Point(30, 110), Point(35, 180))
JSON = '{"bbox": [10, 100, 200, 210], "points_1": [30, 110], "points_2": [35, 180]}'
OTHER = JSON.replace('[10,', '[11,')


def answered(content: str) -> str:
    return f'<think>The red one.</think><answer>{content}</answer>'


def parse(content: str) -> Answer:
    return parse_answer(answered(content), SIZE)


def kind_of(text: str) -> str:
    with pytest.raises(AnswerError) as caught:
        parse_answer(text, SIZE)
    assert caught.value.text == text
    return caught.value.kind


def test_clean_answer_needs_no_repair():
    assert parse(JSON) == Answer(BOX, POINTS, 'The red one.', ())


def test_white_space_between_the_tags_needs_no_repair():
    text = f' <think>\nThe red one.\n</think>\n\n<answer>\n{JSON}\n</answer>\n'
    assert parse_answer(text, SIZE) == Answer(BOX, POINTS, 'The red one.', ())


@pytest.mark.parametrize(
    'content',
    [
        pytest.param(JSON.replace('"', "'"), id='single quotes'),
        pytest.param(f'```json\n{JSON}\n```', id='markdown fence'),
        pytest.param(JSON.replace('}', ',}').replace(']', ',]'), id='trailing commas'),
        pytest.param(JSON.replace('], ', '] '), id='missing commas'),
        pytest.param(JSON.replace('"', ''), id='no quotes'),
        pytest.param(JSON.replace('[', '(').replace(']', ')'), id='tuples'),
        pytest.param(f'The answer is [see above] {JSON}. Done!', id='text around'),
        pytest.param(JSON[:-1], id='no closing brace'),
        pytest.param(JSON[:-1] + ', "label": "a mu', id='truncated after the points'),
        pytest.param(f'{{{JSON}}}', id='double braces'),
        pytest.param(f'[{JSON}, {{"bbox": [1, 2', id='second object truncated'),
    ],
)
def test_what_is_not_plain_json_is_read_and_reported(content):
    answer = parse(content)
    assert (answer.box, answer.points) == (BOX, POINTS)
    assert answer.repairs == ('the answer was not plain JSON',)


@pytest.mark.parametrize(
    ('content', 'repair'),
    [
        pytest.param(JSON.replace('_', ' '), "'points 1' was read as 'points_1'", id='spaces'),
        pytest.param(JSON.replace('points', 'point'), "'point_1' was read as", id='singular'),
        pytest.param(JSON.replace('points', 'Points'), "'Points_1' was read as", id='case'),
        pytest.param(JSON.replace('bbox', 'bbox_2d'), "'bbox_2d' was read as 'bbox'", id='2d'),
        pytest.param(
            '{"bbox": [10, 100, 200, 210], "points": [[30, 110], [35, 180]]}',
            "both points were under one key 'points'",
            id='nested points',
        ),
        pytest.param(JSON.replace('[30, 110]', '[[30, 110]]'), 'points_1 was nested', id='nested'),
        pytest.param(JSON.replace('30', '"30"'), 'numbers written as text', id='numeric string'),
        pytest.param(JSON.replace('10,', '"10.0",', 1), 'written as text', id='decimal string'),
        pytest.param(f'[{JSON}, {OTHER}]', 'one of 2 objects was used', id='two objects'),
        pytest.param(f'[{{"bbox": []}}, {JSON}]', 'one of 2 objects', id='first object useless'),
        pytest.param(
            OTHER.replace('}', ', "bbox": [10, 100, 200, 210]}'),
            'bbox was written twice, the last one was used',
            id='duplicated key',
        ),
        pytest.param(
            JSON.replace('[10, 100, 200, 210]', '[200, 210, 10, 100]'),
            'the corners of the box were swapped',
            id='reversed box',
        ),
    ],
)
def test_repairs_are_named(content, repair):
    answer = parse(content)
    assert (answer.box, answer.points) == (BOX, POINTS)
    assert any(repair in named for named in answer.repairs)


def test_one_object_in_a_list_or_wrapper_is_clean():
    assert parse(f'[{JSON}]').repairs == ()
    assert parse(f'{{"result": {JSON}}}').repairs == ()


def test_decimals_are_kept():
    content = JSON.replace('[10,', '[10.75,').replace('[30,', '[3.05e1,')
    assert parse(content) == Answer(Box(10.75, 100, 200, 210), (Point(30.5, 110), POINTS[1]),
                                    'The red one.')  # fmt: skip


def test_coordinates_are_clamped_to_the_image():
    answer = parse('{"bbox": [-5, 100, 900, 210], "points_1": [30, -1e9], "points_2": [35, 1e30]}')
    assert answer.box == Box(0, 100, 840, 210)
    assert answer.points == (Point(30, 0), Point(35, 840))
    assert answer.repairs == ('the box reached outside the image', 'a point was outside the image')


def test_the_far_edge_belongs_to_the_image():
    answer = parse('{"bbox": [0, 0, 840, 840], "points_1": [0, 0], "points_2": [840, 840]}')
    assert answer.repairs == ()
    assert answer.box == Box(0, 0, 840, 840)


@pytest.mark.parametrize(
    ('content', 'kind'),
    [
        ('', 'no_json'),
        ('I cannot see it.', 'no_json'),
        ('{sorry!}', 'bad_json'),
        ('[10, 100, 200, 210]', 'bad_json'),
        ('{"label": "mug"}', 'missing_key'),
        (JSON.replace('bbox', 'area'), 'missing_key'),
        (JSON.replace(', "points_2": [35, 180]', ''), 'missing_key'),
        (JSON[:-2], 'missing_key'),  # [35, 18|0: the last number may be cut
        (JSON.replace('[10, ', '['), 'bad_box'),
        (JSON.replace('[10, ', '[10, 10, '), 'bad_box'),
        (JSON.replace('[10, 100, 200, 210]', 'null'), 'bad_box'),
        (JSON.replace('[10, 100, 200, 210]', '[0, 0, 0, 0]'), 'bad_box'),
        (JSON.replace('[10, 100, 200, 210]', '[10, 100, 10, 210]'), 'bad_box'),
        (JSON.replace('[10, 100, 200, 210]', '[10, 100, 200, 100]'), 'bad_box'),
        (JSON.replace('[10,', '[true,'), 'bad_box'),
        (JSON.replace('[10,', '[NaN,'), 'bad_box'),
        (JSON.replace('[10,', f'[{"9" * 5000},'), 'bad_box'),
        (JSON.replace('[10,', '["ten",'), 'bad_box'),
        (JSON.replace('[30, 110]', '[30, 110, 1]'), 'bad_point'),
        (JSON.replace('[30, 110]', '[30]'), 'bad_point'),
        (JSON.replace('[30, 110]', '{"x": 30, "y": 110}'), 'bad_point'),
        (JSON.replace('[30,', '[-Infinity,'), 'bad_point'),
        ('{"bbox": [10, 100, 200, 210], "points": [30, 110]}', 'bad_point'),
        (JSON.replace('[10, 100, 200,', '[900, 100, 990,'), 'out_of_image'),
        (JSON.replace('[10, 100, 200, 210]', '[-9, -9, -1, -1]'), 'out_of_image'),
    ],
)
def test_what_cannot_be_read_without_guessing_is_refused(content, kind):
    assert kind_of(answered(content)) == kind


@pytest.mark.parametrize(
    'content',
    ['{}', '[]', 'null', 'none', 'None.', ' "nothing" ', '```json\n[]\n```', '[{}]',
     '{"bbox": null}', '{"bbox": [], "points_1": [], "points_2": []}'],
)  # fmt: skip
def test_an_explicitly_empty_answer_says_that_nothing_was_found(content):
    assert kind_of(answered(content)) == 'nothing_found'


def test_an_error_shows_the_value_at_fault():
    with pytest.raises(AnswerError, match=r'bbox must be 4 finite numbers, got \[1\.0, 2\.0\]'):
        parse('{"bbox": [1, 2], "points_1": [1, 2], "points_2": [1, 2]}')


# Which part of the text counts.


def test_only_the_answer_counts_when_the_thinking_has_json_too():
    text = f'<think>Maybe <answer>{OTHER}</answer>? No.</think><answer>{JSON}</answer>'
    answer = parse_answer(text, SIZE)
    assert answer.box == BOX
    assert answer.repairs == ()
    assert answer.reasoning == f'Maybe <answer>{OTHER}</answer>? No.'


@pytest.mark.parametrize(
    ('text', 'reasoning', 'repairs'),
    [
        pytest.param(f'<answer>{JSON}</answer>', '', (), id='no thinking'),
        pytest.param(f'<think></think><answer>{JSON}</answer>', '', (), id='empty thinking'),
        pytest.param(f'Red.</think><answer>{JSON}</answer>', 'Red.', (), id='prefilled thinking'),
        pytest.param(f'<think>Red.<answer>{JSON}</answer>', 'Red.', (), id='unclosed thinking'),
        pytest.param(f'Red.<answer>{JSON}</answer>', 'Red.', (), id='untagged thinking'),
        pytest.param(f'<think>3 < 4</think><answer>{JSON}</answer>', '3 < 4', (), id='less than'),
        pytest.param(f'<answer>{JSON}</answer><think>Red.</think>', 'Red.', (), id='answer first'),
        pytest.param(
            f'<answer>{JSON}</answer></think>', f'<answer>{JSON}</answer>', (), id='stray end'
        ),
        pytest.param(f'<THINK>Red.</Think><Answer>{JSON}</ANSWER>', 'Red.', (), id='case of tags'),
        pytest.param(
            f'<think>Red.</think><answer>{JSON}',
            'Red.',
            ('there was no </answer> tag',),
            id='no end tag',
        ),
        pytest.param(
            f'<think>Red.</think>{JSON}</answer>',
            'Red.',
            ('there was no <answer> tag',),
            id='no start tag',
        ),
        pytest.param(JSON, '', ('there were no <answer> tags',), id='no tags at all'),
        pytest.param(
            f'<think>Red.</think>{JSON}',
            'Red.',
            ('there were no <answer> tags',),
            id='no answer tags',
        ),
        pytest.param(
            f'<think>{JSON}</think>',
            JSON,
            ('there were no <answer> tags', 'the answer was taken from the thinking'),
            id='only thinking',
        ),
        pytest.param(
            f'<think>Red.</think><answer>{JSON}</answer><answer>{OTHER}</answer>',
            'Red.',
            ('one of several <answer> blocks was used',),
            id='two answers',
        ),
        pytest.param(
            f'<answer>{JSON}<answer>{OTHER}',
            '',
            ('one of several <answer> blocks was used', 'there was no </answer> tag'),
            id='two answers without end',
        ),
    ],
)
def test_tags(text, reasoning, repairs):
    assert parse_answer(text, SIZE) == Answer(BOX, POINTS, reasoning, repairs)


def test_without_answer_tags_the_last_object_counts():
    text = f'<think>Red.</think>First I thought {OTHER}, but it is {JSON}'
    assert parse_answer(text, SIZE).box == BOX


def test_nothing_found_after_the_thinking_beats_json_in_the_thinking():
    assert kind_of(f'<think>Not {JSON}.</think>none') == 'nothing_found'


@pytest.mark.parametrize('text', ['', ' \n'])
def test_no_text(text):
    assert kind_of(text) == 'empty_text'


# Laws.

# Not within a pixel of the corner, where numbers may be shares of the image.
_coordinate = st.floats(1.5, 840) | st.integers(2, 840).map(float)
_corner = st.floats(0, 838) | st.integers(0, 838).map(float)
_untagged = st.text().filter(lambda text: '<' not in text)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    x1, y1 = draw(_corner), draw(_corner)
    x2, y2 = (draw(st.floats(low + 1, 840).filter(lambda high: high > 1)) for low in (x1, y1))
    points = (Point(draw(_coordinate), draw(_coordinate)),
              Point(draw(_coordinate), draw(_coordinate)))  # fmt: skip
    return Answer(Box(x1, y1, x2, y2), points, draw(_untagged))


@given(answers())
@example(Answer(Box(0, 0.67, 2, 1.67), (Point(2, 2), Point(2, 2))))
def test_what_is_formatted_is_read_back_unchanged(answer):
    text = format_answer(answer)
    assert parse_answer(text, SIZE) == answer
    json.loads(text.split('<answer>')[1].removesuffix('</answer>'))


def test_format_refuses_reasoning_that_would_end_itself():
    with pytest.raises(ValueError, match='must not contain tags'):
        format_answer(Answer(BOX, POINTS, 'a </think> b'))


def test_format_refuses_coordinates_that_are_no_numbers():
    with pytest.raises(ValueError, match='not JSON compliant'):
        format_answer(Answer(BOX, (Point(float('nan'), 0), POINTS[1])))


_pieces = st.sampled_from(
    ['<think>', '</think>', '<answer>', '</answer>', '{', '}', '[', ']', '(', ')', ',', ':', '"',
     "'", '\\', '-', '1', '1e999', 'NaN', 'null', 'none', ' ', '\n', '"bbox"', '"points_1"',
     "'points'", '```json', '[1,2,3,4]', '"points_2": [3, 4]', JSON, OTHER]
)  # fmt: skip
_texts = st.text() | st.lists(_pieces, max_size=30).map(''.join)


@given(_texts)
@example(answered('{"a":' * 2000 + JSON))
def test_no_text_raises_anything_but_answer_error_and_results_lie_inside(text):
    try:
        answer = parse_answer(text, SIZE)
    except AnswerError:
        return
    x1, y1, x2, y2 = answer.box
    assert 0 <= x1 < x2 <= 840
    assert 0 <= y1 < y2 <= 840
    assert all(0 <= value <= 840 for point in answer.points for value in point)


def test_a_text_cut_anywhere_never_gives_other_coordinates():
    text = answered(JSON)
    complete = text.index('}')
    for end in range(len(text)):
        try:
            answer = parse_answer(text[:end], SIZE)
        except AnswerError:
            assert end < complete
        else:
            assert (answer.box, answer.points) == (BOX, POINTS)
            assert answer.repairs


@pytest.mark.parametrize(
    'unit',
    ['[', '{"', "{'a{\"b", '{"\\', '[{"bbox":"x"},', '<answer>', '<think>', '</think>', "'", '" ',
     ' ', '9', '-1']
)  # fmt: skip
def test_a_million_characters_are_read_to_the_end(unit):
    # Quadratic time would take hours here, deep recursion would crash.
    flood = unit * (1_000_000 // len(unit))
    assert parse_answer(f'<answer>{JSON}</answer>{flood}', SIZE).box == BOX
    kind_of(f'x{flood}')
