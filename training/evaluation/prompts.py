# SPDX-License-Identifier: Apache-2.0
"""A reasoner's reply -> the prompt of the segmenter, in pixels of the image."""

from __future__ import annotations

from typing import Literal, NamedTuple

from segzero_core.answers.released import parse_released
from segzero_core.reasoners import Reply
from segzero_core.task import Task
from segzero_core.types import Box, Point, ResultWarning, Size


class SegmenterPrompt(NamedTuple):
    """The prompt of the segmenter, and the reasoning and repairs of its answer.

    Attributes:
        box: Pixels of the image; None if only points are asked for or used.
        points: Pixels of the image; empty if only a box is asked for or used.
        reasoning: The chain of thought.
        repairs: The repairs that made the answer readable.
        warnings: Doubts about the answer, such as coordinates in another space.
    """

    box: Box | None
    points: tuple[Point, ...]
    reasoning: str
    repairs: tuple[str, ...]
    warnings: tuple[ResultWarning, ...] = ()


class AnswerReader:
    """Reads the replies of one reasoner.

    Args:
        task: The task of the reasoner.
        use: The part of the answer that the segmenter gets: ``box_points``, ``box`` or
            ``points``.
        protocol: ``released`` reads as the released evaluation does, including its faults. Native
            answers of a base model are read as in ``standard``, because the released code cannot
            read them at all.
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
            image: Size of the image it is about, pixels.

        Raises:
            AnswerError: There is none; ``kind`` says why.
        """
        space = self._task.answer_size(image)
        if self._released:
            answer = parse_released(reply.text, space, image)
            return self._used(SegmenterPrompt(answer.box, answer.points, answer.reasoning, ()))
        found = self._task.read(reply, space)
        prompt = self._task.mask_prompt(found, image)
        return self._used(SegmenterPrompt(*prompt, found.reasoning, found.repairs, found.warnings))

    def _used(self, prompt: SegmenterPrompt) -> SegmenterPrompt:
        if self._use == 'box':
            return prompt._replace(points=())
        return prompt._replace(box=None) if self._use == 'points' else prompt
