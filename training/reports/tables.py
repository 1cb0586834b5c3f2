# SPDX-License-Identifier: Apache-2.0
"""Tables of published and measured figures, as Markdown and CSV."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from training.reports.runs import Column, EvaluatedRun, Measured, system_of

_PAPER = 'the paper'
_NONE = '-'
_NAMES = {'giou': 'gIoU', 'ciou': 'cIoU', 'accuracy': 'accuracy'}


OVERVIEW = {
    'giou': 'gIoU',
    'ciou': 'cIoU',
    'precision_0.5': 'P@0.5',
    'precision_0.7': 'P@0.7',
    'precision_0.9': 'P@0.9',
    'box_accuracy': 'box accuracy',
    'point_accuracy': 'point accuracy',
    'no_target_accuracy': 'N-acc',
    'target_accuracy': 'T-acc',
    'accuracy': 'accuracy',
}


class Table(NamedTuple):
    """A table of text.

    Attributes:
        name: Name of its file, such as ``table_6``.
        title: Its title.
        head: Name of each column.
        rows: The cells of each row.
    """

    name: str
    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.head, ['---'] * len(self.head), *self.rows]
        body = (
            '| ' + ' | '.join(cell.replace('|', '\\|') for cell in line) + ' |' for line in lines
        )
        return f'## {self.title}\n\n' + '\n'.join(body) + '\n'

    def csv(self) -> str:
        """Return the table as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows([self.head, *self.rows])
        return text.getvalue()


@functools.cache
def published() -> list[dict[str, Any]]:
    """Return the published tables of ``published.yaml``."""
    file = Path(__file__).with_name('published.yaml')
    tables: list[dict[str, Any]] = yaml.safe_load(file.read_text(encoding='utf-8'))['tables']
    return tables


def paper_tables(measured: Sequence[Measured]) -> list[Table]:
    """Return the paper's tables, each with the measured rows that belong to it.

    A run stands below the row of its training preset or of the released model that it measured. In
    the open comparisons (Tables 6 and 7, Figure 5) all other runs follow at the end.
    """
    return [_paper_table(table, measured) for table in published()]


def overview(runs: Sequence[EvaluatedRun]) -> Table:
    """Return the table of all measurements, one row per run."""
    rows = []
    for run in sorted(runs, key=lambda run: (run.dataset, system_of(run), run.step or 0)):
        counts, figures = run.summary['counts'], run.figures()

        def show(name: str, run: EvaluatedRun = run, figures: Any = figures) -> str:
            cell = figures.get((run.dataset, name))
            return str(cell) if cell else _NONE

        released = (
            run.summary.get('released', {}) if run.settings['protocol'] == 'released' else {}
        )
        rows.append(
            [
                run.dataset,
                run.settings.get('level', ''),
                system_of(run),
                '' if run.step is None else run.settings['model'],
                str(run.summary['rows']),
                *(show(name) for name in OVERVIEW),
                f'{100 * counts["parse_failure_rate"]:.1f}',
                str(counts['cut_off']),
                f'{100 * counts["repair_rate"]:.1f}',
                str(counts['error']),
                str(released.get('dropped', 0)),
            ]
        )
    head = ['dataset', 'level', 'system', 'checkpoint', 'rows', *OVERVIEW.values()]
    head += ['unreadable %', 'cut off', 'repaired %', 'bad data', 'left out']
    return Table('measured', 'What was measured', head, rows)


def _paper_table(table: dict[str, Any], measured: Sequence[Measured]) -> Table:
    columns: list[Column] = [(dataset, metric) for dataset, metric in table['columns']]
    rows, shown = [], set()
    for entry in table['rows']:
        values = [_NONE if value is None else f'{value:.1f}' for value in entry['values']]
        source = entry.get('source', _PAPER)
        rows.append([entry['system'], source, 'published', *values])
        for row in measured:
            its_own = row.model in (entry.get('preset'), entry['system'])
            if its_own and id(row) not in shown:
                shown.add(id(row))
                rows += _measured_row(row, columns)
    for row in measured if table.get('open') else ():
        if id(row) not in shown:
            rows += _measured_row(row, columns)
    head = ['system', 'source', 'checkpoint']
    head += [f'{dataset} {_NAMES[metric]}' for dataset, metric in columns]
    number = table['name']
    name = number if ' ' in number else f'Table {number}'
    return Table(name.lower().replace(' ', '_'), f'{name}: {table["title"]}', head, rows)


def _measured_row(row: Measured, columns: Sequence[Column]) -> list[list[str]]:
    """Return the row if it has a value for one of the columns."""
    cells = [row.figures.get(column) for column in columns]
    if not any(cells):
        return []
    return [
        [row.system, '**measured**', row.choice, *(str(cell) if cell else _NONE for cell in cells)]
    ]
