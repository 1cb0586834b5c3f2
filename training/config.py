# SPDX-License-Identifier: Apache-2.0
"""One typed configuration for every training: YAML files that inherit, and ``key=value``."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from segzero_core.errors import ConfigError, first_line
from segzero_core.rewards.hardened import Recipe
from segzero_core.runtime.atomic import atomic_text
from segzero_core.runtime.text_files import read_text
from segzero_core.task import Task


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training is decided by.

    Attributes:
        method: ``grpo`` (reinforcement learning) or ``sft`` (supervised).
        model: The reasoner to start from: a folder or a hub id.
        data: What to learn from, see ``segzero_core.data.read_dataset``.
        data_limit: Use at most so many rows; 0 for all.
        output: Folder of the run; '' = ``runs/<name of the configuration>``.
        seed: Of data order, sampling and adapters.

        family: Prompt family; '' = the checkpoint's own.
        image_size: Side of the square the model sees, in pixels; 0 = the family's.
        answer: What is asked for: ``box_points``, ``box`` or ``points``.
        think: Whether the model is to think before it answers.
        imitate: What supervision shows: the ``wanted`` form of answer, or ``every`` form in turn
            (with and without thinking; box, points and both; other keys), so that rewards have
            something to choose from.

        reward_mode: ``hardened``, or ``released`` as the original code computes them.
        answer_format: ``strict`` or ``soft`` (Table 4 of the paper).
        accuracy: ``hard`` (thresholds) or ``soft`` (Table 3).
        extra_rewards: Any of ``length``, ``non_repeat``, ``mask_iou``.
        segmenter: The frozen one of ``mask_iou`` and of the pictures: ``sam2``, ``grabcut``; ''.
        segmenter_model: Its folder or hub id; '' = the engine's default.

        batch_size: Sentences per optimiser step, over all processes.
        micro_batch: Sequences per device that go through the model at once.
        epochs: Passes over the data; the last incomplete batch is dropped.
        max_steps: Optimiser steps; 0 = as many as ``epochs`` makes.
        learning_rate: The highest.
        schedule: ``constant``, ``linear`` or ``cosine``.
        warmup_steps: Over which the learning rate rises.
        weight_decay: Of AdamW.
        max_grad_norm: Gradients are clipped to this norm.

        num_generations: Answers per sentence.
        max_completion_tokens: Longest answer.
        beta: Weight of the KL divergence from the starting model.
        epsilon: Clipping of the probability ratio.
        epsilon_high: Its upper bound; 0 = ``epsilon``.
        entropy: Weight of the entropy bonus.
        loss: TRL's ``loss_type``: ``grpo`` is the released code's at micro-batch 1, ``bnpo``
            above.
        temperature: Of sampling.
        rollouts: Who writes the answers: ``transformers``, ``vllm_colocate``, ``vllm_server``.
        vllm_url: Of the server.
        vllm_memory: Share of the GPU's memory for a colocated vLLM.
        vllm_tensor_parallel: GPUs per colocated vLLM.

        lora_rank: Of the adapters; 0 = full fine-tuning.
        lora_alpha: Their scale.
        lora_dropout: Their dropout.
        freeze_vision: Leave the vision tower as it is.
        gradient_checkpointing: Less memory, a third more time.
        precision: ``auto`` (bfloat16 on CUDA, float32 elsewhere), ``bf16`` or ``fp32``.

        save_steps: Steps between checkpoints.
        keep_checkpoints: How many are kept.
        sample_steps: Steps between sampled answers with their pictures; 0 = none.
        samples: How many each time.
        eval_data: Held-out data; '' = none.
        eval_limit: Rows of it; 0 = all.
        eval_steps: Steps between evaluations; also before the first and after the last.
        tensorboard: Write TensorBoard files too.
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
    vllm_memory: float = 0.3
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
        """What the model is asked for."""
        return Task(self.answer, self.think)

    @property
    def recipe(self) -> Recipe:
        """The rewards of text alone; ``mask_iou`` needs the segmenter and is not among them."""
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
    **dict.fromkeys(('epsilon_high', 'lora_dropout', 'vllm_memory'), 0),
    'lora_alpha': 1,
}
_AT_MOST = {'seed': 2**32 - 1, 'lora_dropout': 1, 'vllm_memory': 1}  # numpy's for the seed
_ABOVE_ZERO = ('epochs', 'temperature')


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration file, what it inherits from, and overrides.

    A file names the one it inherits from as ``base: other.yaml``, relative to itself.

    Args:
        path: The YAML file.
        overrides: ``key=value``, the value in YAML.

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
    """Write every setting, so that ``path`` alone repeats the run."""
    values = dataclasses.asdict(config) | {'extra_rewards': list(config.extra_rewards)}
    atomic_text(path, yaml.safe_dump(values, sort_keys=False))


def describe(config: TrainConfig) -> str:
    """Return the configuration as lines for a person; what is not the default is marked."""
    lines = []
    for name, field in _FIELDS.items():
        value = getattr(config, name)
        mark = ' ' if value == field.default else '*'
        lines.append(f'{mark} {name}: {json.dumps(value)}')
    return '\n'.join(lines)


def _read_file(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
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
        raise ConfigError(f'{path} holds no settings: write "key: value" lines')
    base = values.pop('base', None)
    inherited = {} if base is None else _read_file(path.parent / str(base), (*seen, path))
    for key in values:
        _check_key(key, path.name)
    return inherited | values


def _presets(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob('*.yaml')]


def parse_yaml(text: str, where: str) -> Any:
    """Return what a YAML text holds.

    Raises:
        ConfigError: It is none; the message begins with ``where``.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise ConfigError(f'{where} is no YAML: {first_line(error)}') from error


def _check_key(key: Any, where: str) -> None:
    if key in _FIELDS:
        return
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
    """Check what goes together; raises ``ConfigError``."""
    for key in ('model', 'data'):
        if not getattr(config, key):
            raise ConfigError(f'{key} is not set: add "{key}: ..." to the file or {key}=...')
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
