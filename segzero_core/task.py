# SPDX-License-Identifier: Apache-2.0
"""What a model is asked for: box, points or both, with or without thinking.

One choice changes the prompt, the reading of the answer, the rewards and what the segmenter gets
together (Seg-Zero, arXiv 2503.06520, Tables 1 and 2).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from segzero_core.answers.parse import Answer, parse_answer
from segzero_core.data.records import Annotation
from segzero_core.errors import EngineOptionError
from segzero_core.geometry import rescale_box, rescale_point
from segzero_core.prompts import FAMILIES, PromptFamily
from segzero_core.registry import look_up
from segzero_core.rewards.hardened import Recipe
from segzero_core.types import MaskPrompt, Size

Answers = Literal['box_points', 'box', 'points']
KEYS = ('bbox', 'points_1', 'points_2')
_RECIPE_TARGETS: dict[str, Literal['both', 'box', 'points']] = {
    'box_points': 'both',
    'box': 'box',
    'points': 'points',
}
# The key that base models use by themselves; they were not asked for another one.
_NATIVE_KEY = "the key 'bbox_2d' was read as 'bbox'"

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
    """Everything that says what a checkpoint is asked and how it answers.

    Every reasoner has one as ``task``. The prompt, the parser, structured output, the prompt of
    the segmenter, rewards and evaluation all follow it.

    Attributes:
        answer: ``box_points``, ``box`` or ``points``.
        think: Whether the model thinks before it answers.
        family: Wording, image size and coordinate space. A family whose words ask for a box alone
            (``PromptFamily.asks``) makes ``answer`` ``box`` and ``think`` false.
    """

    answer: Answers = 'box_points'
    think: bool = True
    family: PromptFamily = FAMILIES['seg_zero']

    def __post_init__(self) -> None:
        """Check ``answer``.

        Raises:
            UnknownNameError: ``answer`` is none of the three.
        """
        look_up('answer', self.answer, _RECIPE_TARGETS)
        if not self.family.tagged:
            object.__setattr__(self, 'answer', 'box')
            object.__setattr__(self, 'think', False)

    @property
    def box(self) -> bool:
        """Whether a box is asked for."""
        return self.answer != 'points'

    @property
    def points(self) -> bool:
        """Whether points are asked for."""
        return self.answer != 'box'

    @functools.cached_property
    def prompt(self) -> PromptFamily:
        """The family, its words reduced to what is asked for."""
        changes = [
            *(_THINKING if not self.think else ()),
            *(_BOX_ONLY if not self.points else ()),
            *(_POINTS_ONLY if not self.box else ()),
        ]
        template = self.family.template
        for old, new in changes:
            template = template.replace(old, new)
        return replace(self.family, template=template)

    def reworked(self, answer: str = '', think: bool | None = None) -> Task:
        """Return this task with what the user wants otherwise.

        Args:
            answer: '' = as it is.
            think: ``None`` = as it is.

        Raises:
            UnknownNameError: ``answer`` is none of the three.
            EngineOptionError: The words of the family ask for something else.
        """
        if not self.family.tagged and (answer not in ('', 'box') or think):
            wanted = f'answer={answer!r}' if answer not in ('', 'box') else 'think'
            raise EngineOptionError(
                f'family {self.family.name!r} asks for a box alone, without thoughts: '
                f'choose another family, or leave out {wanted}'
            )
        return replace(
            self,
            answer=answer or self.answer,  # type: ignore[arg-type]  # checked when it is made
            think=self.think if think is None else think,
        )

    def with_family(self, family: PromptFamily) -> Task:
        """Return the same task asked in the words, image size and space of ``family``."""
        return replace(self, family=family)

    def smaller(self) -> Task:
        """Return the same task with smaller images; see ``PromptFamily.smaller``."""
        return self.with_family(self.family.smaller())

    def conversation(self, query: str) -> list[dict[str, Any]]:
        """Return the messages for a chat template; see ``PromptFamily.conversation``."""
        return self.prompt.conversation(query)

    def input_size(self, image: Size) -> Size:
        """Return the size at which the model sees an image of size ``image``."""
        return self.family.input_size(image)

    def answer_size(self, image: Size) -> Size:
        """Return the size of the space that answers about an image of size ``image`` are in."""
        return self.family.answer_size(image)

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return ``recipe`` with the rewards of what is asked for."""
        return replace(recipe, thinking=self.think, targets=_RECIPE_TARGETS[self.answer])

    def read(self, text: str, space: Size) -> Answer:
        """Read a reply.

        Args:
            text: Everything the reasoner wrote.
            space: ``answer_size`` of the image it is about.

        Returns:
            The answer, in the space of the reply.

        Raises:
            AnswerError: There is no usable answer; ``kind`` says why.
        """
        if self.family.tagged:
            return parse_answer(text, space, self.box, self.points)
        plain = text.strip().removeprefix('```json').removesuffix('```')
        found = parse_answer(f'<answer>{plain}</answer>', space, self.box, self.points)
        repairs = tuple(repair for repair in found.repairs if repair != _NATIVE_KEY)
        return replace(found, repairs=repairs)

    def mask_prompt(self, answer: Answer, image: Size) -> MaskPrompt:
        """Return ``answer`` as the segmenter's prompt, in pixels of an image of size ``image``."""
        space = self.answer_size(image)
        box = rescale_box(answer.box, space, image) if answer.box else None
        return MaskPrompt(
            box, tuple(rescale_point(point, space, image) for point in answer.points)
        )

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
