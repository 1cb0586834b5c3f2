# SPDX-License-Identifier: Apache-2.0
"""The configuration of a training: typed, from YAML files that inherit, with overrides."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from segzero_core.errors import ConfigError, first_line
from segzero_core.renamed import new_name
from segzero_core.rewards.hardened import Recipe
from segzero_core.runtime.atomic import atomic_text
from segzero_core.runtime.text_files import read_text
from segzero_core.task import Task


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training, and the only place of their defaults.

    Attributes:
        method: ``grpo`` (reinforcement learning) or ``sft`` (supervised fine-tuning).
        model: The checkpoint to start from: a folder or a hub id.
        data: The training data, see ``segzero_core.data.read_dataset``.
        data_limit: Maximum number of rows; 0 = all.
        output: Folder of the run; '' = ``runs/<name of the configuration>``.
        seed: Seed of data order, sampling and adapters.

        family: Prompt family; '' = the checkpoint's own.
        image_size: Side of the square image the model sees, pixels; 0 = the family's.
        answer: Parts of the answer: ``box_points``, ``box`` or ``points``.
        think: Whether the model thinks before it answers.
        imitate: Form of the answers in supervised fine-tuning. ``wanted``: as ``answer`` and
            ``think`` say. ``every``: all forms in turn (with and without thinking; box, points
            and both; other keys), so that rewards can choose between them later.

        reward_mode: ``hardened``, or ``released`` as the original code computes rewards.
        answer_format: ``strict`` or ``soft`` (Table 4 of the paper).
        accuracy: ``hard`` (thresholds) or ``soft`` (Table 3).
        extra_rewards: Any of ``length``, ``non_repeat``, ``mask_iou``.
        segmenter: Frozen segmenter of the reward ``mask_iou`` and of sample pictures: ``sam2`` or
            ``grabcut``; '' = none.
        segmenter_model: Its folder or hub id; '' = the engine's default.

        batch_size: Sentences per optimiser step, over all processes.
        micro_batch: Sequences per device and forward pass.
        epochs: Passes over the data; an incomplete last batch is dropped.
        max_steps: Optimiser steps; 0 = as many as ``epochs`` needs.
        learning_rate: Peak learning rate.
        schedule: Learning-rate schedule: ``constant``, ``linear`` or ``cosine``.
        warmup_steps: Steps over which the learning rate rises from 0.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Norm that gradients are clipped to.

        num_generations: Answers per sentence (GRPO's group size).
        max_completion_tokens: Maximum length of an answer, tokens.
        beta: Weight of the KL divergence from the starting model.
        epsilon: Clipping range of the probability ratio.
        epsilon_high: Upper clipping range; 0 = ``epsilon``.
        entropy: Weight of the entropy bonus.
        loss: TRL's ``loss_type``. The released code corresponds to ``grpo`` if ``micro_batch`` is
            1, and to ``bnpo`` above.
        temperature: Sampling temperature.
        rollouts: Engine that samples the answers: ``transformers``, ``vllm_colocate`` or
            ``vllm_server``.
        vllm_url: Address of the vLLM server.
        vllm_gpu_memory_utilization: Share of the GPU's memory for a colocated vLLM, 0 to 1.
        vllm_tensor_parallel: GPUs per colocated vLLM.

        lora_rank: Rank of LoRA adapters; 0 = full fine-tuning.
        lora_alpha: Scale of the adapters.
        lora_dropout: Dropout of the adapters, 0 to 1.
        freeze_vision: Do not train the vision tower.
        gradient_checkpointing: Recompute activations: less memory, about a third more time.
        precision: ``auto`` (bfloat16 on CUDA, float32 elsewhere), ``bf16`` or ``fp32``.

        save_steps: Steps between checkpoints.
        keep_checkpoints: Number of newest checkpoints to keep.
        sample_steps: Steps between samples (answers with pictures); 0 = none.
        samples: Answers per sample.
        eval_data: Held-out data; '' = none.
        eval_limit: Maximum number of held-out rows; 0 = all.
        eval_steps: Steps between evaluations on held-out data. The first comes before training,
            the last after it.
        tensorboard: Write TensorBoard files, too.
    """

    method: Literal['grpo', 'sft'] = 'grpo'
    model: str = ''
    data: str = ''
    data_limit: int = 0
    output: str = ''
    seed: int = 42

    family: str = ''
    image_size: int = 0
    answer: Literal['box_points', 'box', 'points'] = 'box_points'
    think: bool = True
    imitate: Literal['wanted', 'every'] = 'wanted'

    reward_mode: Literal['hardened', 'released'] = 'hardened'
    answer_format: Literal['strict', 'soft'] = 'strict'
    accuracy: Literal['hard', 'soft'] = 'hard'
    extra_rewards: tuple[str, ...] = ()
    segmenter: str = ''
    segmenter_model: str = ''

    batch_size: int = 16
    micro_batch: int = 1
    epochs: float = 1.0
    max_steps: int = 0
    learning_rate: float = 1e-6
    schedule: Literal['constant', 'linear', 'cosine'] = 'constant'
    warmup_steps: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    num_generations: int = 8
    max_completion_tokens: int = 1300
    beta: float = 5e-3
    epsilon: float = 0.2
    epsilon_high: float = 0.0
    entropy: float = 1e-3
    loss: Literal['grpo', 'bnpo', 'dr_grpo', 'dapo'] = 'grpo'
    temperature: float = 1.0
    rollouts: Literal['transformers', 'vllm_colocate', 'vllm_server'] = 'transformers'
    vllm_url: str = 'http://localhost:8000'
    vllm_gpu_memory_utilization: float = 0.3
    vllm_tensor_parallel: int = 1

    lora_rank: int = 0
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    freeze_vision: bool = False
    gradient_checkpointing: bool = True
    precision: Literal['auto', 'bf16', 'fp32'] = 'auto'

    save_steps: int = 50
    keep_checkpoints: int = 2
    sample_steps: int = 20
    samples: int = 4
    eval_data: str = ''
    eval_limit: int = 100
    eval_steps: int = 100
    tensorboard: bool = False

    @property
    def task(self) -> Task:
        """The task of the model: the parts of an answer, with or without thinking."""
        return Task(self.answer, self.think)

    @property
    def recipe(self) -> Recipe:
        """The rewards that need only the text; ``mask_iou`` needs the segmenter."""
        extras = tuple(name for name in self.extra_rewards if name != 'mask_iou')
        recipe = Recipe(self.reward_mode, self.answer_format, self.accuracy, extras=extras)
        return self.task.recipe(recipe)


_FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}
_TYPES = typing.get_type_hints(TrainConfig)
_AT_LEAST = {
    **dict.fromkeys(
        ('batch_size', 'micro_batch', 'max_completion_tokens', 'save_steps', 'samples'), 1
    ),
    **dict.fromkeys(('keep_checkpoints', 'eval_steps', 'vllm_tensor_parallel'), 1),
    **dict.fromkeys(('data_limit', 'image_size', 'max_steps', 'lora_rank', 'sample_steps'), 0),
    **dict.fromkeys(('beta', 'epsilon', 'entropy', 'learning_rate', 'warmup_steps'), 0),
    **dict.fromkeys(('eval_limit', 'seed', 'weight_decay', 'max_grad_norm'), 0),
    **dict.fromkeys(('epsilon_high', 'lora_dropout', 'vllm_gpu_memory_utilization'), 0),
    'lora_alpha': 1,
}
_SEEDS = 2**32  # numpy's limit
_AT_MOST = {'seed': _SEEDS - 1, 'lora_dropout': 1, 'vllm_gpu_memory_utilization': 1}
_ABOVE_ZERO = ('epochs', 'temperature')


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration file with the files it inherits from, and apply overrides.

    ``base: other.yaml`` names the file that a file inherits from, relative to itself.

    Args:
        path: The YAML file.
        overrides: ``key=value`` each, the value in YAML.

    Raises:
        ConfigError: A file or key does not exist, or a value does not fit.
    """
    values = _read_file(path, ())
    for override in overrides:
        key, equals, text = override.partition('=')
        if not equals:
            raise ConfigError(f'{override!r} is not of the form key=value')
        values[key] = parse_yaml(text, f'the value of {key}')
    values['output'] = values.get('output') or f'runs/{path.stem}'
    config = TrainConfig(**{key: _convert(key, value) for key, value in values.items()})
    _check(config)
    return config


def save_config(config: TrainConfig, path: Path) -> None:
    """Write all settings: ``path`` alone is enough to repeat the run."""
    values = dataclasses.asdict(config) | {'extra_rewards': list(config.extra_rewards)}
    atomic_text(path, yaml.safe_dump(values, sort_keys=False))


def describe(config: TrainConfig) -> str:
    """Return the configuration as readable lines; ``*`` marks values other than the default."""
    lines = []
    for name, field in _FIELDS.items():
        value = getattr(config, name)
        mark = ' ' if value == field.default else '*'
        lines.append(f'{mark} {name}: {json.dumps(value)}')
    return '\n'.join(lines)


def _read_file(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = Path(os.path.realpath(path))  # resolve() raises another error at loops of links
    if path in seen:
        raise ConfigError(f'{path.name} inherits from itself: {" -> ".join(p.name for p in seen)}')
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        near = difflib.get_close_matches(path.stem, _presets(path.parent), n=1)
        hint = f' Did you mean {near[0]}.yaml?' if near else ''
        raise ConfigError(f'cannot read the configuration {path}: {error}.{hint}') from error
    values = parse_yaml(text, path.name)
    if not isinstance(values, dict):
        raise ConfigError(f'{path} has no settings: write lines such as "key: value"')
    if 'role' in values or values.get('method') in ('warm_up', 'masks'):  # named so before 0.2
        raise ConfigError(
            f'{path.name} trains a tiny model from random weights: use '
            'training/tiny_recipe/train.py with a file of config/tiny_recipe'
        )
    base = values.pop('base', None)
    inherited = {} if base is None else _read_file(path.parent / str(base), (*seen, path))
    for key in values:
        _check_key(key, path.name)
    return inherited | values


def _presets(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob('*.yaml')]


def parse_yaml(text: str, where: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        ConfigError: The text is not YAML; the message starts with ``where``.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise ConfigError(f'{where} is no YAML: {first_line(error)}') from error


def _check_key(key: Any, where: str) -> None:
    if key in _FIELDS:
        return
    if new_name(str(key)) in _FIELDS:
        raise ConfigError(f'the setting {key} in {where} is called {new_name(str(key))} now')
    near = difflib.get_close_matches(str(key), _FIELDS, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ConfigError(f'unknown setting {key!r} in {where}.{hint} All: {", ".join(_FIELDS)}')


def _convert(key: str, value: Any) -> Any:
    """Return ``value`` as the type of the setting ``key``."""
    _check_key(key, 'the command line')
    wanted = _TYPES[key]
    if typing.get_origin(wanted) is Literal:
        choices = typing.get_args(wanted)
        if value not in choices:
            raise ConfigError(f'{key} must be one of {", ".join(choices)}, got {value!r}')
        return value
    if typing.get_origin(wanted) is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise ConfigError(f'{key} must be a list of names, got {value!r}')
        return tuple(items)
    if wanted is float and not isinstance(value, bool):
        # YAML reads 1e-6 as text: it wants 1.0e-6.
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f'{key} must be a number, got {value!r}')
        return number
    if wanted is str and value is None:
        return ''
    if type(value) is not wanted:
        raise ConfigError(f'{key} must be {_kind(wanted)}, got {value!r}')
    return value


def _kind(wanted: type | types.GenericAlias) -> str:
    kinds = {int: 'a whole number', bool: 'true or false', str: 'text (in quotes)'}
    return kinds.get(wanted, str(wanted))  # type: ignore[arg-type]


def _check(config: TrainConfig) -> None:
    """Check ranges and combinations of values.

    Raises:
        ConfigError: A value is out of range or does not fit another one.
    """
    for key in ('model', 'data'):
        if not getattr(config, key):
            raise ConfigError(
                f'{key} is not set: add "{key}: ..." to the file, or {key}=... to the command'
            )
    for key, least in _AT_LEAST.items():
        if getattr(config, key) < least:
            raise ConfigError(f'{key} must be at least {least}, got {getattr(config, key)}')
    for key, most in _AT_MOST.items():
        if getattr(config, key) > most:
            raise ConfigError(f'{key} must be at most {most}, got {getattr(config, key)}')
    for key in _ABOVE_ZERO:
        if getattr(config, key) <= 0:
            raise ConfigError(f'{key} must be above 0, got {getattr(config, key)}')
    unknown = set(config.extra_rewards) - {'length', 'non_repeat', 'mask_iou'}
    if unknown:
        raise ConfigError(
            f'unknown extra reward {min(unknown)!r}: there are length, non_repeat and mask_iou'
        )
    if len(set(config.extra_rewards)) < len(config.extra_rewards):
        raise ConfigError(f'extra_rewards names one twice: {", ".join(config.extra_rewards)}')
    if 'mask_iou' in config.extra_rewards and not config.segmenter:
        raise ConfigError('the reward mask_iou needs a segmenter: set segmenter=sam2')
    if config.method == 'grpo' and config.num_generations < 2:
        raise ConfigError(
            f'num_generations must be at least 2, got {config.num_generations}: GRPO compares '
            'answers to the same sentence'
        )
