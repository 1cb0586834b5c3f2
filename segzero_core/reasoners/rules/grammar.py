# SPDX-License-Identifier: Apache-2.0
"""Reads a plain English sentence about one thing on a table.

The sentence is cut into words and fixed phrases, split at the first relation ("left of"), and each
side is read as a bag of attributes, with negations, superlatives and everyday purposes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_NOUNS = {
    'ball': 'ball balls sphere orb globe',
    'bottle': 'bottle bottles flask carafe',
    'bowl': 'bowl bowls dish basin',
    'box': 'box boxes cube block brick cuboid carton package parcel crate',
    'can': 'can cans tin tins cylinder soda',
    'cone': 'cone cones pylon',
    'mug': 'mug mugs cup cups teacup beaker glass',
    'ring': 'ring rings donut doughnut torus hoop',
}
_COLOURS = {
    'black': 'black dark',
    'blue': 'blue navy',
    'brown': 'brown chocolate',
    'cyan': 'cyan turquoise teal',
    'green': 'green',
    'grey': 'grey gray silver',
    'orange': 'orange',
    'pink': 'pink rose magenta',
    'purple': 'purple violet lilac',
    'red': 'red crimson scarlet',
    'white': 'white',
    'yellow': 'yellow golden',
}
_SIZES = {'small': 'small little tiny mini', 'large': 'large big huge giant'}
_THINGS = 'thing things object objects item one something anything stuff what toy piece which'
_IDLE = """a an the this that these those is are am be was of in on at to for with and or it its
i you we me my your us they he she robot please find show pick grab get give bring take up out
fetch where who point select segment locate want need would could should can may might will do does
there here table image picture scene only same just very most more color colour colored coloured
shape shaped size sized which has have looks look like single whole hand over see from by if
so sits stands lying sitting standing placed located side any some now then i'd let go all"""

_VIEWER = r'(?:the )?(?:camera|robot|viewer|observer|me|us|you|front)'
# Phrases that count as one word, the longer first. @ relations, ^ superlatives, ! negations.
_PHRASES: tuple[tuple[str, str], ...] = (
    (rf'(?:closest|nearest) (?:to )?{_VIEWER}\b', '^near'),
    (rf'(?:farthest|furthest) (?:away )?(?:from )?{_VIEWER}\b', '^far'),
    (r'(?:farthest|furthest|most) (?:to )?the left', '^left'),
    (r'(?:farthest|furthest|most) (?:to )?the right', '^right'),
    (r'(?:to|on) the left(?: hand)?(?: side)? of|left of|left from', '@left'),
    (r'(?:to|on) the right(?: hand)?(?: side)? of|right of|right from', '@right'),
    (r'in front of|before', '@front'),
    (r'in back of|at the back of|behind|beyond', '@behind'),
    (r'next to|adjacent to|close to|closest to|nearest to|beside|alongside|near', '@near'),
    (r'(?:farthest|furthest) (?:away )?from', '@away'),
    (r'left ?most|(?:on|at) the (?:far )?left(?: side)?|left', '^left'),
    (r'right ?most|(?:on|at) the (?:far )?right(?: side)?|right', '^right'),
    (r'nearest|closest|frontmost', '^near'),
    (r'farthest|furthest|most distant', '^far'),
    (r'tallest|highest|tall', '^tall'),
    (r'shortest|lowest|short', '^short'),
    (r'largest|biggest|bigger|larger', '^large'),
    (r'smallest|tiniest|smaller|littlest', '^small'),
    (r'apart from|other than|except for|except|excluding|(?:any|every)thing but|but not', '!'),
    (r'neither|nor|not|without|never', '!'),
    (r'non', '!next'),
    (r'but|instead', '.'),
)

_PHRASE = re.compile(r'\b(?:' + '|'.join(f'({pattern})' for pattern, _ in _PHRASES) + r')\b')

# Purposes, the more specific first, and how well each shape serves them.
_PURPOSES: tuple[tuple[str, str, Mapping[str, float]], ...] = (
    (r'preserv|tinned|canned|beans|tuna|fizzy|beer', 'to keep food in a tin', {'can': 1}),
    (
        r'pour\w* .*(?:from|out)|\blid\b|\bcap\b|screw|cork|refill|wine|juice',
        'to pour from',
        {'bottle': 1, 'can': 0.3, 'mug': 0.2},
    ),
    (
        r'drink|sip|thirst|coffee|\btea\b|cocoa|beverage|\bhandle\b',
        'to drink from',
        {'mug': 1, 'bottle': 0.5, 'can': 0.4, 'bowl': 0.1},
    ),
    (
        r'soup|salad|cereal|fruit|porridge|noodle|stew|snack|\beat\b|\bfood\b',
        'to eat from',
        {'bowl': 1, 'mug': 0.2},
    ),
    (
        r'throw|catch|play|bounce|kick|juggle|\bdog\b|\broll',
        'to play with',
        {'ball': 1, 'ring': 0.3},
    ),
    (
        r'peg|hang|\bhole\b|thread|look\w* through|wear|finger|bracelet',
        'to hang up or look through',
        {'ring': 1, 'mug': 0.1},
    ),
    (r'road|traffic|marks?\b|\bhat\b|point(?:y|ed)|conical|wizard', 'to mark a spot', {'cone': 1}),
    (
        r'gift|pack\w*|\bship|stack|build|tower|square|rectang|corners',
        'to pack or stack',
        {'box': 1},
    ),
    (r'\bpour\b|water|liquid', 'to hold a liquid', {'bottle': 1, 'mug': 0.7, 'can': 0.4}),
    (r'container|store|hold|keep|put', 'to put things in', {'bowl': 1, 'box': 0.7, 'mug': 0.6}),
    (r'\bround\b|spherical|circular', 'round', {'ball': 1, 'ring': 0.5}),
)

_WORDS: dict[str, tuple[str, str]] = {
    word: (kind, name)
    for kind, table in (('shape', _NOUNS), ('colour', _COLOURS), ('size', _SIZES))
    for name, words in table.items()
    for word in words.split()
}
_GENERIC = frozenset(_THINGS.split())
_STOP = frozenset(_IDLE.split()) | _GENERIC
# "can" is a tin after one of these, and a verb everywhere else.
_BEFORE_NOUN = frozenset(('a', 'an', 'the', 'this', 'that', 'any', 'soda', 'tin', 'beer', 'food'))


@dataclass(frozen=True)
class Exclusion:
    """What the thing must not be: all of these at once."""

    colours: frozenset[str] = frozenset()
    shapes: frozenset[str] = frozenset()


@dataclass
class Request:
    """What a sentence asks for.

    Attributes:
        colours: Any of these colours; empty for any.
        shapes: Any of these shapes; empty for any.
        size: ``small``, ``large`` or ``''``.
        extreme: ``left``, ``right``, ``near``, ``far``, ``tall``, ``short``, ``large``, ``small``
            or ``''``.
        excluded: What it must not be.
        purpose: What it is to be used for, in words, or ``''``.
        serves: How well each shape serves that purpose, 0 to 1.
        relation: ``left``, ``right``, ``front``, ``behind``, ``near``, ``away`` or ``''``.
        opposite: Whether the relation must not hold.
        anchor: What the relation refers to.
        unknown: Words nobody here knows.
        generic: Whether a general noun ("thing") was said.
    """

    colours: set[str] = field(default_factory=set)
    shapes: set[str] = field(default_factory=set)
    size: str = ''
    extreme: str = ''
    excluded: list[Exclusion] = field(default_factory=list)
    purpose: str = ''
    serves: Mapping[str, float] = field(default_factory=dict)
    relation: str = ''
    opposite: bool = False
    anchor: Request | None = None
    unknown: list[str] = field(default_factory=list)
    generic: bool = False

    @property
    def understood(self) -> bool:
        """Whether it says anything by which a thing can be told from others."""
        named = bool(self.shapes) or self.generic or bool(self.purpose)
        described = bool(self.colours or self.size or self.extreme or self.excluded)
        if self.unknown and not named:
            return False
        return bool(self.shapes or self.purpose or described or self.relation)


def parse(sentence: str) -> Request:
    """Read any sentence; what is not understood is listed in ``unknown``."""
    text = re.sub(r"n['\u2019]t\b", ' not', sentence.lower())
    text = ' '.join(re.findall(r"[a-z']+|[.,;:!?]", text.replace('-', ' ')))
    return _read(_tokens(text), text)


def _tokens(text: str) -> list[str]:
    text = re.sub(r'[.,;:!?]', ' ', text)
    return _PHRASE.sub(lambda found: f' {_PHRASES[(found.lastindex or 1) - 1][1]} ', text).split()


def _read(tokens: list[str], text: str) -> Request:
    for place, token in enumerate(tokens):
        if token.startswith('@'):
            request = _attributes(tokens[:place], text)
            request.relation = token[1:]
            request.opposite = place > 0 and tokens[place - 1] == '!'
            request.anchor = _read(tokens[place + 1 :], '')
            return request
    return _attributes(tokens, text)


def _attributes(tokens: list[str], text: str) -> Request:
    request = Request()
    group: dict[str, set[str]] | None = None  # the exclusion being collected
    once = False
    for place, token in enumerate(tokens):
        kind, name = _meaning(tokens, place)
        if token in ('!', '!next'):
            _close(request, group)
            group, once = {'colour': set(), 'shape': set()}, token == '!next'
        elif token in ('.', 'or', 'and') and group is not None:
            _close(request, group)
            group = None if token == '.' else {'colour': set(), 'shape': set()}
        elif token.startswith('^'):
            request.extreme = token[1:]
        elif kind in ('colour', 'shape') and group is not None:
            group[kind].add(name)
            if once:
                _close(request, group)
                group = None
        elif kind == 'colour':
            request.colours.add(name)
        elif kind == 'shape':
            request.shapes.add(name)
        elif kind == 'size':
            request.size = name
        elif token in _GENERIC:
            request.generic = True
        elif token.isalpha() and token not in _STOP:
            request.unknown.append(token)
    _close(request, group)
    if not request.shapes:
        _purpose(request, text)
    return request


def _meaning(tokens: list[str], place: int) -> tuple[str, str]:
    token = tokens[place]
    kind, name = _WORDS.get(token, ('', ''))
    if token == 'can':
        before = tokens[place - 1] if place else 'the'
        described = before in _WORDS or before in _BEFORE_NOUN or before[0] in '^!'
        return (kind, name) if described else ('', '')
    return kind, name


def _close(request: Request, group: dict[str, set[str]] | None) -> None:
    if group and (group['colour'] or group['shape']):
        request.excluded.append(Exclusion(frozenset(group['colour']), frozenset(group['shape'])))


def _purpose(request: Request, text: str) -> None:
    for pattern, words, serves in _PURPOSES:
        if re.search(pattern, text):
            request.purpose, request.serves = words, serves
            return
