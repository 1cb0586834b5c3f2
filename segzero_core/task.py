# SPDX-License-Identifier: Apache-2.0
"""What a model is asked for: box, points or both, with or without thinking.

One choice changes the prompt, the reading of the answer, the rewards and what the segmenter gets
together (Seg-Zero, arXiv 2503.06520, Tables 1 and 2).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from segzero_core.answers.parse import Targets, parse_targets
from segzero_core.data.records import Annotation
from segzero_core.prompts import PromptFamily
from segzero_core.registry import look_up
from segzero_core.rewards.hardened import Recipe
from segzero_core.types import Size

Answers = Literal['box_points', 'box', 'points']
KEYS = ('bbox', 'points_1', 'points_2')
_RECIPE_TARGETS: dict[str, Literal['both', 'box', 'points']] = {
    'box_points': 'both',
    'box': 'box',
    'points': 'points',
}

_THINKING = (
    # (with thinking, without), in the words of each family; longest first.
    (
        'Output the thinking process in <think> </think> and final answer in <answer> </answer> '
        'tags.',
        'Output the final answer in <answer> </answer> tags.',
    ),
    ('<think> thinking process here </think> ', ''),
    ('<think> thinking process here </think>', ''),
    (
        'First compare the objects that come into question and decide, between <think> and '
        '</think>. Then write one line of JSON',
        'Write one line of JSON',
    ),
    ('<think>what you compare, and why you decide for one</think>', ''),
)
_BOX_ONLY = (
    ('with bbox and points.', 'with bbox.'),
    (
        'the one bbox and points of two largest inscribed circles inside the interested object',
        'the one bbox of the interested object',
    ),
    (
        'the one bbox and center points of two largest inscribed circles inside the interested '
        'object',
        'the one bbox of the interested object',
    ),
    (", 'points_1': [30,110], 'points_2': [35,180]", ''),
    (", 'points 1': [30,110], 'points 2': [35,180]", ''),
    (
        ', and "points_1" and "points_2", the centers of the two largest circles that fit inside '
        'the object as [x, y]',
        '',
    ),
    (', "points_1": [30, 110], "points_2": [35, 180]', ''),
)
_POINTS_ONLY = (
    ('with bbox and points.', 'with points.'),
    ('the one bbox and points of', 'the points of'),
    ('the one bbox and center points of', 'the center points of'),
    ("'bbox': [10,100,200,210], ", ''),
    ('"bbox", the box around the object as [left, top, right, bottom], and ', ''),
    ('"bbox": [10, 100, 200, 210], ', ''),
)


@dataclass(frozen=True)
class Task:
    """What is asked for.

    Attributes:
        answer: ``box_points``, ``box`` or ``points``.
        think: Whether the model is to think before it answers.
    """

    answer: Answers = 'box_points'
    think: bool = True

    def __post_init__(self) -> None:
        """Check ``answer``.

        Raises:
            UnknownNameError: It is none of the three.
        """
        look_up('answer', self.answer, _RECIPE_TARGETS)

    @property
    def box(self) -> bool:
        """Whether a box is asked for."""
        return self.answer != 'points'

    @property
    def points(self) -> bool:
        """Whether points are asked for."""
        return self.answer != 'box'

    def family(self, family: PromptFamily) -> PromptFamily:
        """Return ``family`` with its request reduced to what is asked for."""
        changes = [
            *(_THINKING if not self.think else ()),
            *(_BOX_ONLY if not self.points else ()),
            *(_POINTS_ONLY if not self.box else ()),
        ]
        template = family.template
        for old, new in changes:
            template = template.replace(old, new)
        return replace(family, template=template)

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return ``recipe`` with the rewards of what is asked for."""
        return replace(recipe, thinking=self.think, targets=_RECIPE_TARGETS[self.answer])

    def read(self, text: str, size: Size) -> Targets:
        """Read an answer; raises ``AnswerError`` as ``parse_targets`` does."""
        return parse_targets(text, size, self.box, self.points)

    def write(self, target: Annotation, reasoning: str, keys: Sequence[str] = KEYS) -> str:
        """Return the answer a perfect model gives; coordinates become whole numbers.

        Args:
            target: What is meant.
            reasoning: What is thought.
            keys: Names of the box and the two points.
        """
        content: dict[str, Any] = {}
        if self.box:
            content[keys[0]] = _whole(target.box)
        if self.points:
            points = zip(keys[1:], target.points, strict=False)
            content |= {key: _whole(point) for key, point in points}
        thinking = f'<think>{reasoning}</think>' if self.think else ''
        return f'{thinking}<answer>{json.dumps(content)}</answer>'


def _whole(numbers: Sequence[float]) -> list[int]:
    return [int(number + 0.5) for number in numbers]
