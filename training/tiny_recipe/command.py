# SPDX-License-Identifier: Apache-2.0
"""``method: warm_up`` and ``method: masks`` of the training command line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from segzero_core.errors import ConfigError, UnknownNameError
from segzero_core.registry import look_up
from segzero_core.runtime.text_files import read_text
from segzero_core.synthetic import KINDS
from training.changed import changed
from training.config import parse_yaml
from training.files import claimed, write_whole
from training.metrics_log import append_metrics
from training.tiny_recipe.loop import Phase, WarmUpSettings, warm_up
from training.tiny_recipe.segmenter_loop import SegmenterSettings, train_masks

_NOTE = 'settings.json'
_LEFT = ('start', 'resume.pt', 'model')  # by a run that has come to anything
# At least one of each; other numbers may be 0.
_COUNTS = ('scenes', 'steps', 'batch', 'prompts', 'middle', 'zoom', 'save_every')
_FREE = ('output', 'cache', 'save_every')  # nothing that changes what is learnt


def run_from_scratch(file: Path, overrides: Sequence[str]) -> None:
    """Train as a configuration file and ``key=value`` overrides say; print and keep progress.

    Raises:
        ConfigError: A key does not exist, a value does not fit, the run was begun with others, or
            another process is at work on it.
        TrainingError: A loss is not a number.
    """
    settings = read_settings(file, overrides)
    with claimed(settings.output):
        _run(settings)


def _run(settings: WarmUpSettings | SegmenterSettings) -> None:
    _begin(settings)
    print(settings, flush=True)

    def report(line: dict[str, float]) -> None:
        append_metrics(settings.output, line)
        print(' '.join(f'{name} {value:.4g}' for name, value in line.items()), flush=True)

    if isinstance(settings, SegmenterSettings):
        model = train_masks(settings, report)
    else:
        model = warm_up(settings, report)
    print(f'the model is in {model}')


def _begin(settings: WarmUpSettings | SegmenterSettings) -> None:
    """Note the settings in the run's folder; make sure that it was begun with no others."""
    now = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    now = {key: value for key, value in now.items() if key not in _FREE}
    file = settings.output / _NOTE
    if file.is_file() and any((settings.output / name).exists() for name in _LEFT):
        if found := changed(json.loads(file.read_text(encoding='utf-8')), now):
            raise ConfigError(
                f'{settings.output} holds a run with other settings: {", ".join(found)}. Start it '
                'again with the settings it had, or choose another output=...'
            )
        return
    write_whole(file, json.dumps(now, indent=1))


def read_settings(file: Path, overrides: Sequence[str]) -> WarmUpSettings | SegmenterSettings:
    """Return the settings in a YAML file, changed by ``key=value``, the value in YAML.

    Raises:
        ConfigError: A key does not exist or a value does not fit.
    """
    values = yaml.safe_load(read_text(file))
    kind = {'warm_up': WarmUpSettings, 'masks': SegmenterSettings}[values.pop('method')]
    values.setdefault('output', f'runs/{file.stem}')
    for override in overrides:
        key, equals, text = override.partition('=')
        if not equals:
            raise ConfigError(f'{override!r} is not of the form key=value')
        values[key] = parse_yaml(text, f'the value of {key}')
    if 'phases' in values:
        values['phases'] = _phases(values['phases'])
    settings: WarmUpSettings | SegmenterSettings = _make(kind, values)
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
        least = 1 if key in _COUNTS else 0
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
