# SPDX-License-Identifier: Apache-2.0
"""The ``rules`` engine: finds things, parses the sentence, and writes a reasoned answer."""

from __future__ import annotations

import threading
from collections.abc import Callable

from segzero_core.answers.parse import Answer, format_answer
from segzero_core.errors import AnswerError, CancelledError
from segzero_core.geometry import largest_inscribed_circles, rescale_point
from segzero_core.prompts import get_family
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.rules.grammar import KNOWN, Request, parse
from segzero_core.reasoners.rules.match import Decision, DetectedObject, decide, describe
from segzero_core.reasoners.rules.vision import Detections, look
from segzero_core.task import Task
from segzero_core.types import Box, Image, Point, Size, image_size

_RELATIONS = {
    'left': 'left of',
    'right': 'right of',
    'front': 'in front of',
    'behind': 'behind',
    'near': 'near',
    'away': 'far from',
}
_EXTREMES = {
    'left': 'farthest to the left',
    'right': 'farthest to the right',
    'near': 'nearest',
    'far': 'farthest away',
    'tall': 'tallest',
    'short': 'shortest',
    'large': 'largest',
    'small': 'smallest',
}
_MOST_NAMED, _MOST_LETTERS = 5, 40  # unknown words in an error message, letters of each


class RulesReasoner:
    """Finds simple things on a plain surface without any model.

    Use this engine to set up a robot before a GPU arrives, for the demonstration, and for
    deterministic tests. The engine needs no weights, runs on any CPU in a fraction of a second and
    always writes a reply in the standard format.

    The engine finds plainly coloured things of eight everyday shapes (ball, bottle, bowl, box,
    can, cone, mug, ring). They may be partly hidden, and the surface under them must fill most of
    the image. It reads short English sentences about colour, shape, size, place and purpose. It
    is not a vision-language model: in a cluttered room, or for any other sentence, the answer is
    "nothing matches" or wrong.
    """

    synthetic_only = True  # the thresholds were tuned on synthetic tabletops

    def __init__(self, family: str = 'json') -> None:
        """Choose the prompt family, whose coordinate space the answers use.

        Raises:
            UnknownNameError: There is no such family.
        """
        self.task = Task(family=get_family(family))

    def reason(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reply:
        """Write the answer to ``query`` about ``image``; see ``Reasoner.reason``.

        Raises:
            AnswerError: Kind ``unknown_word``: the sentence has words that are in no table, or
                no word that describes a thing.
            CancelledError: ``cancel`` was set.
        """
        writer = _TextStream(on_text, cancel)
        writer.check()
        request = read_request(query)
        view = look(image)
        writer.check()
        things = [describe(view.image, region) for region in view.regions]
        decision = decide(request, things)
        thoughts = ' '.join([_seen(things), _asked(request), *decision.steps])
        text = self._answer(image_size(image), view, things, decision, thoughts)
        writer.write(text)
        return Reply(text, 'stop')

    def _answer(
        self,
        size: Size,
        view: Detections,
        things: list[DetectedObject],
        decision: Decision,
        thoughts: str,
    ) -> str:
        if decision.chosen is None:
            return f'<think>{thoughts} So nothing matches.</think><answer>{{}}</answer>'
        thing = things[decision.chosen]
        space = self.task.answer_size(size)

        def point(x: float, y: float) -> Point:
            sx, sy = view.scale
            return rescale_point(Point((x + 0.5) * sx - 0.5, (y + 0.5) * sy - 0.5), size, space)

        first, second = largest_inscribed_circles(thing.region)
        low = point(thing.box.x1, thing.box.y1)
        high = point(thing.box.x2, thing.box.y2)
        box = Box(*_whole(low), *_whole(high))
        box = Box(box.x1, box.y1, max(box.x2, box.x1 + 1), max(box.y2, box.y1 + 1))
        points = (_whole(point(*first.center)), _whole(point(*second.center)))
        return format_answer(Answer(box, points, thoughts))

    def close(self) -> None:
        """See ``Reasoner``; there is nothing to free."""


def read_request(query: str) -> Request:
    """Parse a sentence; every word must be known.

    Raises:
        AnswerError: Kind ``unknown_word``; the message names the words and what is known.
    """
    request = parse(query)
    unknown = list(dict.fromkeys(request.unknown_words()))
    if unknown:
        named = ', '.join(repr(_short(word)) for word in unknown[:_MOST_NAMED])
        more = f' and {len(unknown) - _MOST_NAMED} more' if unknown[_MOST_NAMED:] else ''
        problem = f'does not know the word{"s" if unknown[1:] else ""} {named}{more}'
    elif not (request.understood or request.generic):
        problem = f'finds no word in {_short(query)!r} that says which thing is meant'
    else:
        return request
    raise AnswerError(
        'unknown_word',
        f"the engine 'rules' {problem}. It knows {KNOWN}. Other sentences need a language model",
        '',
    )


def _short(words: str) -> str:
    words = ' '.join(words.split())
    return words if len(words) <= _MOST_LETTERS else words[: _MOST_LETTERS - 3] + '...'


class _TextStream:
    """Hands out text word by word and stops when cancelled."""

    def __init__(
        self, on_text: Callable[[str], None] | None, cancel: threading.Event | None
    ) -> None:
        self._on_text = on_text
        self._cancel = cancel

    def check(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError('cancelled while the rules were at work')

    def write(self, text: str) -> None:
        for piece in text.replace(' ', ' \n').split('\n'):
            self.check()
            if self._on_text is not None:
                self._on_text(piece)


def _whole(point: Point) -> Point:
    return Point(round(point.x), round(point.y))


def _seen(things: list[DetectedObject]) -> str:
    if not things:
        return 'I see nothing that stands out from the background.'
    named = [
        f'({i + 1}) {_article(thing.colour)} {thing.colour} {thing.shape} {_place(thing)}'
        for i, thing in enumerate(things)
    ]
    return f'I see {len(things)} separate things: ' + ', '.join(named) + '.'


def _article(word: str) -> str:
    return 'an' if word[0] in 'aeiou' else 'a'


def _place(thing: DetectedObject) -> str:
    x = (thing.box.x1 + thing.box.x2) / 2 / thing.region.shape[1]
    y = (thing.box.y1 + thing.box.y2) / 2 / thing.region.shape[0]
    across = 'on the left' if x < 0.36 else 'on the right' if x > 0.64 else 'in the middle'
    return across + (' at the back' if y < 0.36 else ' in front' if y > 0.64 else '')


def _asked(request: Request) -> str:
    """Repeat the request in words, so that a misunderstanding is visible."""
    parts = []
    if request.size:
        parts.append(request.size)
    parts += sorted(request.colours)
    parts.append(' or '.join(sorted(request.shapes)) or 'thing')
    if request.purpose:
        parts.append(request.purpose)
    for exclusion in request.excluded:
        parts.append(
            'but not ' + ' '.join([*sorted(exclusion.colours), *sorted(exclusion.shapes)])
        )
    if request.extreme:
        parts.append(f'that is the {_EXTREMES[request.extreme]}')
    if request.relation and request.anchor is not None:
        negation = 'not ' if request.opposite else ''
        parts.append(f'that is {negation}{_RELATIONS[request.relation]} another')
    return 'I am asked for: ' + ' '.join(parts) + '.'
