# SPDX-License-Identifier: Apache-2.0
"""The rewards of training: plain functions of (text, truth, recipe).

The five rewards of Seg-Zero (arXiv 2503.06520, section 3.3), each 0 to 1, and three that later
work found useful. A ``Recipe`` says which of them count and how they are computed. Its ``mode``:

``hardened`` (the default) cannot be earned without doing the work. The thinking must say
something; exactly one answer block outside the thinking counts; it must be valid JSON without
duplicate keys and with finite numbers; boxes must not be reversed; distances are L1, as in the
paper; the points must be inside the true box; thresholds scale with the answer space.

``released`` agrees with the code of the released checkpoints on every text, see ``released.py``.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from segzero_core import geometry
from segzero_core.registry import look_up
from segzero_core.rewards import released as released
from segzero_core.types import Box, Point, Size

# Thresholds of the paper, in pixels of the 840 x 840 image it trains on.
IOU_THRESHOLD = 0.5
BOX_L1_THRESHOLD = 10
POINT_L1_THRESHOLD = 100
REFERENCE_SIZE = Size(840, 840)

_CHOICES = {
    'mode': ('hardened', 'released'),
    'answer_format': ('soft', 'strict'),
    'accuracy': ('hard', 'soft'),
    'targets': ('both', 'box', 'points'),
}
_EXTRAS = ('length', 'non_repeat')


@dataclass(frozen=True)
class Truth:
    """The right answer, in the answer space.

    Attributes:
        box: Inclusive box around the object.
        points: Centres of its two largest inscribed circles.
        size: Size of the answer space: that of the image the model sees, or 1000 x 1000.
    """

    box: Box
    points: tuple[Point, Point]
    size: Size = REFERENCE_SIZE


@dataclass(frozen=True)
class Recipe:
    """Which rewards count and how they are computed.

    Attributes:
        mode: ``hardened`` or ``released``, see above.
        answer_format: ``strict`` requires exactly the keys ``bbox``, ``points_1``, ``points_2``
            (paper, Table 4); ``soft`` one key with "bbox" and two with "point" in their names.
        accuracy: ``hard`` gives 0 or 1 by threshold; ``soft`` gives the IoU, or 1 - L1 / longest
            side of the image (paper, Table 3; not in the released code).
        thinking: Whether the task asks for thinking, whose form is then rewarded (Table 1).
        targets: The requested parts: box and points, or one of them (Table 2).
        extras: Further rewards by name: ``'length'``, ``'non_repeat'``.
    """

    mode: Literal['hardened', 'released'] = 'hardened'
    answer_format: Literal['soft', 'strict'] = 'strict'
    accuracy: Literal['hard', 'soft'] = 'hard'
    thinking: bool = True
    targets: Literal['both', 'box', 'points'] = 'both'
    extras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UnknownNameError: A value is not one of those above.
        """
        for field, choices in _CHOICES.items():
            look_up(field, getattr(self, field), choices)
        for name in self.extras:
            look_up('extra reward', name, _EXTRAS)

    @functools.cached_property
    def rewards(self) -> tuple[str, ...]:
        """Names of the rewards that count, in the order they are reported."""
        return (
            *(['think_format'] if self.thinking else []),
            'answer_format',
            *([] if self.targets == 'points' else ['box_iou', 'box_l1']),
            *([] if self.targets == 'box' else ['point_l1']),
            *self.extras,
        )


DEFAULT = Recipe()


def score(text: str, truth: Truth, recipe: Recipe = DEFAULT) -> dict[str, float]:
    """Return the rewards that count, by name; their sum is the reward of the text."""
    return {name: REWARDS[name](text, truth, recipe) for name in recipe.rewards}


def think_format(text: str, truth: Truth, recipe: Recipe = DEFAULT) -> float:
    """Return 1 for a thinking block that is followed by an answer block and nothing else.

    Hardened: each tag occurs once, surrounding white space is allowed, and the thinking has at
    least one letter.
    """
    if recipe.mode == 'released':
        return float(released.think_format(text))
    if not released.think_format(text.strip()) or any(text.count(tag) != 1 for tag in _TAGS):
        return 0.0
    return float(any(character.isalpha() for character in _thinking(text)))


def answer_format(text: str, truth: Truth, recipe: Recipe = DEFAULT) -> float:
    """Return 1 for the right keys and numbers of coordinates.

    Hardened: a task without thinking gives 0 to a text that thinks.
    """
    if recipe.mode == 'hardened':
        start = '' if recipe.thinking else '<answer>'
        return float(text.strip().startswith(start) and _read(text, recipe).well_formed)
    data = released.read(text)
    if data is None:
        return 0.0
    fits = released.strict_format if recipe.answer_format == 'strict' else released.soft_format
    return float(fits(data, recipe.targets != 'points', recipe.targets != 'box'))


def box_iou(text: str, truth: Truth, recipe: Recipe = DEFAULT) -> float:
    """Return 1 for a box whose IoU with the true box is over 0.5. Soft: the IoU."""
    box = _box(text, recipe)
    if box is None:
        return 0.0
    if recipe.mode == 'hardened':
        iou = geometry.box_iou(Box(*box), truth.box)
    else:
        try:
            iou = released.box_iou(box, truth.box)
        except released.UNUSABLE:
            return 0.0
    return _unit(iou) if recipe.accuracy == 'soft' else float(iou > IOU_THRESHOLD)


def box_l1(text: str, truth: Truth, recipe: Recipe = DEFAULT) -> float:
    """Return 1 for a box whose sides are off by less than 10 pixels (of 840) on average.

    The paper does not say whether its L1 distance is the sum or the mean of the four differences;
    the released code takes the mean. Soft: 1 - mean / longest side of the image.
    """
    box = _box(text, recipe)
    if box is None:
        return 0.0
    try:
        distance = released.box_l1(box, truth.box)
    except released.UNUSABLE:
        return 0.0
    return _closeness(distance, BOX_L1_THRESHOLD, truth, recipe)


def point_l1(text: str, truth: Truth, recipe: Recipe = DEFAULT) -> float:
    """Return 1 for two points in the box, on average within 100 pixels (of 840) of the true ones.

    The points are paired in the order with the smaller distance. Hardened: L1 distance, both
    points inside the true box. Released: Euclidean distance, inside the predicted box if the task
    asks for one. Soft: 1 - distance / longest side of the image, with the same condition.
    """
    points = _points(text, recipe)
    if points is None:
        return 0.0
    hardened = recipe.mode == 'hardened'
    box = truth.box if hardened or recipe.targets == 'points' else _box(text, recipe)
    try:
        distance = released.paired(
            points, truth.points, _taxicab if hardened else released.euclidean
        )
        if not all(released.inside(point, box) for point in points):
            return 0.0
    except released.UNUSABLE:
        return 0.0
    return _closeness(distance, POINT_L1_THRESHOLD, truth, recipe)


def non_repeat(text: str, truth: Truth, recipe: Recipe = DEFAULT) -> float:
    """Return 1 unless two or more sentences repeat earlier ones (arXiv 2505.12081).

    Hardened: only the sentences of the thinking count, case is ignored, and a text without
    thinking gets 0.
    """
    if recipe.mode == 'released':
        return float(released.non_repeat(text))
    thinking = _thinking(text).lower()
    parts = _SENTENCE_END.split(thinking)
    sentences = [sentence for part in parts if (sentence := ' '.join(part.split()))]
    return float(bool(sentences) and len(sentences) - len(set(sentences)) < 2)


def length(text: str, truth: Truth, recipe: Recipe = DEFAULT) -> float:
    """Return 1 for a right answer after at most 30 words of thinking, falling to 0 at 150.

    A wrong answer gets 0, and so does a text without thinking. An answer is right if its box (its
    points, if the task asks only for points) gets the hard reward.
    """
    words = len(_thinking(text).split())
    judge = point_l1 if recipe.targets == 'points' else box_iou
    if words == 0 or judge(text, truth, replace(recipe, accuracy='hard')) == 0:
        return 0.0
    return _unit((150 - words) / (150 - 30))


def mask_iou(iou: float) -> float:
    """Return the reward for a mask of the given IoU: 4 over 0.8, 3 over 0.7, 2 over 0.5 (SAM-R1).

    The mask comes from the frozen segmenter, prompted with the answer of the text.
    """
    return next((tier for over, tier in ((0.8, 4.0), (0.7, 3.0), (0.5, 2.0)) if iou > over), 0.0)


REWARDS: dict[str, Callable[[str, Truth, Recipe], float]] = {
    'think_format': think_format,
    'answer_format': answer_format,
    'box_iou': box_iou,
    'box_l1': box_l1,
    'point_l1': point_l1,
    'non_repeat': non_repeat,
    'length': length,
}

_TAGS = ('<think>', '</think>', '<answer>', '</answer>')
_SENTENCE_END = re.compile(r'[.!?\n]')


def _box(text: str, recipe: Recipe) -> Any:
    """Return four numbers (released: anything of length 4), or ``None``."""
    if recipe.mode == 'hardened':
        return _read(text, recipe).box
    data = released.read(text)
    return None if data is None else released.find_box(data, recipe.answer_format == 'strict')


def _points(text: str, recipe: Recipe) -> Any:
    """Return twice two numbers, or ``None``."""
    if recipe.mode == 'hardened':
        return _read(text, recipe).points
    data = released.read(text)
    return None if data is None else released.find_points(data, recipe.answer_format == 'strict')


class _Reading(NamedTuple):
    well_formed: bool
    box: list[float] | None
    points: list[list[float]] | None


@functools.lru_cache(maxsize=256)  # several rewards of one text in a row
def _read(text: str, recipe: Recipe) -> _Reading:
    """Read an answer as the hardened rewards do."""
    strict = recipe.answer_format == 'strict'
    want_box, want_points = recipe.targets != 'points', recipe.targets != 'box'
    data = _answer_object(text, strict)
    if data is None:
        return _Reading(False, None, None)
    box_keys = ['bbox'] if strict else [key for key in data if 'bbox' in key.lower()]
    point_keys = (
        ['points_1', 'points_2'] if strict else [key for key in data if 'point' in key.lower()]
    )
    box = _coordinates(data.get(box_keys[0]), 4) if len(box_keys) == 1 else None
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        box = None
    found = [_coordinates(data.get(key), 2) for key in point_keys]
    points = [point for point in found if point is not None]
    wanted = box_keys * want_box + point_keys * want_points
    usable = len(found) == len(points) == 2
    complete = (box is not None or not want_box) and (usable or not want_points)
    exact = not strict or set(data) == set(wanted)
    return _Reading(complete and exact, box, points if usable else None)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError('duplicate key')
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def _answer_object(text: str, strict: bool) -> dict[str, Any] | None:
    """Return the JSON object of the one answer block outside the thinking."""
    if text.count('<answer>') != 1 or text.count('</answer>') != 1:
        return None
    start, end = text.index('<answer>') + len('<answer>'), text.index('</answer>')
    thought = text.rfind('</think>')
    if thought > start or (thought < 0 and '<think>' in text):
        return None
    content = text[start:end].strip()
    begin = 0 if strict else max(content.find('{'), 0)
    try:
        data, stop = _DECODER.raw_decode(content, begin)
    except (ValueError, RecursionError):
        return None
    rest = content[stop:]
    if not isinstance(data, dict) or (rest if strict else '{' in rest):
        return None
    return data


def _coordinates(value: Any, count: int) -> list[float] | None:
    if not isinstance(value, list) or len(value) != count:
        return None
    usable = all(type(number) in (int, float) and -1e9 < number < 1e9 for number in value)
    return value if usable else None


def _thinking(text: str) -> str:
    start, end = text.find('<think>'), text.find('</think>')
    return text[start + len('<think>') : end] if 0 <= start < end else ''


def _taxicab(a: Sequence[float], b: Sequence[float]) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _closeness(distance: float, threshold: float, truth: Truth, recipe: Recipe) -> float:
    if recipe.accuracy == 'soft':
        return _unit(1 - distance / max(truth.size))
    if recipe.mode == 'hardened':
        threshold = threshold * max(truth.size) / max(REFERENCE_SIZE)
    return float(distance < threshold)


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
