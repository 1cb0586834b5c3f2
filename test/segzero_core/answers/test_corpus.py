# SPDX-License-Identifier: Apache-2.0
"""A corpus of model replies: accepted texts, refused texts, and texts of version 0.1.

Each line of ``corpus/*.jsonl`` is one text. ``answer``, ``think`` and ``family`` are the
task, ``size`` is the coordinate space of the answer.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from segzero_core.answers.parse import Answer
from segzero_core.errors import AnswerError
from segzero_core.prompts import get_family
from segzero_core.reasoners.base import Reply
from segzero_core.task import Task
from segzero_core.types import Size

CORPUS = Path(__file__).with_name('corpus')


def rows(name: str) -> list[dict[str, Any]]:
    lines = (CORPUS / f'{name}.jsonl').read_text(encoding='utf-8').split('\n')
    return [json.loads(line) for line in lines if line]


def task_of(row: dict[str, Any]) -> Task:
    family = get_family(row.get('family', 'json'))
    return Task(row.get('answer', 'box_points'), row.get('think', True), family)


def read(row: dict[str, Any]) -> Answer:
    task = task_of(row)
    size = Size(*row.get('size', task.answer_size(Size(840, 840))))
    return task.read(Reply(row['text'], row.get('finish_reason', ''), row.get('tokens', 0)), size)


@pytest.mark.parametrize('row', rows('read'), ids=lambda row: row['name'])
def test_what_is_read(row: dict[str, Any]) -> None:
    found = read(row)
    assert found.box == (pytest.approx(row['box']) if row['box'] else None)
    assert [list(point) for point in found.points] == [
        pytest.approx(point) for point in row['points']
    ]
    assert row.get('repair', '') in '; '.join(found.repairs)
    moved = 'shares|y before x|outside the image'
    assert bool(found.warnings) == bool(re.search(moved, row.get('repair', '')))
    assert all(warning.kind == 'coordinates_repaired' for warning in found.warnings)


@pytest.mark.parametrize('row', rows('refused'), ids=lambda row: row['name'])
def test_what_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(AnswerError) as caught:
        read(row)
    assert caught.value.kind == row['kind']
    assert caught.value.text == row['text']
    assert re.search(row.get('message', ''), str(caught.value))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('row', rows('version_0_1'), ids=lambda row: row['name'])
def test_what_version_0_1_read_is_read_the_same(row: dict[str, Any]) -> None:
    found = read(row)
    assert (found.box, found.reasoning) == (tuple(row['box']), row['reasoning'])
    assert [list(point) for point in found.points] == row['points']
    assert list(found.repairs) == row['repairs']


def test_an_answer_before_the_limit_is_used_and_says_that_it_was_cut() -> None:
    text = rows('read')[0]['text'] + ' and then it goes on'
    found = Task(family=get_family('json')).read(Reply(text, 'length', 50), Size(840, 840))
    assert found.box == (200, 220, 400, 430)
    (warning,) = found.warnings
    assert warning.kind == 'token_limit'
    assert 'after 50 tokens' in warning.message
