# SPDX-License-Identifier: Apache-2.0
"""One switch changes prompt, answer and rewards together."""

from __future__ import annotations

import pytest

from segzero_core.data import Annotation
from segzero_core.errors import AnswerError, UnknownNameError
from segzero_core.prompts import FAMILIES
from segzero_core.rewards.hardened import Recipe, Truth, score
from segzero_core.task import Task
from segzero_core.types import Box, Point, Size

SIZE = Size(840, 840)
TARGET = Annotation(Box(35, 60, 354, 423), (Point(183, 235), Point(168, 305)))
WORDY = [family for family in FAMILIES.values() if '<answer>' in family.template]
TASKS = [
    Task(answer, think) for answer in ('box_points', 'box', 'points') for think in (True, False)
]  # type: ignore[arg-type]


@pytest.mark.parametrize('family', WORDY, ids=lambda family: family.name)
@pytest.mark.parametrize('task', TASKS, ids=lambda task: f'{task.answer}-{task.think}')
def test_prompt_asks_for_what_is_wanted_and_nothing_else(task: Task, family) -> None:  # type: ignore[no-untyped-def]
    template = task.with_family(family).prompt.template
    assert ('bbox' in template) == task.box
    assert ('circles' in template) == task.points
    assert ('points' in template) == task.points
    assert ('think' in template) == task.think
    assert '<answer>' in template
    assert '{question}' in template


def test_default_changes_nothing() -> None:
    for family in FAMILIES.values():
        assert Task(family=family).prompt == family


@pytest.mark.parametrize('mode', ['hardened', 'released'])
@pytest.mark.parametrize('task', TASKS, ids=lambda task: f'{task.answer}-{task.think}')
def test_perfect_answer_is_read_back_and_earns_everything(task: Task, mode: str) -> None:
    text = task.write(TARGET, 'The man in brown.')
    assert ('<think>' in text) == task.think
    found = task.read(text, SIZE)
    assert found.box == (TARGET.box if task.box else None)
    assert found.points == (TARGET.points if task.points else ())
    assert found.reasoning == ('The man in brown.' if task.think else '')
    recipe = task.recipe(Recipe(mode=mode))  # type: ignore[arg-type]
    earned = score(text, Truth(TARGET.box, TARGET.points), recipe)
    assert set(earned.values()) == {1.0}
    assert len(earned) == 1 + task.think + 2 * task.box + task.points


def test_what_is_asked_for_must_be_there() -> None:
    box_only = Task('box').write(TARGET, 'x')
    with pytest.raises(AnswerError, match='points_1') as caught:
        Task('points').read(box_only, SIZE)
    assert caught.value.kind == 'missing_key'
    with pytest.raises(AnswerError, match='bbox'):
        Task('box').read(Task('points').write(TARGET, 'x'), SIZE)


def test_unknown_answer() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'points'"):
        Task('point')  # type: ignore[arg-type]
