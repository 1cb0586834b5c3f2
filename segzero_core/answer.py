# SPDX-License-Identifier: Apache-2.0
"""The contract between the reasoner and everything else: its text -> box, two points, reasoning.

A clean answer is ``<think>...</think><answer>{"bbox": [x1, y1, x2, y2], "points_1": [x, y],
"points_2": [x, y]}</answer>`` (Seg-Zero, arXiv 2503.06520, section 3.3). Models write much else;
whatever can be read without guessing is repaired, and every repair is named. The rules:

* Only the ``<answer>`` block counts, the first one after the thinking. Without one, the last
  object after the thinking is taken, and failing that the last one in the thinking.
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

from segzero_core.errors import AnswerError
from segzero_core.types import Box, Point, Size

_TAG = re.compile(r'<(/?)(think|answer)>', re.IGNORECASE)
_OPENING = re.compile(r'[{[]')
_SEPARATORS = re.compile(r'[\s,;]*')
_COLON = re.compile(r'\s*[:=]')
_SCALAR = re.compile(
    r'"(?P<double>[^"\\]*(?:\\.[^"\\]*)*)"'
    r"|'(?P<single>[^'\\]*(?:\\.[^'\\]*)*)'"
    r'|(?P<bare>[-+]?[\w.][\w.+ -]*)',
    re.DOTALL,
)
_WORDS = {'null': None, 'none': None, 'true': True, 'false': False}
_NOTHING = {'null', 'none', 'nothing', 'n/a', 'no object', 'not found', 'no match'}
_MAX_DEPTH = 8
_BROKEN: Any = object()  # what the reader returns for a value it could not finish

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
        box: With an area, and inside the space.
        points: The two points, inside the space.
        reasoning: The chain of thought, without its tags and surrounding white space.
        repairs: What had to be repaired, in words; empty for a clean answer.
    """

    box: Box
    points: tuple[Point, Point]
    reasoning: str = ''
    repairs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, 'reasoning', self.reasoning.strip())


def format_answer(answer: Answer) -> str:
    """Write ``answer`` as a clean text, valid JSON inside; ``parse_answer`` reads it back.

    Raises:
        ValueError: The reasoning contains one of the four tags, or a coordinate is not finite.
    """
    if _TAG.search(answer.reasoning):
        raise ValueError(f'the reasoning must not contain tags: {answer.reasoning!r}')
    content = {
        'bbox': [_shortest(value) for value in answer.box],
        'points_1': [_shortest(value) for value in answer.points[0]],
        'points_2': [_shortest(value) for value in answer.points[1]],
    }
    found = json.dumps(content, allow_nan=False)
    return f'<think>{answer.reasoning}</think><answer>{found}</answer>'


def parse_answer(text: str, size: Size) -> Answer:
    """Read what a reasoner wrote.

    Takes time linear in the length of the text.

    Args:
        text: Everything the reasoner wrote.
        size: The space its coordinates are in. Its far edges (``width``, ``height``) belong to
            it, because rounding in training data puts objects at the image border there.

    Raises:
        AnswerError: There is no usable answer in it; ``kind`` says why.
    """
    if not text.strip():
        raise AnswerError('empty_text', 'the reasoner wrote nothing', text)
    parts = _split(text)
    candidates: list[dict[str, Any]] = []
    reader = _Reader('')
    for place in parts.places:
        reader = _Reader(place)
        candidates = list(_objects(reader.values()))
        if candidates:
            break
    if not candidates:
        raise _no_object(parts, reader, text)
    repairs = list(parts.repairs)
    if not parts.tagged:
        candidates.reverse()
        if place is parts.thinking:
            repairs.append('the answer was taken from the thinking')
    if not _is_json(place):
        repairs.append('the answer was not plain JSON')
    first_error: AnswerError | None = None
    for candidate in candidates:
        found = list(repairs)
        try:
            box, points = _coordinates(candidate, size, found, text)
        except AnswerError as error:
            first_error = first_error or error
            continue
        if len(candidates) > 1:
            found.append(f'one of {len(candidates)} objects was used')
        found = list(dict.fromkeys(found))
        return Answer(box, points, parts.thinking, tuple(found))
    assert first_error is not None
    raise first_error


class _Parts(NamedTuple):
    thinking: str
    places: Sequence[str]  # where the answer may stand, the likeliest first
    tagged: bool  # places[0] is marked by at least one answer tag
    repairs: Sequence[str]


def _split(text: str) -> _Parts:
    """Tell thinking and answer apart by the tags, as many of them as there are."""
    tags = [(match[1] + match[2].lower(), match) for match in _TAG.finditer(text)]
    think_end = next((match for name, match in tags if name == '/think'), None)
    after = think_end.end() if think_end else 0
    tags = [(name, match) for name, match in tags if match.start() >= after or name == 'think']
    close = next((match for name, match in tags if name == '/answer'), None)
    limit = close.start() if close else len(text)
    opens = [match for name, match in tags if name == 'answer' and match.start() < limit]
    # Without </answer> the first block is the answer; with it, the <answer> nearest before it.
    opening = (opens[-1] if close else opens[0]) if opens else None
    start = opening.end() if opening else after
    if not close and opening:
        limit = next((m.start() for n, m in tags if m.start() > start), len(text))
    repairs = []
    if not opening:
        repairs.append('there was no <answer> tag')
    if not close:
        repairs.append('there was no </answer> tag')
    if sum(name == 'answer' for name, _ in tags) > 1:
        repairs.append('the first of several <answer> blocks was used')

    think_open = next((match for name, match in tags if name == 'think'), None)
    until = think_end.start() if think_end else (opening.start() if opening else len(text))
    begin = think_open.end() if think_open and think_open.end() <= until else 0
    bare = not (think_open or think_end or opening or close)
    thinking = '' if bare else text[begin:until].strip()
    tagged = bool(opening or close)
    places = [text[start:limit]] if tagged or bare else [text[after:] if think_end else '', thinking]
    return _Parts(thinking, places, tagged, repairs)


class _Reader:
    """Reads every JSON-like value out of a text, in one pass, and never fails.

    After something unreadable it goes on from there, so each character is looked at a bounded
    number of times. (A quoted string that never ends is scanned to the end of the text, but
    only once per kind of quote: an earlier one would have ended at a later quote.)
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.opened = False  # something like JSON was seen

    def values(self) -> Iterator[Any]:
        """Yield each complete list or object that is not inside another."""
        while opening := _OPENING.search(self.text, self.pos):
            self.opened = True
            self.pos = opening.start()
            value = self._value(0)
            if value is not _BROKEN:
                yield value
            self.pos = max(self.pos, opening.end())

    def _value(self, depth: int) -> Any:
        self._skip(_SEPARATORS)
        here = self.text[self.pos : self.pos + 1]
        if here in ('{', '[', '(') and depth < _MAX_DEPTH and here:
            self.pos += 1
            return self._object(depth) if here == '{' else self._list(depth)
        return self._scalar()

    def _object(self, depth: int) -> Any:
        """Read pairs up to the brace; what stands before an unreadable pair is kept."""
        pairs: list[tuple[str, Any]] = []
        while not self._ends('}'):
            key = self._scalar()
            value = self._value(depth + 1) if self._skip(_COLON) else _BROKEN
            if value is _BROKEN:
                return _Pairs(pairs) if pairs else _BROKEN
            pairs.append((str(key), value))
        return _Pairs(pairs)

    def _list(self, depth: int) -> Any:
        """Read items up to the bracket; an unfinished list is only good for its objects."""
        items: list[Any] = []
        while not self._ends('])'):
            value = self._value(depth + 1)
            if value is _BROKEN:
                return items if any(isinstance(item, _Pairs) for item in items) else _BROKEN
            items.append(value)
        return items

    def _scalar(self) -> Any:
        match = _SCALAR.match(self.text, self.pos)
        if match is None:
            return _BROKEN
        self.pos = match.end()
        if match.lastgroup != 'bare':
            return match[match.lastgroup or 0]
        word = match['bare'].strip()
        try:
            return float(word)
        except ValueError:
            return _WORDS.get(word.lower(), word)

    def _ends(self, closers: str) -> bool:
        self._skip(_SEPARATORS)
        ended = self.text[self.pos : self.pos + 1] in tuple(closers)
        self.pos += ended
        return ended

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self.text, self.pos)
        self.pos = match.end() if match else self.pos
        return match is not None


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written: keys may occur twice."""


def _objects(values: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """Yield the objects that have at least one of our keys, wherever they are nested."""
    waiting = [*values][::-1]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Pairs):
            known = _known_keys(value)
            if known:
                yield known
                continue
            value = [item for _, item in value]
        if isinstance(value, list):
            waiting.extend(reversed(value))


def _known_keys(pairs: _Pairs) -> dict[str, Any]:
    """Return our keys of ``pairs``; ``'repairs'`` lists how they were written otherwise."""
    known: dict[str, Any] = {}
    repairs = []
    for written, value in pairs:
        key = _KEYS.get(re.sub(r'[^a-z0-9]', '', written.lower()))
        if key is None:
            continue
        if key in known:
            repairs.append(f'{key} was written twice, the last one was used')
        if key != written:
            repairs.append(f'the key {written!r} was read as {key!r}')
        known[key] = value
    if known:
        known['repairs'] = repairs
    return known


def _coordinates(
    found: dict[str, Any], size: Size, repairs: list[str], text: str
) -> tuple[Box, tuple[Point, Point]]:
    """Turn one object into box and points; add what was repaired to ``repairs``."""
    repairs += found['repairs']
    if all(value in (None, []) for key, value in found.items() if key != 'repairs'):
        raise AnswerError('nothing_found', 'the reasoner says that nothing matches', text)
    both = found.get('points')
    if both is not None and not {'points_1', 'points_2'} & found.keys():
        numbers = _numbers(both, 4, 'bad_point', 'points', repairs, text)
        found = {**found, 'points_1': numbers[:2], 'points_2': numbers[2:]}
    for key in ('bbox', 'points_1', 'points_2'):
        if key not in found:
            raise AnswerError('missing_key', f'the answer has no {key!r}', text)
    corners = _numbers(found['bbox'], 4, 'bad_box', 'bbox', repairs, text)
    first = _numbers(found['points_1'], 2, 'bad_point', 'points_1', repairs, text)
    second = _numbers(found['points_2'], 2, 'bad_point', 'points_2', repairs, text)
    box = _repair_box(corners, size, repairs, text)
    points = tuple(_clamped(Point(*numbers), size) for numbers in (first, second))
    if points != (tuple(first), tuple(second)):
        repairs.append('a point was outside the image')
    return box, (points[0], points[1])


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


def _no_object(parts: _Parts, reader: _Reader, text: str) -> AnswerError:
    """Say why no object with our keys was found."""
    place = parts.places[0]
    word = re.sub(r'```(?:json)?', '', place).strip(' \t\r\n.!`\'"').lower()
    values = list(_Reader(place).values())
    if word in _NOTHING or (values and all(not value for value in values)):
        return AnswerError('nothing_found', 'the reasoner says that nothing matches', text)
    if not reader.opened:
        return AnswerError('no_json', 'there is no JSON where the answer should be', text)
    if any(isinstance(value, _Pairs) for value in values):
        return AnswerError('missing_key', "the answer has no 'bbox'", text)
    return AnswerError('bad_json', 'the answer cannot be read as JSON', text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _shortest(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)
