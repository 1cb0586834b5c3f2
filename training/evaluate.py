# SPDX-License-Identifier: Apache-2.0
"""Measures a reasoner and a segmenter: ``python training/evaluate.py --dataset NAME --model ...``.

Started again after whatever ended it, the same command goes on, with any number of processes; no
row is lost or there twice. ``torchrun --nproc-per-node 8 training/evaluate.py ...`` shares the
images out to eight processes, each on a GPU of its own; over several machines the folder of the
run must be one they all see.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

if __name__ == '__main__':  # run as a file: the project's root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from segzero_core.data import Samples, read_samples
from segzero_core.errors import SegZeroError, first_line
from segzero_core.runtime.atomic import atomic_text
from segzero_core.runtime.memory import is_out_of_memory
from training.evaluation.engines import Engines
from training.evaluation.fingerprint import run_settings
from training.evaluation.options import EvalConfig, add_flags, make_config
from training.evaluation.prefetch import load_batches
from training.evaluation.progress import Progress
from training.evaluation.shards import Place, Shard, done_elsewhere, merge, open_run
from training.evaluation.summary import Running, summarise
from training.files import explain_os_error

SUMMARY = 'summary.json'


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    flags = vars(make_parser().parse_args(arguments))
    try:
        evaluate(make_config(flags.pop('config'), flags), Place.of_environment())
    except SegZeroError as error:
        print(f'evaluate.py: {error}', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'evaluate.py: {explain_os_error(error)}', file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(
            f'evaluate.py: the memory of the device is too small ({first_line(error)}): '
            'use a smaller --segmenter-model or --device cpu; finished rows are kept',
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on', file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog='evaluate.py', description='Measure a reasoner and a segmenter on a dataset.'
    )
    parser.add_argument('--config', type=Path, help='a preset of config/evaluation; flags win')
    add_flags(parser)
    return parser


def evaluate(config: EvalConfig, place: Place) -> dict[str, Any] | None:
    """Measure the rows of one process; sum up if they are the last.

    Returns:
        The figures of the whole run; None while other processes are at work.

    Raises:
        SegZeroError: Something cannot be used. What is done stays done.
    """
    folder = Path(config.output)
    samples = read_samples(config.dataset, config.root, config.level, config.limit)
    settings = run_settings(config, samples)
    run = open_run(folder, settings)
    score = Running(config.protocol)  # type: ignore[arg-type]
    shard = Shard(folder, run, place, score.add)
    unfinished = True
    try:
        elsewhere = done_elsewhere(folder, run, place)
        rows = own_rows(samples, place, elsewhere.before)
        there = shard.done | elsewhere.beside
        todo = [row for row in rows if row not in there]
        unfinished = bool(todo)
        if todo:
            done = len(rows) - len(todo)
            progress = Progress(len(rows), done, aloud=place.rank == 0)
            with Engines(config, samples.dataset, place) as engines:
                batches = load_batches(samples, todo, config.batch_size)
                for results in engines.examiner.examine(batches):
                    for row in results:
                        shard.add(row)
                    done += len(results)
                    progress.show(done, str(score))
    finally:
        shard.close(wanted=unfinished)
    found = merge(folder, run, place.world, len(samples))
    if found is None:
        print(f'process {place.rank} of {place.world} is done; the last one sums up', flush=True)
        return None
    summary = {'settings': settings | {'root': config.root}, **summarise(found)}
    text = json.dumps(summary, indent=2)
    atomic_text(folder / SUMMARY, text + '\n', shared=True)
    _report(config, samples, summary, folder)
    return summary


def own_rows(samples: Samples, place: Place, done: Set[int] = frozenset()) -> list[int]:
    """Return the rows of one process: those of every so-manieth image.

    Args:
        samples: The dataset.
        place: Which process.
        done: Rows that no process has to measure: the others are shared out.
    """
    missing = [row for row in range(len(samples)) if row not in done]
    names = dict.fromkeys(samples.image_ids[row] for row in missing)
    images = {name: i for i, name in enumerate(names)}
    return [row for row in missing if images[samples.image_ids[row]] % place.world == place.rank]


def _report(config: EvalConfig, samples: Samples, summary: dict[str, Any], folder: Path) -> None:
    """Print the figures, and what went wrong."""
    counts = summary['counts']
    figures = {**summary, **summary.get(config.protocol, {})}
    print(f'{config.dataset}: {summary["rows"]} rows, protocol {config.protocol}')
    if note := samples.note():
        print(f'  {note}')
    for name, figure in figures.items():
        if isinstance(figure, dict) and 'value' in figure:
            low, high = 100 * figure['low'], 100 * figure['high']
            print(f'  {name:20} {100 * figure["value"]:6.2f}   95 %: {low:.2f} to {high:.2f}')
    print(
        f'  {counts["failed"]} texts could not be read, {counts["repaired"]} were repaired, '
        f'{counts["nothing_found"]} say that nothing matches'
    )
    if 'dropped' in figures:
        print(f'  {figures["dropped"]} rows left out, as the released evaluation does')
    if counts['error']:
        print(
            f'  {counts["error"]} rows could not be measured and count as zero: those with status '
            f'"error" in {folder / "rows.jsonl"} say why. Repair that and start the same command '
            'again',
            file=sys.stderr,
        )
    print(f'  {folder / SUMMARY}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
