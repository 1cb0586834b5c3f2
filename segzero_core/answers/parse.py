# SPDX-License-Identifier: Apache-2.0
"""The contract between the reasoner and everything else: its text -> box, two points, reasoning.

A clean answer is ``<think>...</think><answer>{"bbox": [x1, y1, x2, y2], "points_1": [x, y],
"points_2": [x, y]}</answer>`` (Seg-Zero, arXiv 2503.06520, section 3.3). Models write much else;
everything that can be read without guessing is repaired, and every repair is named. The rules:

* Only the ``<answer>`` block counts, the first usable one after the thinking (see ``tags``). Where
  there are no answer tags, the last object outside the thinking is taken; where all is thinking,
  the last in it.
* Single quotes, bare words, fences, text around the object, missing or superfluous commas and a
  missing end are read. A list that stops in mid-air is not: its last number may be cut.
* A text that cannot be read so is read once more with comments, typographic characters and Python
  calls respelled (see ``spelling``), and with box tokens and XML points (see ``native_forms``).
* Of several objects the first usable one counts; of a key written twice, the last.
* ``[]``, ``{}``, ``null`` and "none" mean that nothing matches.
* Two corners in the wrong order are swapped and coordinates clamped to the image; numbers of
  another space are converted or refused (see ``coordinate_space``). A list of the wrong length is
  an error: which numbers were meant cannot be known.
* The numbers of the prompt's own example are no answer. Four corners and two points that agree by
  chance, to the last digit, practically do not occur; models that copy the example do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from segzero_core.answers.lenient_json import Pairs, read_values
from segzero_core.answers.native_forms import read_native
from segzero_core.answers.numbers import Findings, ValueReader
from segzero_core.answers.spelling import respell
from segzero_core.answers.tags import TAGS, Block, Parts, split_reply
from segzero_core.errors import AnswerError
from segzero_core.types import Box, Point, ResultWarning, Size

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

# Places in the forms of PaliGemma, Florence-2, Kosmos-2, DeepSeek-VL2, GLM and Qwen-VL's corners.
_FOREIGN_TOKEN = re.compile(
    r'<loc_?\d{1,4}>|<patch_index_\d{1,4}>|<\|det\|>|<\|begin_of_box\|>|<quad>', re.IGNORECASE
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
    """The answer of a reasoner, in the space it answers in (see ``prompts.PromptFamily``).

    Attributes:
        box: With sides of at least one unit of the space, and inside it; ``None`` where no box was
            asked for.
        points: The two points, inside the space; empty where no points were asked for.
        reasoning: The chain of thought, without its tags and surrounding white space.
        repairs: Names of the repairs that were needed; empty for a clean answer.
        warnings: Warnings about the answer; they follow from the other attributes.
    """

    box: Box | None
    points: tuple[Point, ...]
    reasoning: str = ''
    repairs: tuple[str, ...] = ()
    warnings: tuple[ResultWarning, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'reasoning', self.reasoning.strip())


def format_answer(answer: Answer) -> str:
    """Write ``answer`` as a clean text, valid JSON inside; ``parse_answer`` reads it back.

    Raises:
        ValueError: The reasoning contains one of the four tags, or a coordinate is not finite.
    """
    if any(tag.search(answer.reasoning) for tag in TAGS.values()):
        raise ValueError(f'the reasoning must not contain tags: {answer.reasoning!r}')
    content = {'bbox': [_shortest(value) for value in answer.box]} if answer.box else {}
    for key, point in zip(('points_1', 'points_2'), answer.points, strict=False):
        content[key] = [_shortest(value) for value in point]
    found = json.dumps(content, allow_nan=False)
    return f'<think>{answer.reasoning}</think><answer>{found}</answer>'


class AnswerFormat(NamedTuple):
    """The format that a reasoner was asked to answer in.

    Attributes:
        size: The space of the coordinates. Its far edges (``width``, ``height``) belong to it,
            because rounding in training data puts objects at the image border there.
        box: Whether a box was asked for.
        points: Whether two points were asked for.
        thousandths: Whether ``size`` is in thousandths of the image, and not in pixels.
        tagged: Whether the answer was asked for between tags. Without, forms that base models
            write by themselves are no repair.
        example: The answer in the prompt's own example; ``None`` = there is none.
    """

    size: Size
    box: bool = True
    points: bool = True
    thousandths: bool = False
    tagged: bool = True
    example: Answer | None = None


def parse_answer(text: str, size: Size) -> Answer:
    """Read a reply to a request for box and points in pixels; see ``read_answer``."""
    return read_answer(text, AnswerFormat(size))


def read_answer(text: str, wanted: AnswerFormat) -> Answer:
    """Read what a reasoner wrote.

    Takes time linear in the length of the text. Whatever was not asked for is ignored.

    Args:
        text: Everything the reasoner wrote.
        wanted: The format it was asked to answer in.

    Raises:
        AnswerError: There is no usable answer in it; ``kind`` says why.
    """
    if not text.strip():
        raise AnswerError('empty_text', 'the reasoner wrote nothing', text)
    parts = _parts(text, wanted)
    errors = []
    for block in parts.blocks:
        try:
            return _read_block(block, parts, wanted, text)
        except AnswerError as error:
            if error.kind == 'nothing_found':
                raise
            errors.append(error)
    # An answer with wrong numbers says more than an example that was quoted before it.
    wrong = (error for error in errors if error.kind in ('out_of_image', 'wrong_space'))
    raise next(wrong, errors[0]) if errors[0].kind == 'prompt_example' else errors[0]


def _parts(text: str, wanted: AnswerFormat) -> Parts:
    """Split a reply; JSON without tags where it was asked for so is one block without repairs."""
    parts = split_reply(text)
    if wanted.tagged or parts.tagged:
        return parts
    plain = parts.blocks[0].text.strip().removeprefix('```json').removesuffix('```')
    return parts._replace(blocks=(Block(plain),), tagged=True)


def _read_block(block: Block, parts: Parts, wanted: AnswerFormat, text: str) -> Answer:
    """Read one place where the answer may stand: as it is, or else respelled."""
    reader = ValueReader(text, wanted.size, wanted.thousandths)
    attempt = _Attempt(block.text, parts.tagged, wanted, reader, text)
    try:
        found, repairs = attempt.read(list(read_values(block.text)), _is_json(block.text))
    except AnswerError as error:
        if error.kind == 'nothing_found':
            raise
        found, repairs = _read_respelled(attempt, error)
    shown = tuple(dict.fromkeys([*block.repairs, *repairs, *found.spelling, *found.coordinates]))
    warnings: tuple[ResultWarning, ...] = ()
    if found.coordinates:
        warnings = (ResultWarning('coordinates_repaired', '; '.join(found.coordinates)),)
    return Answer(found.box, found.points, parts.thinking, shown, warnings)


def _read_respelled(attempt: _Attempt, error: AnswerError) -> tuple[Findings, list[str]]:
    """Read what is no JSON even for ``lenient_json``; raise the more telling of two errors."""
    native = read_native(attempt.place, bare=attempt.wanted.box and not attempt.wanted.points)
    if native:
        found, repairs = attempt.read(native, plain=True)
        named = ['the answer was written in tokens or tags'] if attempt.wanted.tagged else []
        return found, [*named, *repairs]
    plain, respelled = respell(attempt.place)
    values = list(read_values(plain, comments=True))
    if not respelled and values == list(read_values(attempt.place)):
        raise error
    try:
        found, repairs = attempt.read(values, plain=False)
    except AnswerError as second:
        vague = second.kind in ('no_json', 'bad_json') or error.kind == 'prompt_example'
        raise (error if vague else second) from None
    return found, [*repairs, *respelled, *([] if respelled else ['comments were left out'])]


class _Attempt(NamedTuple):
    """One place where an answer may stand, and all that is needed to read it."""

    place: str
    tagged: bool
    wanted: AnswerFormat
    reader: ValueReader
    text: str

    def read(self, values: Sequence[Any], plain: bool) -> tuple[Findings, list[str]]:
        """Return the first usable object among ``values``, and the repairs.

        Raises:
            AnswerError: There is none.
        """
        candidates = list(_candidates(values))
        if not candidates:
            raise _no_candidate(self.place, values, self.text)
        if not self.tagged:
            candidates.reverse()
        repairs = []
        if len(candidates) > 1:
            repairs.append(f'one of {len(candidates)} objects was used')
        if not plain:
            repairs.append('the answer was not plain JSON')
        errors = []
        for candidate in candidates:
            try:
                found = self._read_one(candidate)
            except AnswerError as error:
                errors.append(error)
            else:
                spelling = [name for name in candidate.spelling if not self._is_native(name)]
                return replace(found, spelling=[*spelling, *found.spelling]), repairs
        raise errors[0]

    def _read_one(self, candidate: _Candidate) -> Findings:
        wanted = self.wanted
        found = self.reader.read(candidate.values, wanted.box, wanted.points, candidate.unread)
        example = wanted.example
        if example is not None and (found.box, found.points) == (example.box, example.points):
            message = "the model copied the prompt's own example and found nothing in the image"
            raise AnswerError('prompt_example', message, self.text)
        return found

    def _is_native(self, repair: str) -> bool:
        """Return whether a repair only says that a base model used its own key."""
        return not self.wanted.tagged and repair == "the key 'bbox_2d' was read as 'bbox'"


class _Candidate(NamedTuple):
    values: dict[str, Any]
    spelling: list[str]  # how its keys were written otherwise
    unread: str  # the value after which it could not be read any more


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
    key, value = pairs.unread
    shown = ' '.join(value.lstrip(' \t\r\n:=').split())
    unread = f'the value of {key[:40]!r} cannot be read: {shown!r}' if key else ''
    return _Candidate(known, spelling, unread)


def _no_candidate(place: str, values: Sequence[Any], text: str) -> AnswerError:
    """Say why no object with our keys was found."""
    word = place.replace('```json', '').strip(' \t\r\n.!`\'"').lower()
    if word in _NOTHING or (values and not repr(values).strip('[], ')):
        return AnswerError('nothing_found', 'the reasoner says that nothing matches', text)
    if token := _FOREIGN_TOKEN.search(place):
        message = f'the answer is written in tokens that are not read, such as {token[0]!r}'
        kind = 'bad_json' if '{' in place or '[' in place else 'no_json'
        return AnswerError(kind, f'{message}: ask for JSON', text)
    if not ('{' in place or '[' in place):
        return AnswerError('no_json', 'there is no JSON where the answer should be', text)
    if _holds_object(values):
        return AnswerError('missing_key', "the answer has none of 'bbox' and 'points'", text)
    return AnswerError('bad_json', 'the answer cannot be read as JSON', text)


def _holds_object(values: Sequence[Any]) -> bool:
    """Return whether there is an object among ``values``, also in a list."""
    return any(
        isinstance(value, Pairs) or (isinstance(value, list) and _holds_object(value))
        for value in values
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _shortest(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)
