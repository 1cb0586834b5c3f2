# SPDX-License-Identifier: Apache-2.0
"""The engines of one process of an evaluation."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Literal, cast

import yaml

from segzero_core.errors import ConfigError
from segzero_core.reasoners import REASONERS, load_reasoner
from segzero_core.registry import device_option
from segzero_core.segmenters import SEGMENTERS, Segmenter, load_segmenter
from training.evaluation.options import EvalConfig
from training.evaluation.prompts import AnswerReader
from training.evaluation.runner import EvaluationRunner
from training.evaluation.shards import Place

WORDS = ('chartqa', 'textvqa')  # datasets whose questions are answered in words


class Engines:
    """Reasoner and segmenter as the settings want them; a context that frees both.

    Attributes:
        examiner: Joins the two.
    """

    def __init__(self, config: EvalConfig, dataset: str, place: Place) -> None:
        """Load both.

        Args:
            config: The settings.
            dataset: Name of what is measured on.
            place: Which process this is: each has a GPU of its own.

        Raises:
            SegZeroError: One cannot be loaded, or cannot do what is asked for.
        """
        words = dataset if dataset in WORDS else ''
        if words and config.reasoner == 'rules':
            raise ConfigError(f'{words} asks for words, which rules has none of: give --model')
        _take_gpu(place)
        self._reasoner = load_reasoner(config.reasoner, **reasoner_options(config, bool(words)))
        self._segmenter = _segmenter(config, bool(words))
        if config.task:
            self._reasoner.task = config.task.with_family(self._reasoner.task.family)
        task = self._reasoner.task
        reader = AnswerReader(
            task,
            cast('Any', config.prompt or task.answer),
            cast("Literal['standard', 'released']", config.protocol),
        )
        self.examiner = EvaluationRunner(self._reasoner, self._segmenter, reader, words)

    def __enter__(self) -> Engines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.examiner.close()
        self._reasoner.close()
        self._segmenter.close()


def _segmenter(config: EvalConfig, words: bool) -> Segmenter:
    """Return the segmenter; where answers are words, nobody asks it: the one without weights."""
    if words:
        return load_segmenter('grabcut')
    return load_segmenter(
        config.segmenter,
        model=config.segmenter_model,
        **device_option(SEGMENTERS, config.segmenter, config.device),
    )


def reasoner_options(config: EvalConfig, words: bool) -> dict[str, Any]:
    """Return the reasoner's options.

    Raises:
        ConfigError: One is no ``key=value``.
    """
    options: dict[str, Any] = {
        'model': config.model,
        'family': config.family or ('question' if words else ''),
        'max_new_tokens': config.max_new_tokens or None,
        **device_option(REASONERS, config.reasoner, config.device),
    }
    for given in config.reasoner_options:
        key, equals, value = given.partition('=')
        if not equals:
            raise ConfigError(f'write --reasoner-option as key=value, got {given!r}')
        options[key] = _scalar(value)
    return options


def _scalar(text: str) -> Any:
    """Return the number or truth value that ``text`` is, or else the text."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that is none
        return text
    return value if isinstance(value, (bool, int, float)) else text


def _take_gpu(place: Place) -> None:
    """Leave this process one GPU of those it may see; must come before CUDA is used."""
    if place.world == 1:
        return
    local = int(os.environ.get('LOCAL_RANK', place.rank))
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible is None:
        os.environ['CUDA_VISIBLE_DEVICES'] = str(local)
    elif gpus := [gpu for gpu in visible.split(',') if gpu]:
        os.environ['CUDA_VISIBLE_DEVICES'] = gpus[local % len(gpus)]
