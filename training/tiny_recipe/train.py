# SPDX-License-Identifier: Apache-2.0
"""Trains the tiny models from random weights on synthetic scenes, on a CPU.

``python training/tiny_recipe/train.py --config config/tiny_recipe/NAME.yaml [key=value]``, where
``role`` is the model to train: ``reasoner`` or ``segmenter``. The same command started again
after an interruption continues from the last saved state.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == '__main__':  # before the heavy imports, so that signals are handled already
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from segzero_core.runtime.program import run_program

    _INTERRUPTED = 'interrupted; the same command continues from the last saved state'
    sys.exit(run_program('train.py', 'training.tiny_recipe.train:main', interrupted=_INTERRUPTED))

from segzero_core.errors import ConfigError, UnknownNameError
from segzero_core.registry import look_up
from segzero_core.runtime.atomic import atomic_text
from segzero_core.runtime.text_files import read_text
from segzero_core.synthetic import KINDS
from training.config import parse_yaml
from training.files import changed_settings, claimed, explained_os_errors
from training.metrics_log import append_metrics
from training.tiny_recipe.reasoner_loop import Phase, ReasonerSettings, train_reasoner
from training.tiny_recipe.segmenter_loop import SegmenterSettings, train_segmenter

_NOTE = 'settings.json'
_ROLES: dict[str, type[ReasonerSettings] | type[SegmenterSettings]] = {
    'reasoner': ReasonerSettings,
    'segmenter': SegmenterSettings,
}
_RESULTS = ('start', 'resume.pt', 'model')  # a run that has one of them keeps its settings
_AT_LEAST_ONE = ('scenes', 'steps', 'batch', 'prompts', 'middle', 'zoom', 'save_every')
_FREE = ('output', 'cache', 'save_every')  # may differ when a run continues: no effect on weights


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = make_parser().parse_args(arguments)
    with explained_os_errors():
        train_model(read_settings(options.config, options.overrides))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog='train.py', description='Train a tiny reasoner or segmenter from random weights.'
    )
    parser.add_argument('--config', type=Path, required=True, help='a file of config/tiny_recipe')
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='settings to change')
    return parser


def train_model(settings: ReasonerSettings | SegmenterSettings) -> Path:
    """Train a tiny model, print and record progress, and return the folder of the model.

    Raises:
        ConfigError: The folder holds a run with other settings, or another process works there.
        TrainingError: A loss is not finite, or the state cannot be saved.
    """

    def report(line: dict[str, float]) -> None:
        append_metrics(settings.output, line)
        print(' '.join(f'{name} {value:.4g}' for name, value in line.items()), flush=True)

    with claimed(settings.output):
        _check_same_run(settings)
        print(settings, flush=True)
        if isinstance(settings, SegmenterSettings):
            model = train_segmenter(settings, report)
        else:
            model = train_reasoner(settings, report)
        print(f'the model is in {model}')
    return model


def _check_same_run(settings: ReasonerSettings | SegmenterSettings) -> None:
    """Record the settings in the run's folder, or check that they are the recorded ones."""
    now = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    now = {key: value for key, value in now.items() if key not in _FREE}
    file = settings.output / _NOTE
    if file.is_file() and any((settings.output / name).exists() for name in _RESULTS):
        if found := changed_settings(json.loads(file.read_text(encoding='utf-8')), now):
            raise ConfigError(
                f'{settings.output} holds a run with other settings: {", ".join(found)}. Start it '
                'again with the settings it had, or choose another output=...'
            )
        return
    atomic_text(file, json.dumps(now, indent=1))


def read_settings(file: Path, overrides: Sequence[str]) -> ReasonerSettings | SegmenterSettings:
    """Return the settings in a YAML file, changed by ``key=value``, the value in YAML.

    Raises:
        ConfigError: A key does not exist or a value does not fit.
    """
    try:
        values = parse_yaml(read_text(file), file.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'cannot read the configuration {file}: {error}') from error
    if not isinstance(values, dict) or str(values.get('role')) not in _ROLES:
        raise ConfigError(
            f'{file} names no tiny model to train: write "role: reasoner" or "role: segmenter" '
            'there. The configurations in config/training belong to training/train.py'
        )
    kind = _ROLES[values.pop('role')]
    values.setdefault('output', f'runs/{file.stem}')
    for override in overrides:
        key, equals, text = override.partition('=')
        if not equals:
            raise ConfigError(f'{override!r} is not of the form key=value')
        values[key] = parse_yaml(text, f'the value of {key}')
    if 'phases' in values:
        values['phases'] = _phases(values['phases'])
    settings: ReasonerSettings | SegmenterSettings = _make(kind, values)
    return settings


def _phases(values: Any) -> list[Phase]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ConfigError(f'phases must be a list of mappings, got {values!r}')
    if not values:
        raise ConfigError('phases is empty: say at least one')
    phases = [_make(Phase, value) for value in values]
    for kind in (kind for phase in phases for kind in phase.kinds):
        if kind not in KINDS:
            raise ConfigError(f'unknown kind of sentence {kind!r}: there are {", ".join(KINDS)}')
    return phases


def _make(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Return a dataclass of ``values``, each made the type its field has.

    Raises:
        ConfigError: There is no such field, one is missing, or a value does not fit.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    made = {}
    for key, value in values.items():
        try:
            field = fields[look_up('setting', key, fields)]
            made[key] = _TYPES[str(field.type)](value)
        except UnknownNameError as error:
            raise ConfigError(str(error)) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f'{key} must be of type {field.type}, got {value!r}') from error
        least = 1 if key in _AT_LEAST_ONE else 0
        if isinstance(made[key], (int, float)) and made[key] < least:
            raise ConfigError(f'{key} must be at least {least}, got {value!r}')
    try:
        return kind(**made)
    except TypeError as error:
        raise ConfigError(f'{error}: add it to the file or the command line') from error


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _number(value: Any) -> float:
    number = float(value)  # of a text, too: YAML takes 1e-3 for one
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError
    return number


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError
    return value or ''


def _names(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value:
        raise TypeError
    return tuple(value)


_TYPES: dict[str, Callable[[Any], Any]] = {
    'int': _whole,
    'float': _number,
    'str': _text,
    'Path': Path,
    'tuple[Phase, ...]': tuple,
    'tuple[str, ...]': _names,
}
