# SPDX-License-Identifier: Apache-2.0
"""Records -> what the trainers take: conversation, image, truth, the answer to imitate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from torch.utils.data import Sampler

from segzero_core.data import Annotation, Record
from segzero_core.geometry import rescale_box, rescale_point
from segzero_core.prompts import PromptFamily
from segzero_core.rewards.hardened import Truth
from segzero_core.task import KEYS, Task
from segzero_core.types import Box, Point, Size
from training.config import TrainConfig

_OTHER_KEYS = ('bbox_2d', 'point_1', 'point_2')
_FORMS = [
    (Task(answer, think), keys)
    for answer in ('box_points', 'box', 'points')
    for think in (True, False)
    for keys in (KEYS, _OTHER_KEYS)
]


@dataclass(frozen=True)
class ReasonerDataset:
    """Makes one example per record.

    Attributes:
        records: What is learnt from.
        family: Prompt, image size and space of the coordinates, reduced to the task.
        task: What is asked for.
        every_form: Let replies take turns in all forms an answer can have.
    """

    records: Sequence[Record]
    family: PromptFamily
    task: Task
    every_form: bool = False

    def row(self, index: int) -> dict[str, Any]:
        """Return ``prompt`` (conversation), ``image`` (PIL), ``truth``, ``record``."""
        record = self.records[index]
        return {
            'prompt': self.family.conversation(record.query),
            'image': picture(record, self.family),
            'truth': make_truth(record, self.family),
            'record': record,
        }

    def reply(self, index: int) -> str:
        """Return the answer a supervised model is to write; see ``unusable`` for thinking."""
        record = self.records[index]
        task, keys = _FORMS[index % len(_FORMS)] if self.every_form else (self.task, KEYS)
        truth = make_truth(record, self.family)
        return task.write(Annotation(truth.box, truth.points), record.reasoning, keys)


def make_truth(record: Record, family: PromptFamily) -> Truth:
    """Return the record's target in whole numbers of the space answers are in.

    ``int(v * to / from + 0.5)``, as in the released data preparation.
    """
    target = record.targets[0]
    space = family.answer_size(record.size)
    box = _whole(rescale_box(target.box, record.size, space), space)
    points = [_whole(rescale_point(point, record.size, space), space) for point in target.points]
    return Truth(Box(*box), (Point(*points[0]), Point(*points[1])), space)


def _whole(numbers: Sequence[float], space: Size) -> list[float]:
    return [float(int(number + 0.5)) for number in numbers]


def picture(record: Record, family: PromptFamily) -> PilImage.Image:
    """Return the image as the model sees it, stretched as the reasoner stretches it."""
    image = PilImage.fromarray(np.ascontiguousarray(record.load_image()))
    size = family.input_size(record.size)
    return image if image.size == size else image.resize(size, PilImage.Resampling.BILINEAR)


def single_target(record: Record) -> str:
    """Return why the record cannot be trained on, or ''."""
    if len(record.targets) != 1:
        return f'means {len(record.targets)} objects; an answer names one'
    if len(record.targets[0].points) != 2:
        return 'has one point; an answer names two'
    return ''


def unusable(record: Record, config: TrainConfig) -> str:
    """Return why ``config`` cannot train on the record, or ''."""
    thinks = config.think or config.imitate == 'every'
    if config.method == 'sft' and thinks and not record.reasoning:
        return 'has no reasoning to learn from: set think=false, or give the records a reasoning'
    rewards = config.extra_rewards if config.method == 'grpo' else ()
    if 'mask_iou' in rewards and record.load_mask is None:
        return (
            'has no mask, which the reward mask_iou compares with: leave it out of '
            "extra_rewards, or use data with masks (synthetic, or a folder's 'mask')"
        )
    return single_target(record)


class StepSampler(Sampler[int]):
    """Indices of the records in the order they are learnt from.

    One endless stream of shuffled passes, cut into steps: what belongs to a step depends on the
    seed and the step alone, so that a resumed run goes on exactly where it was.
    """

    def __init__(
        self, rows: int, steps: int, sentences: int, seed: int, copies: int = 1, repeats: int = 1
    ) -> None:
        """Plan the whole training.

        Args:
            rows: How many records there are.
            steps: Optimiser steps.
            sentences: Different records per step.
            seed: Of the order.
            copies: How often each record comes in a row (answers per sentence).
            repeats: How often the whole of a step comes (TRL asks once per micro-batch).
        """
        self._rows, self._steps, self._sentences = rows, steps, sentences
        self._seed, self._copies, self._repeats = seed, copies, repeats

    def __len__(self) -> int:
        return self._steps * self._sentences * self._copies * self._repeats

    def __iter__(self) -> Iterator[int]:
        stream = self._stream()
        for _ in range(self._steps):
            chunk = [next(stream) for _ in range(self._sentences)]
            for _ in range(self._repeats):
                for index in chunk:
                    yield from [index] * self._copies

    def _stream(self) -> Iterator[int]:
        order = torch.Generator().manual_seed(self._seed)
        while True:
            yield from torch.randperm(self._rows, generator=order).tolist()
