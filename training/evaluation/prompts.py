# SPDX-License-Identifier: Apache-2.0
"""A reasoner's text -> what the segmenter is prompted with, in pixels of the image."""

from __future__ import annotations

from typing import Literal, NamedTuple

from segzero_core.answers.released import parse_released
from segzero_core.reasoners import Reply
from segzero_core.task import Task
from segzero_core.types import Box, Point, Size


class SegmenterPrompt(NamedTuple):
    """What the segmenter is shown, in pixels of the image, and where it comes from.

    Attributes:
        box: The object's; None where points alone are asked for or used.
        points: On the object; none where a box alone is.
        reasoning: The chain of thought.
        repairs: What had to be repaired to read the answer.
    """

    box: Box | None
    points: tuple[Point, ...]
    reasoning: str
    repairs: tuple[str, ...]


class AnswerReader:
    """Reads the answers of one kind of model.

    Args:
        task: What was asked for, and how.
        use: What of it the segmenter gets: ``box_points``, ``box`` or ``points``.
        protocol: ``released`` reads as the released evaluation does, faults included; the own
            words of a base model, which that cannot read, as ever.
    """

    def __init__(
        self,
        task: Task,
        use: Literal['box_points', 'box', 'points'],
        protocol: Literal['standard', 'released'],
    ) -> None:
        self._task, self._use = task, use
        self._released = protocol == 'released' and task.family.tagged

    def read(self, reply: Reply, image: Size) -> SegmenterPrompt:
        """Return the prompt in ``reply``.

        Args:
            reply: Everything the reasoner wrote, and why it ended.
            image: Size of the image it is about.

        Raises:
            AnswerError: There is none; ``kind`` says why.
        """
        space = self._task.answer_size(image)
        if self._released:
            answer = parse_released(reply.text, space, image)
            return self._used(SegmenterPrompt(answer.box, answer.points, answer.reasoning, ()))
        found = self._task.read(reply, space)
        prompt = self._task.mask_prompt(found, image)
        return self._used(SegmenterPrompt(*prompt, found.reasoning, found.repairs))

    def _used(self, prompt: SegmenterPrompt) -> SegmenterPrompt:
        if self._use == 'box':
            return prompt._replace(points=())
        return prompt._replace(box=None) if self._use == 'points' else prompt
