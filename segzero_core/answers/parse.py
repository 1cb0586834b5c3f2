# SPDX-License-Identifier: Apache-2.0
"""The contract between the reasoner and everything else: its text -> box, two points, reasoning.

A clean answer is ``<think>...</think><answer>{"bbox": [x1, y1, x2, y2], "points_1": [x, y],
"points_2": [x, y]}</answer>`` (Seg-Zero, arXiv 2503.06520, section 3.3). Models write much else;
whatever can be read without guessing is repaired, and every repair is named. The rules:

* Only the ``<answer>`` block counts, the first one after the thinking. Where there are no answer
  tags, the last object outside the thinking is taken; where all is thinking, the last in it.
* Single quotes, bare words, fences, comments around the object, missing or superfluous commas and
  a missing end are read. A list that stops in mid-air is not: its last number may be cut.
* Of several objects the first usable one counts; of a key written twice, the last.
* ``[]``, ``{}``, ``null`` and "none" mean that nothing matches.
* Two corners in the wrong order are swapped and coordinates clamped to the image. A list of the
  wrong length is an error: which numbers were meant cannot be known.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from segzero_core.answers.lenient_json import Pairs, read_values
from segzero_core.errors import AnswerError
from segzero_core.types import Box, Point, Size

_TAGS = {
    name: re.compile(f'<{name}>', re.IGNORECASE)
    for name in ('think', '/think', 'answer', '/answer')
}
_NOTHING = (
    'null',
    'none',
    'nothing',
    'nothing found',
    'no object',
    'no match',
    'not found',
    'n/a',
)

# How a key may be written once case, spaces and punctuation are taken away.
_KEYS = {
    'bbox': 'bbox',
    'bbox2d': 'bbox',
    'box': 'bbox',
    'boundingbox': 'bbox',
    'points1': 'points_1',
    'point1': 'points_1',
    'points2': 'points_2',
    'point2': 'points_2',
    'points': 'points',
    'point': 'points',
}


@dataclass(frozen=True)
class Answer:
    """What the reasoner answered, in the space it answers in (see ``prompts.PromptFamily``).

    Attributes:
        box: With an area, and inside the space; ``None`` where no box was asked for.
        points: The two points, inside the space; empty where no points were asked for.
        reasoning: The chain of thought, without its tags and surrounding white space.
        repairs: What had to be repaired, in words; empty for a clean answer.
    """

    box: Box | None
    points: tuple[Point, ...]
    reasoning: str = ''
    repairs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, 'reasoning', self.reasoning.strip())


def format_answer(answer: Answer) -> str:
    """Write ``answer`` as a clean text, valid JSON inside; ``parse_answer`` reads it back.

    Raises:
        ValueError: The reasoning contains one of the four tags, or a coordinate is not finite.
    """
    if any(tag.search(answer.reasoning) for tag in _TAGS.values()):
        raise ValueError(f'the reasoning must not contain tags: {answer.reasoning!r}')
    content = {'bbox': [_shortest(value) for value in answer.box]} if answer.box else {}
    for key, point in zip(('points_1', 'points_2'), answer.points, strict=False):
        content[key] = [_shortest(value) for value in point]
    found = json.dumps(content, allow_nan=False)
    return f'<think>{answer.reasoning}</think><answer>{found}</answer>'


def parse_answer(text: str, size: Size, box: bool = True, points: bool = True) -> Answer:
    """Read the reply of a reasoner that was asked for a box, for two points, or for both.

    Takes time linear in the length of the text. Whatever was not asked for is ignored.

    Args:
        text: Everything the reasoner wrote.
        size: The space its coordinates are in. Its far edges (``width``, ``height``) belong to
            it, because rounding in training data puts objects at the image border there.
        box: Whether a box was asked for.
        points: Whether two points were asked for.

    Raises:
        AnswerError: There is no usable answer in it; ``kind`` says why.
    """
    if not text.strip():
        raise AnswerError('empty_text', 'the reasoner wrote nothing', text)
    thinking, place, tagged, repairs = _split(text)
    values = list(read_values(place))
    candidates = list(_candidates(values))
    if not candidates:
        raise _no_candidate(place, values, text)
    if not tagged:
        candidates.reverse()
    if len(candidates) > 1:
        repairs.append(f'one of {len(candidates)} objects was used')
    if not _is_json(place):
        repairs.append('the answer was not plain JSON')
    errors = []
    for values_by_key, spelling in candidates:
        found = [*repairs, *spelling]
        try:
            target = _box(values_by_key, size, found, text) if box else None
            spots = _points(values_by_key, size, found, text) if points else ()
        except AnswerError as error:
            errors.append(error)
        else:
            return Answer(target, spots, thinking, tuple(dict.fromkeys(found)))
    raise errors[0]


class _Parts(NamedTuple):
    thinking: str
    place: str  # where the answer stands
    tagged: bool  # an answer tag says so
    repairs: list[str]


def _split(text: str) -> _Parts:
    """Tell thinking and answer apart by the tags, as many of them as there are."""
    think = _TAGS['think'].search(text)
    end = _TAGS['/think'].search(text)
    if end:
        if think and think.start() > end.start():
            think = None
        limit, after = end.span()
    else:
        answer = _TAGS['answer'].search(text, think.end() if think else 0)
        limit = after = answer.start() if answer else (len(text) if think else 0)
    thinking = text[think.end() if think else 0 : limit]
    before = text[: think.start()] if think else thinking
    for part in (text[after:], before):
        block = _answer_block(part)
        if block:
            return _Parts(thinking, block[0], True, block[1])
    repairs = ['there were no <answer> tags']
    place = text[after:] if text[after:].strip() else before
    if not place.strip():
        place = thinking
        repairs.append('the answer was taken from the thinking')
    return _Parts(thinking, place, False, repairs)


def _answer_block(text: str) -> tuple[str, list[str]] | None:
    """Return the first answer block and what is wrong with its tags, if there is a tag at all."""
    starts = [match.end() for match in _TAGS['answer'].finditer(text)]
    close = _TAGS['/answer'].search(text)
    repairs = []
    if len(starts) > 1:
        repairs.append('one of several <answer> blocks was used')
    if not close:
        repairs.append('there was no </answer> tag')
        # A second <answer> without any end: the first block stops where the second starts.
        return (_TAGS['answer'].split(text, 2)[1], repairs) if starts else None
    within = [start for start in starts if start <= close.start()]
    if not within:
        repairs.append('there was no <answer> tag')
    return text[within[-1] if within else 0 : close.start()], repairs


class _Candidate(NamedTuple):
    values: dict[str, Any]
    spelling: list[str]  # how its keys were written otherwise


def _candidates(values: Sequence[Any]) -> Iterator[_Candidate]:
    """Yield the objects that have at least one of our keys, wherever they are nested."""
    waiting = list(reversed(values))
    while waiting:
        value = waiting.pop()
        if isinstance(value, Pairs):
            candidate = _candidate(value)
            if candidate.values:
                yield candidate
                continue
            value = [item for _, item in value]
        if isinstance(value, list):
            waiting.extend(reversed(value))


def _candidate(pairs: Pairs) -> _Candidate:
    known: dict[str, Any] = {}
    spelling = []
    for written, value in pairs:
        key = _KEYS.get(re.sub(r'[^a-z0-9]', '', written.lower()))
        if key is None:
            continue
        if key in known:
            spelling.append(f'{key} was written twice, the last one was used')
        if key != written:
            spelling.append(f'the key {written[:40]!r} was read as {key!r}')
        known[key] = value
    return _Candidate(known, spelling)


def _box(values: dict[str, Any], size: Size, repairs: list[str], text: str) -> Box:
    """Return the box of one object; add what was repaired to ``repairs``."""
    _check_present(values, ('bbox',), text)
    corners = _numbers(values['bbox'], 4, 'bad_box', 'bbox', repairs, text)
    return _repair_box(corners, size, repairs, text)


def _points(
    values: dict[str, Any], size: Size, repairs: list[str], text: str
) -> tuple[Point, Point]:
    """Return the points of one object; add what was repaired to ``repairs``."""
    if 'points' in values and not {'points_1', 'points_2'} & values.keys():
        numbers = _numbers(values['points'], 4, 'bad_point', 'points', repairs, text)
        repairs.append("both points were under one key 'points'")
        values = {**values, 'points_1': numbers[:2], 'points_2': numbers[2:]}
    _check_present(values, ('points_1', 'points_2'), text)
    first = _numbers(values['points_1'], 2, 'bad_point', 'points_1', repairs, text)
    second = _numbers(values['points_2'], 2, 'bad_point', 'points_2', repairs, text)
    points = (_clamped(Point(*first), size), _clamped(Point(*second), size))
    if points != (tuple(first), tuple(second)):
        repairs.append('a point was outside the image')
    return points


def _check_present(values: dict[str, Any], keys: Sequence[str], text: str) -> None:
    if all(value in (None, []) for value in values.values()):
        raise AnswerError('nothing_found', 'the reasoner says that nothing matches', text)
    for key in keys:
        if key not in values:
            raise AnswerError('missing_key', f'the answer has no {key!r}', text)


def _numbers(
    value: Any, count: int, kind: str, name: str, repairs: list[str], text: str
) -> list[float]:
    """Return ``value`` as ``count`` finite numbers; nested lists and numeric strings are read."""
    items = [value] if not isinstance(value, list) else value
    if any(isinstance(item, list) for item in items):
        repairs.append(f'{name} was nested')
        items = [i for item in items for i in (item if isinstance(item, list) else [item])]
    numbers = []
    for item in items[: count + 1]:
        if isinstance(item, str):
            repairs.append(f'{name} held numbers written as text')
        try:
            numbers.append(math.nan if isinstance(item, bool) else float(item))
        except (TypeError, ValueError):
            numbers.append(math.nan)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        shown = repr(value)[:80]
        raise AnswerError(kind, f'{name} must be {count} finite numbers, got {shown}', text)
    return numbers


def _repair_box(corners: Sequence[float], size: Size, repairs: list[str], text: str) -> Box:
    x1, x2 = sorted(corners[0::2])
    y1, y2 = sorted(corners[1::2])
    if [x1, y1, x2, y2] != list(corners):
        repairs.append('the corners of the box were swapped')
    shown = f'[{x1:g}, {y1:g}, {x2:g}, {y2:g}]'
    if x2 < 0 or y2 < 0 or x1 > size.width or y1 > size.height:
        message = f'the box {shown} lies outside the {size.width} x {size.height} image'
        raise AnswerError('out_of_image', message, text)
    low, high = _clamped(Point(x1, y1), size), _clamped(Point(x2, y2), size)
    if (low, high) != ((x1, y1), (x2, y2)):
        repairs.append('the box reached outside the image')
    if low.x == high.x or low.y == high.y:
        raise AnswerError('bad_box', f'the box {shown} has no area in the image', text)
    return Box(*low, *high)


def _clamped(point: Point, size: Size) -> Point:
    x, y = point
    return Point(min(max(x, 0.0), float(size.width)), min(max(y, 0.0), float(size.height)))


def _no_candidate(place: str, values: Sequence[Any], text: str) -> AnswerError:
    """Say why no object with our keys was found."""
    word = place.replace('```json', '').strip(' \t\r\n.!`\'"').lower()
    if word in _NOTHING or (values and not repr(values).strip('[], ')):
        return AnswerError('nothing_found', 'the reasoner says that nothing matches', text)
    if not ('{' in place or '[' in place):
        return AnswerError('no_json', 'there is no JSON where the answer should be', text)
    if any(isinstance(value, Pairs) for value in values):
        return AnswerError('missing_key', "the answer has none of 'bbox' and 'points'", text)
    return AnswerError('bad_json', 'the answer cannot be read as JSON', text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _shortest(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)
