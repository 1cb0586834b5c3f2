# SPDX-License-Identifier: Apache-2.0
"""Draws the curves of trainings: ``python training/plot.py RUN... [--output FOLDER]``.

``lengths.png`` is Figure 7 of Seg-Zero (completion length: mean, shortest and longest),
``rewards.png`` is Figure 8 (every reward). Several runs share the pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == '__main__':  # before the heavy imports, so that signals are handled already
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from segzero_core.runtime.program import run_program

    sys.exit(run_program('plot.py', 'training.plot:main'))

from segzero_core.errors import DataError
from segzero_core.fonts import machine_fonts
from segzero_core.runtime.atomic import atomic_file
from segzero_core.text_layout import clusters
from training.files import explained_os_errors
from training.metrics_log import METRICS, read_metrics

Curve = tuple[list[int], list[float]]
_LENGTH = 'completions/{}_length'
_SMOOTHING = 0.05  # window of the moving average, as a share of the run


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog='plot.py', description='Draw the curves of runs.')
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='folders of runs')
    parser.add_argument('--output', type=Path, help='where to write; default: the first run')
    options = parser.parse_args(arguments)
    with explained_os_errors():
        for path in plot(options.runs, options.output or options.runs[0]):
            print(path)
    return 0


def plot(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Draw ``runs`` into ``folder``; return the paths of the pictures.

    Raises:
        DataError: A run has no metrics of GRPO, or matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise DataError('plots need matplotlib: pip install matplotlib') from error
    matplotlib.use('Agg')
    names = Counter(run.name for run in runs)
    found = {run.name if names[run.name] == 1 else str(run): _read(run) for run in runs}
    found = {_label(name): metrics for name, metrics in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    return [_plot_lengths(found, folder), _plot_rewards(found, folder)]


def curve(metrics: Sequence[dict[str, Any]], name: str) -> Curve:
    """Return the steps that have a value of one metric, and the values."""
    steps = [line['step'] for line in metrics if line.get(name) is not None]
    values = [line[name] for line in metrics if line.get(name) is not None]
    return steps, values


def smooth(values: Sequence[float]) -> list[float]:
    """Return the moving average of the values."""
    width = max(1, round(len(values) * _SMOOTHING))
    parts = [values[max(0, i + 1 - width) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _label(name: str) -> str:
    """Return the name of a run for a legend, and give matplotlib the fonts for its letters.

    Letters that no font of the machine has become code points, as in all pictures.
    """
    from matplotlib import font_manager, rcParams

    label = ''
    for cluster in clusters(name):
        font = machine_fonts().find(cluster)
        if font is None or font.bitmap_size:
            label += ''.join(f'U+{ord(letter):04X} ' for letter in cluster)
            continue
        label += cluster
        if font.path:
            font_manager.fontManager.addfont(font.path)
            family = font_manager.FontProperties(fname=font.path).get_name()
            if family not in rcParams['font.family']:
                rcParams['font.family'] = [*rcParams['font.family'], family]
    # A dollar begins a formula, and a leading underscore hides the label.
    return label.replace('$', r'\$').replace('_', ' ', int(label.startswith('_')))


def _read(run: Path) -> list[dict[str, Any]]:
    try:
        metrics = read_metrics(run)
    except OSError as error:
        raise DataError(f'{run} has no {METRICS} ({error}): give the folder of a run') from error
    if not curve(metrics, _LENGTH.format('mean'))[0]:
        raise DataError(f'{run / METRICS} has no completion lengths: is it a run of GRPO?')
    return metrics


def _plot_lengths(runs: dict[str, list[dict[str, Any]]], folder: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout='constrained')
    for name, metrics in runs.items():
        steps, mean = curve(metrics, _LENGTH.format('mean'))
        (line,) = axes.plot(steps, smooth(mean), label=name)
        low = smooth(curve(metrics, _LENGTH.format('min'))[1])
        high = smooth(curve(metrics, _LENGTH.format('max'))[1])
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
    axes.set(xlabel='step', ylabel='completion length (tokens)')
    axes.legend()
    return save_figure(figure, folder / 'lengths.png')


def _plot_rewards(runs: dict[str, list[dict[str, Any]]], folder: Path) -> Path:
    from matplotlib import pyplot

    names = sorted(
        {
            key
            for metrics in runs.values()
            for line in metrics
            for key in line
            if key.startswith('rewards/') and key.endswith('/mean')
        }
    )
    rows = (len(names) + 2) // 3
    figure, grid = pyplot.subplots(
        rows, 3, figsize=(12, 3 * rows), squeeze=False, layout='constrained'
    )
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, key in zip(grid.flat, names, strict=False):
        for name, metrics in runs.items():
            steps, values = curve(metrics, key)
            axes.plot(steps, smooth(values), label=name)
        axes.set(title=key.split('/')[1].replace('_', ' '), xlabel='step', ylabel='reward')
    grid[0, 0].legend()
    return save_figure(figure, folder / 'rewards.png')


def save_figure(figure: Any, path: Path) -> Path:
    """Write a matplotlib figure as PNG, close it, and return ``path``."""
    from matplotlib import pyplot

    with atomic_file(path) as draft:
        figure.savefig(draft, dpi=150, format='png')
    pyplot.close(figure)
    return path
