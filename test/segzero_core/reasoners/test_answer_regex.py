# SPDX-License-Identifier: Apache-2.0
"""Structured output follows the task: what matches is read without a repair."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_core.prompts import FAMILIES, get_family
from segzero_core.reasoners.answer_regex import answer_pattern, pattern_after
from segzero_core.reasoners.streaming import StreamedReply
from segzero_core.task import Task
from segzero_core.types import Size

TASKS = [
    Task(answer, think, get_family(name))
    for answer in ('box_points', 'box', 'points')
    for think in (True, False)
    for name in ('seg_zero', 'json', 'thousandths', 'tiny')
] + [Task(family=get_family(name)) for name in ('grounding', 'grounding_thousandths')]


def name_of(task):
    return f'{task.family.name}-{task.answer}-{task.think}'


@pytest.mark.parametrize('task', TASKS, ids=name_of)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_what_the_pattern_allows_is_read_without_a_repair(task, data):
    size = task.answer_size(Size(1000, 1000))
    x1, x2 = sorted(data.draw(st.tuples(*[st.integers(2, size.width // 2)] * 2)))
    y1, y2 = sorted(data.draw(st.tuples(*[st.integers(2, size.height // 2)] * 2)))
    values = {
        'bbox': [x1, y1, x2 + 3, y2 + 3],
        'bbox_2d': [x1, y1, x2 + 3, y2 + 3],
        'points_1': [x1 + 1, y1 + 1],
        'points_2': [x2, y2],
    }
    pattern = pattern_after(StreamedReply(None, None), task)
    keys = re.findall(r'"(\w+)"', pattern)
    content = ', '.join(f'"{key}": {values[key]}' for key in keys)
    text = f'{{{content}}}'
    if task.family.tagged:
        text = f'{"<think>a</think>" if task.think else ""}<answer>{text}</answer>'
    assert re.fullmatch(pattern, text), (pattern, text)
    found = task.read(text, size)
    assert found.repairs == ()
    assert (found.box is not None, len(found.points)) == (task.box, 2 * task.points)


@pytest.mark.parametrize(
    ('written', 'opened', 'start'),
    [
        ('', False, '<think>[^<]+</think><answer>'),
        ('', True, '[^<]+</think><answer>'),
        ('<think>', False, '[^<]+</think><answer>'),
        ('<think></think><answer>', False, ''),
        ('<think>a</think>', False, '<answer>'),
    ],
)
def test_the_pattern_goes_on_from_what_is_written(written, opened, start):
    reply = StreamedReply(None, None, Task(), opened)
    reply.add(written)
    if opened:
        assert reply.written == ''
        reply = StreamedReply(None, None, Task(), opened)
        reply.add('x')
    assert pattern_after(reply, Task()) == start + answer_pattern(Task())


def test_a_checkpoint_that_does_not_think_is_not_made_to():
    task = Task('box', think=False)
    assert pattern_after(StreamedReply(None, None), task) == '<answer>' + answer_pattern(task)
    assert 'points' not in answer_pattern(task)


def test_words_have_no_pattern():
    task = Task(family=FAMILIES['question'])
    assert pattern_after(StreamedReply(None, None), task) is None
