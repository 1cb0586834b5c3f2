# SPDX-License-Identifier: Apache-2.0
"""The replies of the tiny reasoner about synthetic scenes, and the words of its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from segzero_core.data import Annotation
from segzero_core.data.scenes import say_thought
from segzero_core.synthetic import COLOURS, SHAPES, SIZES, Query
from segzero_core.task import Task
from segzero_core.types import Box, Point
from training.tiny_recipe.scene_cache import Item, Scenes

ANSWER_START = '<answer>{"bbox": ['
# The parts of an answer apart from numbers and the ', ' between them.
_FRAME = (ANSWER_START, '], "points_1": [', '], "points_2": [', ']}</answer>')

_SYNONYMS = {'cup': 'mug', 'tin': 'can'}
_MIRRORED = {'left': 'right', 'leftmost': 'rightmost'}
_MIRRORED |= {right: left for left, right in _MIRRORED.items()}
_SIDE_WORD = re.compile(rf'\b({"|".join(_MIRRORED)})\b')


def whole_tokens(side: int) -> list[str]:
    """Return the texts that are one token each: coordinates, names, and the frame of an answer.

    Writing a coordinate is then one decision, and neighbouring numbers can get similar embeddings.
    """
    names = [f' {name}' for name in (*COLOURS, *SHAPES, *SIZES)]
    numbers = [str(number) for number in range(10, side)]  # 0 to 9 are bytes already
    return [*numbers, *names, ', ', '<think>', '</think>', *_FRAME]


def mirror_sentence(sentence: str) -> str:
    """Return the sentence that means the same object in the mirrored image."""
    return _SIDE_WORD.sub(lambda found: _MIRRORED[found[0]], sentence)


def find_named(query: Query, items: Sequence[Item]) -> int:
    """Return the index of the item that the sentence names by colour and noun; -1 if none.

    It is the target, or the reference of a relation ("left of the red mug"), which the last two
    words of the sentence name.
    """
    if query.kind == 'attribute':
        return query.target
    if query.kind != 'relation':
        return -1
    colour, noun = query.text.split()[-2:]
    thing = (colour, _SYNONYMS.get(noun, noun))
    return [(item.colour, item.shape) for item in items].index(thing)


def write_thinking(item: Item, side: int) -> str:
    """Return a short thought that says what the item is and where."""
    return say_thought(item.colour, item.shape, (item.box.x1 + item.box.x2) / 2 / side)


def write_reply(item: Item, side: int) -> str:
    """Return thinking and answer, in whole pixels from 0 to ``side - 1``."""

    def inside(value: float) -> float:
        return min(max(value, 0.0), side - 1.0)

    box = Box(*map(inside, item.box))
    points = tuple(Point(inside(x), inside(y)) for x, y in item.points)
    return Task().write(Annotation(box, points), write_thinking(item, side))


def corpus(scenes: Scenes) -> Iterator[str]:
    """Yield the texts that the tokenizer is trained on."""
    for items, queries in zip(scenes.items, scenes.queries, strict=True):
        for query in queries:
            yield query.text
            yield mirror_sentence(query.text)
        for item in items:
            yield write_thinking(item, scenes.side)
        yield 'user\nassistant\n'
