# SPDX-License-Identifier: Apache-2.0
"""Records -> examples of the trainers: conversation, image, truth, and the answer to imitate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from torch.utils.data import Sampler

from segzero_core.data import Annotation, Record
from segzero_core.errors import DataError, quoted
from segzero_core.geometry import rescale_box, rescale_point
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
    """One example per record.

    Attributes:
        records: The training data.
        task: Task of the model: prompt, image size, coordinate space and form of the answer.
        every_form: Let the replies go through all forms of an answer in turn.
    """

    records: Sequence[Record]
    task: Task
    every_form: bool = False

    def row(self, index: int) -> dict[str, Any]:
        """Return ``prompt`` (conversation), ``image`` (PIL), ``truth``, ``record``."""
        record = self.records[index]
        return {
            'prompt': self.task.conversation(record.query),
            'image': picture(record, self.task),
            'truth': make_truth(record, self.task),
            'record': record,
        }

    def reply(self, index: int) -> str:
        """Return the answer to imitate; ``unusable`` makes sure that its thoughts exist."""
        record = self.records[index]
        task, keys = _FORMS[index % len(_FORMS)] if self.every_form else (self.task, KEYS)
        truth = make_truth(record, self.task)
        return task.write(Annotation(truth.box, truth.points), record.reasoning, keys)


def make_truth(record: Record, task: Task) -> Truth:
    """Return the record's target in whole numbers of the answer space.

    Numbers are rounded as ``int(v * to / from + 0.5)``, as in the released data preparation.
    """
    target = record.targets[0]
    space = task.answer_size(record.size)
    box = _whole(rescale_box(target.box, record.size, space), space)
    points = [_whole(rescale_point(point, record.size, space), space) for point in target.points]
    return Truth(Box(*box), (Point(*points[0]), Point(*points[1])), space)


def _whole(numbers: Sequence[float], space: Size) -> list[float]:
    return [float(int(number + 0.5)) for number in numbers]


def picture(record: Record, task: Task) -> PilImage.Image:
    """Return the image as the model sees it, resized as the reasoner does.

    Raises:
        DataError: The image has another size than when the dataset was read.
    """
    image = PilImage.fromarray(np.ascontiguousarray(record.load_image()))
    if image.size != record.size:
        raise DataError(
            f'the image of row {quoted(record.id)} is {image.width} x {image.height} pixels now, '
            f'and was {record.size.width} x {record.size.height} when the dataset was read'
        )
    size = task.input_size(record.size)
    return image if image.size == size else image.resize(size, PilImage.Resampling.BILINEAR)


def single_target(record: Record) -> str:
    """Return the reason why no training can use the record; '' if there is none."""
    if len(record.targets) != 1:
        return f'means {len(record.targets)} objects; an answer names one'
    if len(record.targets[0].points) != 2:
        return 'has one point; an answer names two'
    return ''


def unusable(record: Record, config: TrainConfig) -> str:
    """Return the reason why this training cannot use the record; '' if there is none."""
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
    """Indices of the records in the order of training.

    The order is an endless stream of shuffled passes, cut into steps. The records of a step depend
    only on the seed and the step, so a resumed run continues exactly where it stopped.
    """

    def __init__(
        self, rows: int, steps: int, sentences: int, seed: int, copies: int = 1, repeats: int = 1
    ) -> None:
        """Set the order of the whole training.

        Args:
            rows: Number of records.
            steps: Optimiser steps.
            sentences: Different records per step.
            seed: Seed of the order.
            copies: Consecutive copies of each record (answers per sentence).
            repeats: Repetitions of a whole step, because TRL asks once per micro-batch.
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
