# SPDX-License-Identifier: Apache-2.0
"""The settings of an evaluation: command-line flags, and presets in YAML files."""

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
from segzero_core.renamed import RENAMED_OPTIONS, new_name
from segzero_core.runtime.text_files import read_text
from segzero_core.segmenters import SEGMENTERS
from training.config import parse_yaml

ANSWERS = ('box_points', 'box', 'points')
PROTOCOLS = ('standard', 'released')


def _setting(default: Any, help_text: str, choices: Sequence[str] = ()) -> Any:
    return field(default=default, metadata={'help': help_text, 'choices': choices})


@dataclass(frozen=True)
class EvalConfig:
    """The settings of an evaluation; the help text of each is its documentation."""

    dataset: str = _setting('', 'dataset: refcoco:testA, a hub id, a folder, ...')
    root: str = _setting('', 'folder of a dataset that is known by name')
    level: str = _setting('', 'one sentence per object (instance) or every one (expression)')
    limit: int = _setting(0, 'use only the first rows; 0 = all')
    reasoner: str = _setting(
        '', 'engine; transformers if a model is given, else rules', tuple(REASONERS)
    )
    model: str = _setting('', "the reasoner's model: a hub id or a folder")
    reasoner_options: tuple[str, ...] = _setting((), 'another option of the engine, key=value')
    family: str = _setting('', "prompt family; default: the model's own", tuple(FAMILIES))
    answer: str = _setting('', "what the model is asked for; default: the model's own", ANSWERS)
    think: str = _setting(
        '', "whether the model thinks first; default: the model's own", ('yes', 'no')
    )
    max_new_tokens: int = _setting(0, "maximum length of a reply; 0 = the engine's default")
    segmenter: str = _setting(
        '', 'engine; sam2 with a model, grabcut with rules', tuple(SEGMENTERS)
    )
    segmenter_model: str = _setting('', "the segmenter's model: a hub id, folder or file")
    segmenter_prompt: str = _setting(
        '', 'part of the answer that the segmenter gets; default: all', ANSWERS
    )
    protocol: str = _setting('standard', 'how answers are read and masks scored', PROTOCOLS)
    device: str = _setting('', 'cpu, cuda, cuda:1, ...; default: CUDA if there is any')
    batch_size: int = _setting(16, 'sentences asked together')
    output: str = _setting('', 'folder of the run; default: runs/eval/DATASET-MODEL')


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting; flags that are not given leave no attribute."""
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
            help=words + (f'; default: {default}' if default else ''),
        )
        for old, new in RENAMED_OPTIONS.items():  # make_config names the new one
            if new == entry.name:
                flag = '--' + old.replace('_', '-')
                parser.add_argument(
                    flag, dest=old, default=argparse.SUPPRESS, help=argparse.SUPPRESS
                )


def make_config(preset: Path | None, flags: dict[str, Any]) -> EvalConfig:
    """Return checked settings: those of a preset, overridden by ``flags``, completed by defaults.

    Raises:
        ConfigError: A setting does not exist, or a value does not fit.
    """
    values = {**(_read(preset) if preset else {}), **flags}
    known = {entry.name: entry for entry in dataclasses.fields(EvalConfig)}
    if isinstance(values.get('think'), bool):  # YAML takes yes and no for truth values
        values['think'] = 'yes' if values['think'] else 'no'
    for key, value in values.items():
        if key not in known and (renamed := new_name(str(key))) in known:
            raise ConfigError(f'the setting {key} is called {renamed} now')
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
    """Fill in the defaults that depend on other settings."""
    if not config.dataset:
        raise ConfigError('no dataset is given: use --dataset refcoco:testA, or a folder')
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
    """Return the name of the run's folder: dataset, model and what the flags ask for."""
    path = Path(config.model)
    of_training = path.name == 'model' or path.name.startswith('checkpoint-')
    parts = [
        config.dataset,
        '-'.join(path.parts[-2:] if of_training else path.parts[-1:]) or reasoner,
        config.level,
        config.answer and f'asked_{config.answer}',
        config.think and f'think_{config.think}',
        config.segmenter_prompt and f'prompt_{config.segmenter_prompt}',
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
            f'cannot read the preset {file} ({first_line(error)}); its folder has: '
            f'{there or "none"}'
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f'{file} holds no settings: write "key: value" lines')
    return values


def _is_list(entry: dataclasses.Field[Any]) -> bool:
    return isinstance(entry.default, tuple)
