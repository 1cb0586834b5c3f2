# SPDX-License-Identifier: Apache-2.0
"""Finished runs grouped by system: a single checkpoint, or the last and the best of k."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segzero_core.errors import DataError

Column = tuple[str, str]  # dataset and metric


class Cell(NamedTuple):
    """A figure in percent and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.value:.1f} ({self.low:.1f} to {self.high:.1f})'


class EvaluatedRun(NamedTuple):
    """One finished evaluation.

    Attributes:
        folder: Its folder.
        settings: Its settings.
        summary: Its metrics.
        dataset: Name of the dataset as in published figures.
        model: Name of the model, or of the training that a checkpoint belongs to.
        step: Step of that checkpoint; infinity for the training's result, None without a training.
    """

    folder: Path
    settings: dict[str, Any]
    summary: dict[str, Any]
    dataset: str
    model: str
    step: float | None

    def figures(self) -> dict[Column, Cell]:
        """Return the metrics by dataset and name."""
        parts = {**self.summary, **self.summary.get(self.settings['protocol'], {})}
        return {
            (self.dataset, name): Cell(*(100 * part[key] for key in ('value', 'low', 'high')))
            for name, part in parts.items()
            if isinstance(part, dict) and 'low' in part
        }


class Measured(NamedTuple):
    """A row of a table: the system, how its checkpoint was chosen, and its metrics."""

    system: str
    model: str
    choice: str
    figures: dict[Column, Cell]


def read_run(folder: Path) -> EvaluatedRun:
    """Read a finished evaluation.

    Raises:
        DataError: The folder holds none, or it is not finished.
    """
    file = folder / 'summary.json'
    try:
        summary = json.loads(file.read_text(encoding='utf-8'))
        settings = summary['settings']
        name, model, step = settings['dataset'], *_model_of(settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{folder} holds no finished evaluation ({type(error).__name__}: {error}): give the '
            'folder that training/evaluate.py wrote to, or start that again to finish it'
        ) from error
    return EvaluatedRun(
        folder, settings, summary, known_name(name, settings.get('level', '')), model, step
    )


def known_name(dataset: str, level: str = '') -> str:
    """Return the name of a dataset as in published figures.

    ``Ricky06662/ReasonSeg_val`` becomes ``reasonseg:val``. A dataset with every expression about
    an object is a different one, ``refcoco:val_all``. Other names are returned unchanged.
    """
    last = Path(dataset).name.replace('refcocoplus', 'refcoco+')
    found = re.fullmatch(r'(?i)(refcoco[+g]?|reasonseg|chartqa|textvqa)([:_])(\w+?)(_all)?', last)
    if not found:
        return dataset
    name, mark, split, every = found.groups()
    name = name.lower()
    # Datasets of the hub are known by name, and question sets have only one level.
    by_level = mark == ':' and level == 'expression' and not name.endswith('qa')
    return f'{name}:{split}{"_all" if every or by_level else ""}'


def put_together(runs: Sequence[EvaluatedRun]) -> list[Measured]:
    """Return one row per system, or two if several of its checkpoints were measured.

    ``last checkpoint`` was fixed before the measurement. ``best of k`` is the maximum of each
    column, as published figures often are.

    Raises:
        DataError: The same system was measured twice on one dataset.
    """
    groups: dict[str, dict[float | None, dict[str, EvaluatedRun]]] = {}
    for run in runs:
        at_step = groups.setdefault(system_of(run), {}).setdefault(run.step, {})
        if run.dataset in at_step:
            raise DataError(
                f'{run.folder} and {at_step[run.dataset].folder} measured the same: give one'
            )
        at_step[run.dataset] = run
    rows = []
    for system, by_step in groups.items():
        figures = {
            step: {key: cell for run in at.values() for key, cell in run.figures().items()}
            for step, at in by_step.items()
        }
        model = next(iter(next(iter(by_step.values())).values())).model
        if len(figures) == 1:
            ((step, only),) = figures.items()
            rows.append(Measured(system, model, _name_of(step), only))
            continue
        last = max(step for step in figures if step is not None)
        rows.append(Measured(system, model, f'last checkpoint ({_name_of(last)})', figures[last]))
        rows.append(Measured(system, model, f'best of {len(figures)}', _best(figures.values())))
    return rows


def system_of(run: EvaluatedRun) -> str:
    """Return a description of the measured system, without its checkpoint."""
    settings = run.settings
    segmenter = Path(settings['segmenter_model']).name or settings['segmenter']
    parts = [f'{run.model} + {segmenter}']
    parts += [f'asked as {settings["family"]}'] if settings['family'] else []
    parts += [f'asked for {settings["answer"]}'] if settings['answer'] else []
    parts += ['without thinking'] if settings['think'] == 'no' else []
    parts += (
        [f'prompted with {settings["segmenter_prompt"]}'] if settings['segmenter_prompt'] else []
    )
    parts += [f'protocol {settings["protocol"]}'] if settings['protocol'] != 'standard' else []
    parts += [f'first {settings["limit"]} rows'] if settings['limit'] else []
    return ', '.join(parts)


def _model_of(settings: dict[str, Any]) -> tuple[str, float | None]:
    path = Path(settings['model'] or settings['reasoner'])
    if path.name == 'model' and path.parent.name:
        return path.parent.name, float('inf')
    if found := re.fullmatch(r'checkpoint-(\d+)', path.name):
        return path.parent.name, int(found.group(1))
    return path.name, None


def _name_of(step: float | None) -> str:
    if step is None:
        return 'the only one'
    return 'its result' if step == float('inf') else f'step {step:.0f}'


def _best(figures: Any) -> dict[Column, Cell]:
    best: dict[Column, Cell] = {}
    for found in figures:
        for key, cell in found.items():
            best[key] = max(cell, best.get(key, cell))
    return best
