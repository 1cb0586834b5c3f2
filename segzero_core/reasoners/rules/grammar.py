# SPDX-License-Identifier: Apache-2.0
"""Parse a plain English sentence about one thing on a table.

The sentence is split into words and fixed phrases, and then at the first relation ("left of").
Each side is an unordered set of attributes with negations, superlatives and everyday purposes. A
word that is not in the tables of this module and could change the meaning is added to
``Request.unknown``. Without this rule "the second largest" would be read as "the largest".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
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
_THINGS = """thing things object objects item items one ones something anything everything stuff
what toy toys piece pieces which"""
# Words that do not change the meaning: articles, pronouns, verbs, polite phrases.
_IDLE = """a an the this that these those is are am be was of in on at to for with and or it its
i you we me my your us they he she robot find show pick grab get give bring take up out
fetch where who point select segment locate want need would could should can may might will do does
there here table tabletop image picture photo scene view only just very color colour colored
coloured shape shaped size sized has have look looks looking like single hand see from if
so sits stands lying sitting standing placed located side any some now then let go
please kindly thanks thank hello hi hey ok okay robot's gripper arm
choose grasp lift pass reach detect identify highlight spot search tell touch seek
d s ll re ve m ca wo"""  # the second halves of "I'd", "what's", ...; the first of "can't", "won't"
# Words that belong to purposes ("pour hot coffee into"). Without a purpose they are unknown.
_PURPOSE_IDLE = """into under away off serve served pushed push sold party birthday dog hot cold
warm iced fresh milk lemonade cola soda water smoothie whisky whiskey rum vodka champagne cider
present presents sugar honey jam oil sauce pasta rice nuts candy sweets dessert pudding yoghurt
yogurt curry breakfast lunch dinner children child kids baby cat pet puppy
books bricks clothes flowers keys coins pens sand"""
_OUTER = ('in', 'on', 'inside', 'onto', 'into', 'at', 'with', 'under')  # no relation among these

_VIEWER = r'(?:the )?(?:camera|robot|viewer|observer|me|us|you|front)'
# Phrases that count as one word, longest first. Prefixes: @ relation, ^ superlative, ! negation.
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
    (r'but (?:one|two)', '?but'),  # "the largest but one"
    (r'but|instead', '.'),
)

_PHRASE = re.compile(r'\b(?:' + '|'.join(f'({pattern})' for pattern, _ in _PHRASES) + r')\b')

# Purposes, most specific first, and how well each shape serves them.
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

# All words of the patterns above, in all their forms.
_PURPOSE_WORD = re.compile(
    r'preserv\w*|tinned|canned|beans|tuna|fizzy|beer|pour\w*|lids?|caps?|screw\w*|corks?|refill\w*|'
    r'wine|juice|drink\w*|drunk|sip|sipp\w*|thirst\w*|coffee|tea|cocoa|beverages?|handles?|soups?|'
    r'salads?|cereals?|fruits?|porridge|noodles?|stews?|snacks?|eat|eats|eating|eaten|food|'
    r'throw\w*|thrown|catch\w*|play\w*|bounc\w*|kick\w*|juggl\w*|roll\w*|pegs?|hang\w*|holes?|'
    r'thread\w*|through|wear\w*|fingers?|bracelets?|roads?|traffic|marks?|marking|marker|hats?|'
    r'pointy|pointed|conical|wizards?|gifts?|pack\w*|ship|ships|shipping|stack\w*|build\w*|towers?|'
    r'square|rectang\w*|corners|liquids?|containers?|stor(?:e|es|ed|ing)|hold|holds|holding|'
    r'keep\w*|put|puts|putting|round|spherical|circular'
)

_WORDS: dict[str, tuple[str, str]] = {
    word: (kind, name)
    for kind, table in (('shape', _NOUNS), ('colour', _COLOURS), ('size', _SIZES))
    for name, words in table.items()
    for word in words.split()
}
_GENERIC = frozenset(_THINGS.split())
_STOP = frozenset(_IDLE.split()) | _GENERIC
_COMPANIONS = frozenset(_PURPOSE_IDLE.split())
KNOWN = (
    f'colours ({", ".join(sorted(_COLOURS))}), shapes ({", ".join(sorted(_NOUNS))}), small and '
    'large, leftmost, rightmost, nearest, farthest, tallest, shortest, largest, smallest, left '
    'of, right of, in front of, behind, next to, not, and purposes such as "to drink from"'
)
# "can" is a tin after one of these words, and a verb otherwise.
_BEFORE_NOUN = frozenset(('a', 'an', 'the', 'this', 'that', 'any', 'soda', 'tin', 'beer', 'food'))


@dataclass(frozen=True)
class Exclusion:
    """Attributes that are excluded in combination: a thing is excluded if all of them fit."""

    colours: frozenset[str] = frozenset()
    shapes: frozenset[str] = frozenset()


@dataclass
class Request:
    """The content of a sentence.

    Attributes:
        colours: The allowed colours; empty for any.
        shapes: The allowed shapes; empty for any.
        size: ``small``, ``large`` or ``''``.
        extreme: ``left``, ``right``, ``near``, ``far``, ``tall``, ``short``, ``large``, ``small``
            or ``''``.
        excluded: Combinations of attributes that the thing must not have.
        purpose: The purpose of the thing in words, or ``''``.
        serves: How well each shape serves that purpose, 0 to 1.
        relation: ``left``, ``right``, ``front``, ``behind``, ``near``, ``away`` or ``''``.
        opposite: Whether the relation is negated.
        anchor: The reference object of the relation.
        unknown: Words that are in no table.
        generic: Whether the sentence has a general noun ("thing").
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
        """Whether the request has any attribute that distinguishes one thing from others."""
        named = bool(self.shapes) or self.generic or bool(self.purpose)
        described = bool(self.colours or self.size or self.extreme or self.excluded)
        if self.unknown and not named:
            return False
        return bool(self.shapes or self.purpose or described or self.relation)

    def unknown_words(self) -> Iterator[str]:
        """Yield the unknown words of the request and of its reference object."""
        yield from self.unknown
        if self.anchor is not None:
            yield from self.anchor.unknown_words()


def parse(sentence: str) -> Request:
    """Parse any sentence.

    Args:
        sentence: In any script and of any length.

    Returns:
        The request. Words that are in no table are listed in ``unknown``, in the order of the
        sentence; pictographs count as words.
    """
    text = re.sub(r"n['\u2019]t\b", ' not', sentence.lower())
    words = re.findall(r'[^\W_]+|[.,;:!?]', text)
    text = ' '.join(words)
    request = _read(_tokens(text), text)
    request.unknown += [sign for sign in sentence if unicodedata.category(sign) == 'So']
    return request


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
    companions: list[str] = []
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
        elif _PURPOSE_WORD.fullmatch(token):
            if group is not None or not text:  # "not for drinking"
                request.unknown.append(token)
        elif token in _OUTER and _leads_to_shape(tokens, place):
            request.unknown.append(token)
        elif token in _GENERIC:
            request.generic = True
        elif token in _COMPANIONS:
            companions.append(token)
        elif token not in _STOP and not token.startswith(('.', '!')):
            request.unknown.append(token.lstrip('?'))
    _close(request, group)
    if not request.shapes:
        _purpose(request, text)
    if not request.purpose:
        request.unknown += companions
    return request


def _leads_to_shape(tokens: list[str], place: int) -> bool:
    """Return whether a preposition is followed by a thing: "in the red bowl", not "in red"."""
    for token in tokens[place + 1 :]:
        if token in _OUTER or token[0] in '@^!.?':
            return False
        if _WORDS.get(token, ('', ''))[0] == 'shape' and token != 'can':
            return True
    return False


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
