# SPDX-License-Identifier: Apache-2.0
"""Sentences that have exactly one right answer in a scene.

Every sentence is a noun phrase that is tested against all objects. Comparisons of quantities use
margins: a sentence is kept only if one object clearly fits and no other object almost fits. No
sentence asks for an object of which more than 30 % is hidden, because such an object may not be
recognisable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal['attribute', 'relation', 'superlative', 'exclusion', 'function']
KINDS: tuple[Kind, ...] = ('attribute', 'relation', 'superlative', 'exclusion', 'function')

_WORDS = {'ball': ('ball',), 'can': ('can', 'tin'), 'mug': ('mug', 'cup'), 'ring': ('ring',)}
_ASKED_FOR, _NAMED = 0.7, 0.6  # least visible share of the target, and of a reference object
_FLAT = ('ball', 'bowl', 'ring')  # the word "tall" does not suit these shapes
_THINGS = ('thing', 'object')

# All shapes that could serve each purpose, in the widest sense. A sentence is used only if exactly
# one object qualifies and has the first shape.
_FUNCTIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (('mug', 'bottle', 'can', 'bowl'), ('something to drink from', 'what could I drink from')),
    (('mug', 'bowl', 'can'), ('something to pour hot coffee into', 'where does my tea go')),
    (('bottle', 'can', 'mug'), ('something to pour water from', 'what keeps juice under a lid')),
    (('bowl', 'mug', 'can'), ('something to hold soup', 'what would you serve a salad in')),
    (('bowl', 'mug'), ('something to eat cereal from', 'something to put fruit in')),
    (('ball', 'ring'), ('something to play catch with', 'something to throw', 'a toy for a dog')),
    (('ball', 'can', 'bottle'), ('what would roll away if I pushed it',)),
    (('box',), ('something a gift could be packed in', 'something to build a tower with')),
    (('can', 'bottle'), ('something that preserved food is sold in',)),
    (('cone',), ('something that marks a spot on the road', 'what looks like a party hat')),
    (('ring',), ('something to hang on a peg', 'something with a hole to look through')),
)


class Query(NamedTuple):
    """A sentence, the kind of reasoning it needs, and the one object that fits.

    Attributes:
        text: The sentence.
        kind: One of ``KINDS``.
        target: Index into ``Scene.objects``.
    """

    text: str
    kind: Kind
    target: int


@dataclass(frozen=True)
class QueryObject:
    """The properties of one object that sentences can refer to.

    Attributes:
        shape: One of ``SHAPES``.
        colour: One of ``COLOURS``.
        size: ``small``, ``medium`` or ``large``.
        visible: Visible share of the object's silhouette, 0 to 1.
        centre: (x, y) centre of the visible pixels, as shares of the image's width.
        extent: (width, height) of the visible pixels, as shares of the image's width.
        area: Area of the visible pixels, as a share of the image's width squared.
        ground: (right, ahead) position of the object's foot on the table, as seen from the
            camera, metres.
        height: Height of the object, metres.
        volume: Volume of the bounding cylinder, cubic metres.
    """

    shape: str
    colour: str
    size: str
    visible: float
    centre: tuple[float, float]
    extent: tuple[float, float]
    area: float
    ground: tuple[float, float]
    height: float
    volume: float


Test = Callable[[QueryObject], bool]


def queries(things: Sequence[QueryObject], choose: np.random.Generator) -> list[Query]:
    """Return every sentence that has exactly one answer, with random wordings.

    Args:
        things: The objects, in the order of ``Scene.objects``.
        choose: Source of the wordings.
    """
    makers = (_attributes, _relations, _superlatives, _exclusions, _functions)
    found: dict[str, Query] = {}
    for kind, maker in zip(KINDS, makers, strict=True):
        for text, target in maker(things, choose):
            if things[target].visible >= _ASKED_FOR:
                found.setdefault(text, Query(text, kind, target))
    return list(found.values())


def _pick(choose: np.random.Generator, among: Sequence[str]) -> str:
    return among[int(choose.random() * len(among))]


def _noun(shape: str | None, choose: np.random.Generator) -> str:
    return _pick(choose, _THINGS if shape is None else _WORDS.get(shape, (shape,)))


def _only(things: Sequence[QueryObject], test: Test) -> int | None:
    fitting = [i for i, thing in enumerate(things) if test(thing)]
    return fitting[0] if len(fitting) == 1 else None


def _names(thing: QueryObject) -> list[tuple[str | None, str | None, str | None]]:
    """Return names of a thing as (size, colour, shape), shortest first."""
    size = thing.size if thing.size != 'medium' else None
    return [
        (None, None, thing.shape),
        (None, thing.colour, None),
        (None, thing.colour, thing.shape),
        *([(size, None, thing.shape), (size, thing.colour, thing.shape)] if size else []),
    ]


def _fits(name: tuple[str | None, str | None, str | None]) -> Test:
    """Return a test of whether a thing fits a name.

    A medium thing counts as small and as large, because either word would be ambiguous.
    """
    size, colour, shape = name
    opposite = {'small': 'large', 'large': 'small'}.get(size or '')
    return lambda thing: (
        (colour is None or thing.colour == colour)
        and (shape is None or thing.shape == shape)
        and (size is None or thing.size != opposite)
    )


def _say(name: tuple[str | None, str | None, str | None], choose: np.random.Generator) -> str:
    size, colour, shape = name
    if size:
        size = _pick(choose, {'small': ('small', 'little'), 'large': ('large', 'big')}[size])
    return ' '.join(word for word in (size, colour, _noun(shape, choose)) if word)


def _attributes(
    things: Sequence[QueryObject], choose: np.random.Generator
) -> Iterator[tuple[str, int]]:
    starts = ('the', 'the', 'find the', 'pick up the', 'show me the', 'where is the')
    for i, thing in enumerate(things):
        for name in _names(thing):
            test = _fits(name)
            if _only(things, test) != i:
                continue
            if name[0] and not _telling(things, i, name):
                continue
            yield f'{_pick(choose, starts)} {_say(name, choose)}', i


def _telling(
    things: Sequence[QueryObject], i: int, name: tuple[str | None, str | None, str | None]
) -> bool:
    """Return whether the size in a name distinguishes a thing from similar ones and is true.

    A flat large box, for example, may have a smaller volume than a tall small one.
    """
    alike = [t for t in things if _fits((None, *name[1:]))(t) and t is not things[i]]
    sign = 1 if name[0] == 'large' else -1
    return bool(alike) and all(
        sign * np.log(things[i].volume / other.volume) > 0.5 for other in alike
    )


def _anchor(things: Sequence[QueryObject], i: int, choose: np.random.Generator) -> str | None:
    """Return a unique name of ``things[i]`` by colour and shape, or None if there is none."""
    thing = things[i]
    name = (None, thing.colour, thing.shape)
    if _only(things, _fits(name)) == i and thing.visible >= _NAMED:
        return _say(name, choose)
    return None


def _beyond(axis: int, sign: int, anchor: QueryObject) -> tuple[Test, Test]:
    """Return tests for being clearly, and possibly, left, right, in front or behind ``anchor``."""

    def gap(thing: QueryObject) -> float:
        if axis == 0:
            return sign * (thing.centre[0] - anchor.centre[0])
        return sign * (thing.ground[1] - anchor.ground[1])

    def clear(thing: QueryObject) -> bool:
        if axis == 0:
            apart = gap(thing) - (thing.extent[0] + anchor.extent[0]) / 2
            return apart > -0.02 and gap(thing) > 0.06
        # "Behind" and "in front of" also need some sideways alignment.
        aside = abs(thing.centre[0] - anchor.centre[0])
        return gap(thing) > 0.06 and aside < 0.3

    return clear, lambda thing: thing is not anchor and gap(thing) > 0.0


_SIDES = (
    (('left of', 'to the left of'), 0, -1),
    (('right of', 'to the right of'), 0, 1),
    (('behind',), 1, 1),
    (('in front of',), 1, -1),
)


def _relations(
    things: Sequence[QueryObject], choose: np.random.Generator
) -> Iterator[tuple[str, int]]:
    for a, anchor in enumerate(things):
        said = _anchor(things, a, choose)
        if said is None:
            continue
        for words, axis, sign in _SIDES:
            clear, possible = _beyond(axis, sign, anchor)
            for i, thing in enumerate(things):
                if i == a or not clear(thing):
                    continue
                for name in ((None, None, None), (None, thing.colour, None), _names(thing)[0]):
                    rivals = [t for t in things if possible(t) and _fits(name)(t)]
                    if len(rivals) == 1:
                        text = f'the {_say(name, choose)} {_pick(choose, words)} the {said}'
                        yield text, i
        nearest = _nearest(things, a)
        if nearest is not None:
            beside = _pick(choose, ('next to', 'closest to', 'beside'))
            yield f'the {_noun(None, choose)} {beside} the {said}', nearest


def _nearest(things: Sequence[QueryObject], a: int) -> int | None:
    """Return the thing that is nearest on the table and in the image by a clear margin."""

    def ratio(place: Callable[[QueryObject], tuple[float, float]]) -> tuple[int, float]:
        gaps = [np.hypot(*np.subtract(place(t), place(things[a]))) for t in things]
        gaps[a] = np.inf
        order = np.argsort(gaps)
        return int(order[0]), float(gaps[order[1]] / max(gaps[order[0]], 1e-9))

    if len(things) < 3:
        return None
    (on_table, clear), (in_image, clear_image) = (
        ratio(lambda t: t.ground),
        ratio(lambda t: t.centre),
    )
    return on_table if on_table == in_image and min(clear, clear_image) > 1.35 else None


def _superlatives(
    things: Sequence[QueryObject], choose: np.random.Generator
) -> Iterator[tuple[str, int]]:
    measures: tuple[
        tuple[tuple[str, ...], Callable[[QueryObject], tuple[float, ...]], float], ...
    ] = (
        (('{} furthest to the left', 'leftmost {}'), lambda t: (-t.centre[0],), 0.04),
        (('{} furthest to the right', 'rightmost {}'), lambda t: (t.centre[0],), 0.04),
        (('{} closest to the camera', 'nearest {}'), lambda t: (-t.ground[1],), 0.04),
        (('{} farthest from the camera', 'farthest {}'), lambda t: (t.ground[1],), 0.04),
        (('largest {}', 'biggest {}'), lambda t: (np.log(t.volume), np.log(t.area)), 0.25),
        (('smallest {}', 'tiniest {}'), lambda t: (-np.log(t.volume), -np.log(t.area)), 0.25),
        (('tallest {}',), lambda t: (np.log(t.height), np.log(t.extent[1])), 0.12),
    )
    groups: list[tuple[str | None, str | None]] = [(None, None)]
    groups += [(None, shape) for shape in sorted({t.shape for t in things})]
    groups += [(colour, None) for colour in sorted({t.colour for t in things})]
    for colour, shape in groups:
        members = [i for i, t in enumerate(things) if _fits((None, colour, shape))(t)]
        if len(members) < 2:
            continue
        for words, measure, margin in measures:
            values = np.array([measure(things[i]) for i in members])
            best = int(values[:, 0].argmax())
            lead = values[best] - np.delete(values, best, axis=0)
            whole = min(things[i].visible for i in members) > 0.8 or len(values[0]) == 1
            flat = words == ('tallest {}',) and things[members[best]].shape in _FLAT
            if lead.min() > margin and whole and not flat:
                noun = _say((None, colour, shape), choose)
                yield 'the ' + _pick(choose, words).format(noun), members[best]


def _exclusions(
    things: Sequence[QueryObject], choose: np.random.Generator
) -> Iterator[tuple[str, int]]:
    for i, thing in enumerate(things):
        rivals = [t for t in things if t is not thing]
        for other in sorted({t.colour for t in rivals} - {thing.colour}):
            if all(t.colour == other for t in rivals):
                yield f"the only {_noun(None, choose)} that isn't {other}", i
            alike = {t.colour for t in rivals if t.shape == thing.shape}
            if alike == {other}:
                yield f'the {_noun(thing.shape, choose)} that is not {other}', i
        for other in sorted({t.shape for t in rivals} - {thing.shape}):
            alike = {t.shape for t in rivals if t.colour == thing.colour}
            if alike == {other}:
                noun = _noun(None, choose)
                yield f'the {thing.colour} {noun} that is not a {_noun(other, choose)}', i
        yield from _neither(rivals, i, thing.colour, choose)


def _neither(
    rivals: Sequence[QueryObject], i: int, colour: str, choose: np.random.Generator
) -> Iterator[tuple[str, int]]:
    others = sorted({t.colour for t in rivals})
    if len(others) == 2 and colour not in others:
        yield f'the {_noun(None, choose)} that is neither {others[0]} nor {others[1]}', i


def _functions(
    things: Sequence[QueryObject], choose: np.random.Generator
) -> Iterator[tuple[str, int]]:
    for shapes, sentences in _FUNCTIONS:
        able = [i for i, thing in enumerate(things) if thing.shape in shapes]
        if len(able) == 1 and things[able[0]].shape == shapes[0]:
            yield _pick(choose, sentences), able[0]
