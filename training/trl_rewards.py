# SPDX-License-Identifier: Apache-2.0
"""The rewards as functions for TRL, the mask reward with the frozen segmenter among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segzero_core.data import Record
from segzero_core.errors import AnswerError, ConfigError
from segzero_core.geometry import rescale_box, rescale_point
from segzero_core.metrics.masks import image_ious, overlap
from segzero_core.rewards import hardened as rewards
from segzero_core.segmenters import Segmenter, load_segmenter
from segzero_core.segmenters.base import MaskResult
from segzero_core.task import Task
from segzero_core.types import Point, Size
from training.config import TrainConfig

RewardFunction = Callable[..., list[float]]


def reward_functions(config: TrainConfig, segmenter: Segmenter | None) -> list[RewardFunction]:
    """Return the rewards that count; each is logged under its name."""
    found = [_text_reward(name, config.recipe) for name in config.recipe.rewards]
    if 'mask_iou' in config.extra_rewards:
        if segmenter is None:
            raise ConfigError('the reward mask_iou needs a segmenter: set segmenter=sam2')
        found.append(_mask_reward(config.task, segmenter))
    return found


def text_of(completion: Any) -> str:
    """Return what the model wrote, from a conversation of one assistant turn."""
    return str(completion[0]['content'])


def make_segmenter(config: TrainConfig) -> Segmenter | None:
    """Load the segmenter the configuration names, if it names one."""
    if not config.segmenter:
        return None
    return load_segmenter(config.segmenter, model=config.segmenter_model)


def is_readable(text: str, task: Task, size: Size) -> bool:
    """Whether the answer parser makes anything of ``text``."""
    try:
        task.read(text, size)
    except AnswerError:
        return False
    return True


class Masks:
    """Masks of answers; every image is embedded once, as long as its sentences follow each other.

    Args:
        task: How answers are read, and what of them the segmenter gets.
        segmenter: Frozen.
    """

    def __init__(self, task: Task, segmenter: Segmenter) -> None:
        self._task, self._segmenter = task, segmenter
        self._record: Record | None = None
        self._embedding: Any = None

    def __call__(self, text: str, record: Record, space: Size) -> MaskResult:
        """Return the mask of an answer, in pixels of the record's image.

        Args:
            text: The answer.
            record: Whose image is meant.
            space: The space the answer's coordinates are in.

        Raises:
            AnswerError: The answer cannot be read.
        """
        answer = self._task.read(text, space)
        if record is not self._record:
            self._record, self._embedding = record, self._segmenter.embed(record.load_image())
        box = rescale_box(answer.box, space, record.size) if answer.box else None
        points: list[Point] = [rescale_point(p, space, record.size) for p in answer.points]
        return self._segmenter.segment(self._embedding, box, points)


def _text_reward(name: str, recipe: rewards.Recipe) -> RewardFunction:
    function = rewards.REWARDS[name]

    def reward(completions: Any, truth: Any, **_: Any) -> list[float]:
        return [
            function(text_of(written), true, recipe)
            for written, true in zip(completions, truth, strict=True)
        ]

    reward.__name__ = name
    return reward


def _mask_reward(task: Task, segmenter: Segmenter) -> RewardFunction:
    masks = Masks(task, segmenter)

    def mask_iou(completions: Any, truth: Any, record: Any, **_: Any) -> list[float]:
        return [
            _mask_score(masks, text_of(written), row, true.size)
            for written, true, row in zip(completions, truth, record, strict=True)
        ]

    return mask_iou


def _mask_score(masks: Masks, text: str, record: Record, space: Size) -> float:
    assert record.load_mask is not None  # see examples.unusable
    try:
        found = masks(text, record, space)
    except AnswerError:
        return 0.0
    return rewards.mask_iou(float(image_ious([overlap(found.mask, record.load_mask())])[0]))
