# SPDX-License-Identifier: Apache-2.0
"""The engines of one process of an evaluation."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Literal, cast

import yaml

from segzero_core.errors import ConfigError
from segzero_core.reasoners import REASONERS, Reasoner, load_reasoner
from segzero_core.registry import device_option
from segzero_core.segmenters import SEGMENTERS, Segmenter, load_segmenter
from training.evaluation.options import EvalConfig
from training.evaluation.prompts import AnswerReader
from training.evaluation.runner import EvaluationRunner
from training.evaluation.shards import ProcessRank

VQA_DATASETS = ('chartqa', 'textvqa')  # their questions are answered in words


class Engines:
    """Reasoner and segmenter as the settings ask for; a context manager that closes both.

    Attributes:
        runner: Asks, segments and scores with both.
        served_model: Name of the model that a server answers with; '' for a model in this process.
    """

    def __init__(self, config: EvalConfig, dataset: str, rank: ProcessRank) -> None:
        """Load both engines.

        Args:
            config: The settings.
            dataset: Name of the dataset.
            rank: The process this is; each process uses one GPU.

        Raises:
            SegZeroError: An engine cannot be loaded, or cannot do what is asked for.
        """
        vqa = dataset if dataset in VQA_DATASETS else ''
        if vqa and config.reasoner == 'rules':
            raise ConfigError(
                f'{vqa} asks for answers in words, which rules cannot give: use --model'
            )
        _select_gpu(rank)
        self._reasoner = _load_reasoner(config, vqa)
        self._segmenter = _load_segmenter(config, vqa)
        served = getattr(self._reasoner, 'model', '')
        self.served_model = served if isinstance(served, str) else ''
        task = self._reasoner.task
        reader = AnswerReader(
            task,
            cast('Any', config.segmenter_prompt or task.answer),
            cast("Literal['standard', 'released']", config.protocol),
        )
        self.runner = EvaluationRunner(self._reasoner, self._segmenter, reader, vqa)

    def __enter__(self) -> Engines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.runner.close()
        self._reasoner.close()
        self._segmenter.close()


def _load_reasoner(config: EvalConfig, vqa: str) -> Reasoner:
    """Return the reasoner; its own task applies where the settings do not ask for another one."""
    reasoner = load_reasoner(config.reasoner, **reasoner_options(config, bool(vqa)))
    if config.answer or config.think:
        think = config.think == 'yes' if config.think else None
        reasoner.task = reasoner.task.reworked(config.answer, think)
    return reasoner


def _load_segmenter(config: EvalConfig, vqa: str) -> Segmenter:
    """Return the segmenter; answers in words need none, so they get the one without weights."""
    if vqa:
        return load_segmenter('grabcut')
    return load_segmenter(
        config.segmenter,
        model=config.segmenter_model,
        **device_option(SEGMENTERS, config.segmenter, config.device),
    )


def reasoner_options(config: EvalConfig, vqa: bool) -> dict[str, Any]:
    """Return the options of the reasoner's engine.

    Raises:
        ConfigError: One is not of the form ``key=value``.
    """
    options: dict[str, Any] = {
        'model': config.model,
        'family': config.family or ('question' if vqa else ''),
        'max_new_tokens': config.max_new_tokens or None,
        **device_option(REASONERS, config.reasoner, config.device),
    }
    for given in config.reasoner_options:
        key, equals, value = given.partition('=')
        if not equals:
            raise ConfigError(f'write --reasoner-option as key=value, got {given!r}')
        options[key.strip()] = _parse_scalar(value)
    return options


def _parse_scalar(text: str) -> Any:
    """Return the number or truth value in ``text``; ``text`` itself if it is neither."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: an impossible date such as 2024-13-45
        return text
    return value if isinstance(value, (bool, int, float)) else text


def _select_gpu(rank: ProcessRank) -> None:
    """Leave one of the visible GPUs to this process. Must run before CUDA is used."""
    if rank.world == 1:
        return
    local = int(os.environ.get('LOCAL_RANK', rank.rank))
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible is None:
        os.environ['CUDA_VISIBLE_DEVICES'] = str(local)
    elif gpus := [gpu for gpu in visible.split(',') if gpu]:
        os.environ['CUDA_VISIBLE_DEVICES'] = gpus[local % len(gpus)]
