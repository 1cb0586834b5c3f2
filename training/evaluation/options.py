# SPDX-License-Identifier: Apache-2.0
"""What an evaluation is decided by: flags, and presets of them in YAML files."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segzero_core.errors import ConfigError, UnknownNameError, first_line
from segzero_core.prompts import FAMILIES
from segzero_core.reasoners import REASONERS
from segzero_core.registry import look_up
from segzero_core.runtime.text_files import read_text
from segzero_core.segmenters import SEGMENTERS
from segzero_core.task import Task
from training.config import parse_yaml

ANSWERS = ('box_points', 'box', 'points')
PROTOCOLS = ('standard', 'released')


def _setting(default: Any, words: str, choices: Sequence[str] = ()) -> Any:
    return field(default=default, metadata={'help': words, 'choices': choices})


@dataclass(frozen=True)
class EvalConfig:
    """Everything the rows of an evaluation are decided by, each explained where it stands."""

    dataset: str = _setting('', 'what to measure on: refcoco:testA, a hub id, a folder, ...')
    root: str = _setting('', 'the folder a dataset that is known by name lies in')
    level: str = _setting('', 'one sentence per thing (instance) or all of them (expression)')
    limit: int = _setting(0, 'measure on the first so many rows; 0 for all')
    reasoner: str = _setting(
        '', 'engine; transformers where a model is given, else rules', tuple(REASONERS)
    )
    model: str = _setting('', "the reasoner's model: a hub id or a folder")
    reasoner_options: tuple[str, ...] = _setting((), "more of the engine's options, key=value")
    family: str = _setting('', "prompt family; the model's own if absent", tuple(FAMILIES))
    answer: str = _setting('', "what is asked for; the model's own if absent", ANSWERS)
    think: str = _setting('', "whether to think first; the model's own if absent", ('yes', 'no'))
    max_new_tokens: int = _setting(0, "longest reply; 0 = the engine's default")
    segmenter: str = _setting(
        '', 'engine; sam2 beside a model, grabcut beside rules', tuple(SEGMENTERS)
    )
    segmenter_model: str = _setting('', "the segmenter's model: a hub id, folder or file")
    prompt: str = _setting('', 'what of the answer the segmenter gets; all if absent', ANSWERS)
    protocol: str = _setting('standard', 'how answers are read and masks counted', PROTOCOLS)
    device: str = _setting('', 'cpu, cuda, cuda:1, ...; CUDA when there is one if absent')
    batch_size: int = _setting(16, 'sentences at once')
    output: str = _setting('', 'folder of the run; runs/eval/DATASET-MODEL if absent')

    @property
    def task(self) -> Task | None:
        """What is asked for, where that is not left to the model."""
        if not self.answer and not self.think:
            return None
        return Task(self.answer or 'box_points', self.think != 'no')  # type: ignore[arg-type]

    def identity(self) -> dict[str, Any]:
        """Return the settings that two parts of one run must share."""
        free = ('device', 'batch_size', 'output', 'root')
        values = dataclasses.asdict(self) | {'reasoner_options': list(self.reasoner_options)}
        return {key: value for key, value in values.items() if key not in free}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting; one that is not given stays unset."""
    for entry in dataclasses.fields(EvalConfig):
        flag = '--' + entry.name.replace('_', '-').removesuffix('s' if _is_list(entry) else '')
        choices = entry.metadata['choices']
        words = entry.metadata['help'] + (f' (one of {", ".join(choices)})' if choices else '')
        default = entry.default if entry.default else ''
        parser.add_argument(
            flag,
            dest=entry.name,
            type=int if isinstance(entry.default, int) else str,
            action='append' if _is_list(entry) else 'store',
            default=argparse.SUPPRESS,
            metavar='KEY=VALUE' if _is_list(entry) else entry.name.rpartition('_')[2].upper(),
            help=words + (f'; {default}' if default else ''),
        )


def make_config(preset: Path | None, flags: dict[str, Any]) -> EvalConfig:
    """Return the settings of a preset with ``flags`` over them, completed and checked.

    Raises:
        ConfigError: A setting that does not exist, or a value it cannot have.
    """
    values = {**(_read(preset) if preset else {}), **flags}
    known = {entry.name: entry for entry in dataclasses.fields(EvalConfig)}
    if isinstance(values.get('think'), bool):  # YAML takes yes and no for truth values
        values['think'] = 'yes' if values['think'] else 'no'
    for key, value in values.items():
        try:
            look_up('setting', key, known)
            if known[key].metadata['choices'] and value != '':
                look_up(key, str(value), known[key].metadata['choices'])
        except UnknownNameError as error:
            raise ConfigError(f'{preset}: {error}' if preset else str(error)) from error
        wanted = type(known[key].default)
        if _is_list(known[key]) and isinstance(value, list):
            values[key] = tuple(str(item) for item in value)
        elif type(value) is not wanted:
            raise ConfigError(f'{key} must be of type {wanted.__name__}, got {value!r}')
    return _completed(EvalConfig(**values))


def _completed(config: EvalConfig) -> EvalConfig:
    """Fill in what depends on other settings."""
    if not config.dataset:
        raise ConfigError('say what to measure on: --dataset refcoco:testA, or a folder')
    if config.batch_size < 1 or config.limit < 0:
        raise ConfigError(
            f'batch_size must be at least 1 and limit at least 0, got {config.batch_size} and '
            f'{config.limit}'
        )
    reasoner = config.reasoner or ('transformers' if config.model else 'rules')
    segmenter = config.segmenter or ('grabcut' if reasoner == 'rules' else 'sam2')
    return dataclasses.replace(
        config,
        reasoner=reasoner,
        segmenter=segmenter,
        output=config.output or str(Path('runs', 'eval', _run_name(config, reasoner))),
    )


def _run_name(config: EvalConfig, reasoner: str) -> str:
    """Return the name of the run's folder: what is measured, and what is asked for by a flag."""
    path = Path(config.model)
    of_training = path.name == 'model' or path.name.startswith('checkpoint-')
    parts = [
        config.dataset,
        '-'.join(path.parts[-2:] if of_training else path.parts[-1:]) or reasoner,
        config.level,
        config.answer and f'asked_{config.answer}',
        config.think and f'think_{config.think}',
        config.prompt and f'prompt_{config.prompt}',
        config.protocol if config.protocol != 'standard' else '',
        f'first_{config.limit}' if config.limit else '',
    ]
    return re.sub(r'[^\w.+-]+', '_', '-'.join(part for part in parts if part))


def _read(file: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_text(file), file.name)
    except (OSError, UnicodeDecodeError) as error:
        there = ', '.join(sorted(path.name for path in file.parent.glob('*.yaml')))
        raise ConfigError(
            f'cannot read the preset {file} ({first_line(error)}); beside it there are: '
            f'{there or "none"}'
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f'{file} holds no settings: write "key: value" lines')
    return values


def _is_list(entry: dataclasses.Field[Any]) -> bool:
    return isinstance(entry.default, tuple)
