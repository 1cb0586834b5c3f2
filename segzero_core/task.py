# SPDX-License-Identifier: Apache-2.0
"""The task of a checkpoint: box, points or both, with or without thinking, in which words.

The prompt, the parser, the rewards and the prompt of the segmenter change together with it
(Seg-Zero, arXiv 2503.06520, Tables 1 and 2).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from segzero_core.answers.parse import Answer, AnswerFormat, read_answer
from segzero_core.answers.tags import TAGS, split_reply
from segzero_core.data.records import Annotation
from segzero_core.errors import AnswerError, EngineOptionError
from segzero_core.geometry import rescale_box, rescale_point
from segzero_core.prompts import FAMILIES, PromptFamily
from segzero_core.reasoners.base import Reply
from segzero_core.registry import look_up
from segzero_core.rewards.hardened import Recipe
from segzero_core.types import MaskPrompt, ResultWarning, Size

Answers = Literal['box_points', 'box', 'points']
KEYS = ('bbox', 'points_1', 'points_2')
_RECIPE_TARGETS: dict[str, Literal['both', 'box', 'points']] = {
    'box_points': 'both',
    'box': 'box',
    'points': 'points',
}
_ANY_SIZE = Size(1_000, 1_000)  # where only the form of an answer matters

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

    @functools.cached_property
    def example(self) -> Answer | None:
        """The answer in the example of the prompt; ``None`` if there is none."""
        _, tag, block = self.prompt.template.rpartition('<answer>')
        wanted = AnswerFormat(_ANY_SIZE, self.box, self.points)
        return read_answer(f'<answer>{block}', wanted) if tag else None

    def answer_format(self, space: Size) -> AnswerFormat:
        """Return the form of answers for the parser; ``space`` is their ``answer_size``."""
        thousandths = self.family.space == 'thousandths'
        return AnswerFormat(
            space, self.box, self.points, thousandths, self.family.tagged, self.example
        )

    def is_answer(self, text: str) -> bool:
        """Return whether ``text``, up to its ``</answer>``, answers in the form asked for.

        Neither the format as thoughts quote it nor the example of the prompt does; an answer that
        nothing matches does, and so does one with numbers outside the image.
        """
        starts = [tag.end() for tag in TAGS['answer'].finditer(text)]
        block = text[starts[-1] :] if starts else text
        try:
            read_answer(f'<answer>{block}</answer>', self.answer_format(_ANY_SIZE))
        except AnswerError as error:
            return error.kind in ('nothing_found', 'out_of_image', 'wrong_space')
        return True

    def read(self, reply: Reply | str, space: Size) -> Answer:
        """Read a reply.

        Args:
            reply: The reply, or its text alone if it is not known why it ended.
            space: ``answer_size`` of the image it is about.

        Returns:
            The answer, in the space of the reply. Its warnings say if the reply was cut off.

        Raises:
            AnswerError: There is no usable answer; ``kind`` says why. It is ``token_limit`` for
                every reply without one that was cut off.
        """
        text, finish_reason, tokens = (reply, '', 0) if isinstance(reply, str) else reply
        wanted = self.answer_format(space)
        if finish_reason != 'length':
            return read_answer(text, wanted)
        try:
            found = read_answer(text, wanted)
        except AnswerError as error:
            if error.kind == 'nothing_found' and self._has_ended(text):
                raise
            raise _cut_off(tokens, str(error), text) from error
        if not self._has_ended(text):
            raise _cut_off(tokens, 'it was still thinking', text)
        message = f'the reply was cut off after {_tokens(tokens)}, behind its answer'
        return replace(found, warnings=(*found.warnings, ResultWarning('token_limit', message)))

    def _has_ended(self, text: str) -> bool:
        """Return whether the answer in a reply that was cut off is more than a quotation."""
        if not self.think or ('</think>' in text.lower() and split_reply(text).closed):
            return True
        return text.rstrip().lower().endswith('</answer>')

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
            target: The object that is meant.
            reasoning: The chain of thought.
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


def _cut_off(tokens: int, reason: str, text: str) -> AnswerError:
    return AnswerError(
        'token_limit',
        f'the reply was cut off after {_tokens(tokens)} ({reason}): raise max_new_tokens, or '
        'limit the thinking with max_think_tokens',
        text,
    )


def _tokens(count: int) -> str:
    return f'{count} tokens' if count else 'as many tokens as allowed'


def _whole(numbers: Sequence[float]) -> list[int]:
    return [int(number + 0.5) for number in numbers]
