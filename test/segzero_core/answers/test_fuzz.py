# SPDX-License-Identifier: Apache-2.0
"""Texts of the corpus, cut up and mixed: typed errors only, and no place that the text lacks.

A few thousand run in every test run. ``make fuzz`` runs ``SEGZERO_FUZZ`` of them (a million unless
set otherwise) and prints how they ended.
"""

import functools
import html
import itertools
import json
import os
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from segzero_core.answers.parse import Answer
from segzero_core.errors import AnswerError
from segzero_core.prompts import get_family
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.streaming import StreamedReply
from segzero_core.task import Task
from segzero_core.types import Size

CORPUS = Path(__file__).with_name('corpus')
PIECES = (
    '<think>', '</think>', '<answer>', '</answer>', '{', '}', '[', ']', '(', ')', ',', ':', '"',
    "'", '\\', '-', '//', '#', '/*', '*/', '...', 'null', 'none', '{}', '[]', ' ', '\n', '0', '1',
    '0.5', '1e999', 'NaN', '1020', '1021', '840', '99999', '<|box_start|>', '<|box_end|>', '<box>',
    '</box>', '<point x="3" y="4">', '“', '”', '，', '：', '４０', '٤٠', '&quot;', 'px', 'dict(',
    'bbox', '"points_1"', '"points"', '```json', '```', 'ß', '\u202e', '\x00', '\U0001f600',
)  # fmt: skip
NUMBER = re.compile(r'\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+')
TASKS = [
    (Task(answer, think, get_family(name)), size)
    for answer, think, (name, size) in itertools.product(
        ('box_points', 'box', 'points'),
        (True, False),
        (('json', Size(840, 840)), ('thousandths', Size(1000, 1000)), ('tiny', Size(128, 128))),
    )
] + [
    (Task(family=get_family('grounding')), Size(640, 480)),
    (Task(family=get_family('grounding_thousandths')), Size(1000, 1000)),
]


@functools.cache
def seeds() -> list[str]:
    lines = itertools.chain.from_iterable(
        file.read_text(encoding='utf-8').split('\n') for file in sorted(CORPUS.glob('*.jsonl'))
    )
    return [json.loads(line)['text'] for line in lines if line]


def mutated(rng: random.Random) -> str:
    """Return a text of the corpus with up to six changes."""
    text = rng.choice(seeds())
    for _ in range(rng.randint(0, 6)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.randint(0, 12))
        match rng.randrange(6):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:start] + rng.choice(PIECES) + text[start:]
            case 2:
                text = text[:start] + rng.choice(PIECES) + text[end:]
            case 3:
                text = text[:start] + text[start:end] * 2 + text[end:]
            case 4:
                other = rng.choice(seeds())
                text = text[:start] + other[rng.randint(0, len(other)) :]
            case 5:
                text = text[:start] if rng.random() < 0.3 else text.replace('</think>', '', 1)
    return text


def check(text: str, task: Task, size: Size, finish_reason: str) -> str:
    """Read ``text``; return how that ended. Fails if it ended as it must not."""
    found = outcome(text, task, size, finish_reason)
    if isinstance(found, AnswerError):
        assert found.kind in AnswerError.KINDS
        assert '\n' not in str(found)
        assert found.text == text
        return found.kind
    assert (found.box is not None) == task.box
    assert len(found.points) == 2 * task.points
    assert task.example is None or (found.box, found.points) != (
        task.example.box,
        task.example.points,
    )
    if found.box is not None:
        x1, y1, x2, y2 = found.box
        assert 0 <= x1 <= x2 - 1 < x2 <= size.width
        assert 0 <= y1 <= y2 - 1 < y2 <= size.height
    for x, y in found.points:
        assert 0 <= x <= size.width
        assert 0 <= y <= size.height
    check_places(text, found, size)
    return 'repaired' if found.repairs else 'read'


def outcome(text: str, task: Task, size: Size, finish_reason: str) -> Answer | AnswerError:
    try:
        return task.read(Reply(text, finish_reason, 7), size)
    except AnswerError as error:
        return error


def check_places(text: str, found: Answer, size: Size) -> None:
    """Fail if a coordinate is neither in the text, nor a share there, nor the image's edge."""
    plain = ''.join(map(_digit, html.unescape(text)))
    numbers = {float(number) for number in NUMBER.findall(plain)}
    used = [*zip(found.box or (), itertools.cycle(size), strict=False)]
    used += [pair for point in found.points for pair in zip(point, size, strict=True)]
    assert len(NUMBER.findall(plain)) >= len(used)
    shares = numbers | ({round(number / 100, 12) for number in numbers} if '%' in plain else set())
    for value, side in used:
        assert value in {0, side} | numbers or any(share * side == value for share in shares)


def _digit(character: str) -> str:
    wide = unicodedata.normalize('NFKC', character)
    return str(unicodedata.decimal(wide)) if len(wide) == 1 and wide.isdecimal() else wide


def cases(seed: int) -> Iterator[tuple[str, Task, Size, str]]:
    rng = random.Random(seed)
    while True:
        yield mutated(rng), *rng.choice(TASKS), rng.choice(('', 'stop', 'length'))


def test_texts_of_models_cut_up_and_mixed() -> None:
    ends = Counter(check(*case) for case in itertools.islice(cases(0), 4000))
    assert ends['read'] > 20
    assert ends['repaired'] > 200
    assert {'token_limit', 'wrong_space', 'missing_key', 'nothing_found'} <= ends.keys()


def test_texts_without_a_number_name_no_place() -> None:
    rng = random.Random(1)
    for text, task, size, reason in itertools.islice(cases(1), 1000):
        bare = re.sub(r'[^\W\d_]*\d+', '', ''.join(map(_digit, text)))
        assert check(bare, task, size, reason) in AnswerError.KINDS
        assert check(''.join(rng.choices('{}[]():,"\'', k=40)), task, size, reason) != 'read'


def test_streaming_stops_where_reading_the_whole_finds_the_same() -> None:
    rng = random.Random(2)
    stopped = 0
    for text, task, size, _ in itertools.islice(cases(2), 1500):
        reply = StreamedReply(None, None, task, opened=rng.choice((None, False, True)))
        at = 0
        while at < len(text) and not reply.complete:
            step = rng.randint(1, 30)
            reply.add(text[at : at + step])
            at += step
        if reply.complete:
            stopped += 1
            written = reply.result().text
            assert written.endswith('</answer>')
            assert check(written, task, size, 'stop') != 'prompt_example'
    assert stopped > 100


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
def test_a_million_texts() -> None:
    count = int(os.environ.get('SEGZERO_FUZZ', '1000000'))
    seed = int(os.environ.get('SEGZERO_FUZZ_SEED', '3'))
    ends = Counter(check(*case) for case in itertools.islice(cases(seed), count))
    print(f'\n{sum(ends.values())} texts: {dict(ends.most_common())}')
    assert sum(ends.values()) == count
