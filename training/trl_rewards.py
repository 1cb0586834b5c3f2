# SPDX-License-Identifier: Apache-2.0
"""The rewards as functions for TRL, including the mask reward with the frozen segmenter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segzero_core.data import Record
from segzero_core.errors import AnswerError, ConfigError
from segzero_core.metrics.masks import image_ious, overlap
from segzero_core.rewards import hardened as rewards
from segzero_core.segmenters import Segmenter, load_segmenter
from segzero_core.segmenters.base import MaskResult
from segzero_core.task import Task
from segzero_core.types import Size
from training.config import TrainConfig

RewardFunction = Callable[..., list[float]]


def reward_functions(
    config: TrainConfig, task: Task, segmenter: Segmenter | None
) -> list[RewardFunction]:
    """Return the rewards of a training; TRL logs each under its name.

    Args:
        config: The run's configuration.
        task: Task of the model: prompt, coordinate space and form of the answer.
        segmenter: The frozen segmenter of the reward ``mask_iou``.

    Raises:
        ConfigError: ``mask_iou`` counts and there is no segmenter.
    """
    found = [_text_reward(name, config.recipe) for name in config.recipe.rewards]
    if 'mask_iou' in config.extra_rewards:
        if segmenter is None:
            raise ConfigError('the reward mask_iou needs a segmenter: set segmenter=sam2')
        found.append(_mask_reward(task, segmenter))
    return found


def text_of(completion: Any) -> str:
    """Return the text of a completion, a conversation with one assistant turn."""
    return str(completion[0]['content'])


def make_segmenter(config: TrainConfig) -> Segmenter | None:
    """Load the segmenter that the configuration names; None if it names none."""
    if not config.segmenter:
        return None
    return load_segmenter(config.segmenter, model=config.segmenter_model)


def is_readable(text: str, task: Task, image: Size) -> bool:
    """Return whether the answer parser can read ``text`` about an image of size ``image``."""
    try:
        task.read(text, task.answer_size(image))
    except AnswerError:
        return False
    return True


class Masks:
    """Masks of answers. An image is embedded once for consecutive answers about it.

    Args:
        task: How answers are read, and which part of them the segmenter gets.
        segmenter: The frozen segmenter.
    """

    def __init__(self, task: Task, segmenter: Segmenter) -> None:
        self._task, self._segmenter = task, segmenter
        self._record: Record | None = None
        self._embedding: Any = None

    def __call__(self, text: str, record: Record) -> MaskResult:
        """Return the mask of an answer, at the size of the record's image.

        Args:
            text: The answer.
            record: The record whose image it is about.

        Raises:
            AnswerError: The answer cannot be read.
        """
        answer = self._task.read(text, self._task.answer_size(record.size))
        if record is not self._record:
            self._record = None  # the embedding is valid only once it is computed
            self._embedding = self._segmenter.embed(record.load_image())
            self._record = record
        prompt = self._task.mask_prompt(answer, record.size)
        return self._segmenter.segment(self._embedding, prompt.box, list(prompt.points))


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

    def mask_iou(completions: Any, record: Any, **_: Any) -> list[float]:
        return [
            _mask_score(masks, text_of(written), row)
            for written, row in zip(completions, record, strict=True)
        ]

    return mask_iou


def _mask_score(masks: Masks, text: str, record: Record) -> float:
    assert record.load_mask is not None  # see dataset.unusable
    try:
        found = masks(text, record)
    except AnswerError:
        return 0.0
    return rewards.mask_iou(float(image_ious([overlap(found.mask, record.load_mask())])[0]))
