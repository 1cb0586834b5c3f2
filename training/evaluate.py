# SPDX-License-Identifier: Apache-2.0
"""Measures a reasoner and a segmenter: ``python training/evaluate.py --dataset NAME --model ...``.

The same command started again after an interruption continues, with any number of processes; no
row is lost or measured twice. ``torchrun --nproc-per-node 8 training/evaluate.py ...`` distributes
the images over eight processes, each on a separate GPU. On several machines the folder of the
run must be one that all of them see.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

if __name__ == '__main__':  # before the heavy imports, so that signals are handled already
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from segzero_core.runtime.program import run_program

    _INTERRUPTED = 'interrupted; the same command continues after the last finished row'
    sys.exit(run_program('evaluate.py', 'training.evaluate:main', interrupted=_INTERRUPTED))

from segzero_core.data import Samples, read_samples
from segzero_core.errors import OutOfMemoryError, first_line
from segzero_core.runtime.atomic import atomic_text
from segzero_core.runtime.memory import is_out_of_memory
from training.evaluation.engines import Engines
from training.evaluation.fingerprint import run_settings
from training.evaluation.merging import ROWS, merge_shards
from training.evaluation.options import EvalConfig, add_flags, make_config
from training.evaluation.prefetch import load_batches
from training.evaluation.progress import ProgressLine
from training.evaluation.shards import (
    ProcessRank,
    Shard,
    check_served_model,
    open_run,
    rows_of_others,
)
from training.evaluation.summary import RunningScore, summarise
from training.files import explained_os_errors

SUMMARY = 'summary.json'


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    flags = vars(make_parser().parse_args(arguments))
    with explained_os_errors():
        try:
            evaluate(make_config(flags.pop('config'), flags), ProcessRank.of_environment())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f'the memory of the device is too small ({first_line(error)}): use a smaller '
                '--segmenter-model or --device cpu; finished rows are kept'
            ) from error
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog='evaluate.py', description='Measure a reasoner and a segmenter on a dataset.'
    )
    parser.add_argument('--config', type=Path, help='a preset of config/evaluation; flags win')
    add_flags(parser)
    return parser


def evaluate(config: EvalConfig, rank: ProcessRank) -> dict[str, Any] | None:
    """Measure the rows of one process; the last process to finish writes the summary.

    Returns:
        The metrics of the whole run; None while rows of other processes are missing.

    Raises:
        SegZeroError: Something cannot be used. Finished rows are kept.
    """
    folder = Path(config.output)
    samples = read_samples(config.dataset, config.root, config.level, config.limit)
    settings = run_settings(config, samples)
    run = open_run(folder, settings)
    score = RunningScore(config.protocol)  # type: ignore[arg-type]
    shard = Shard(folder, run, rank, score.add)
    unfinished = True
    try:
        others = rows_of_others(folder, run, rank)
        rows = assigned_rows(samples, rank, others.earlier)
        todo = [row for row in rows if row not in shard.done | others.current]
        unfinished = bool(todo)
        if todo:
            done = len(rows) - len(todo)
            progress = ProgressLine(len(rows), done, enabled=rank.rank == 0)
            with Engines(config, samples.dataset, rank) as engines:
                check_served_model(folder, engines.served_model)
                batches = load_batches(samples, todo, config.batch_size)
                for results in engines.runner.run(batches):
                    for row in results:
                        shard.add(row)
                    done += len(results)
                    progress.show(done, str(score))
    finally:
        shard.close(wanted=unfinished)
    found = merge_shards(folder, run, rank.world, len(samples))
    if found is None:
        print(f'process {rank.rank} of {rank.world} is done; the last one sums up', flush=True)
        return None
    summary = {'settings': settings | {'root': config.root}, **summarise(found)}
    atomic_text(folder / SUMMARY, json.dumps(summary, indent=2) + '\n', shared=True)
    _print_summary(config, samples, summary, folder)
    return summary


def assigned_rows(samples: Samples, rank: ProcessRank, done: Set[int] = frozenset()) -> list[int]:
    """Return the rows that one process measures.

    Images are assigned to ranks round-robin; all rows of an image stay on one rank.

    Args:
        samples: The dataset.
        rank: The process.
        done: Rows that need no measurement any more; the others are assigned.
    """
    missing = [row for row in range(len(samples)) if row not in done]
    names = dict.fromkeys(samples.image_ids[row] for row in missing)
    images = {name: i for i, name in enumerate(names)}
    return [row for row in missing if images[samples.image_ids[row]] % rank.world == rank.rank]


def _print_summary(
    config: EvalConfig, samples: Samples, summary: dict[str, Any], folder: Path
) -> None:
    """Print the metrics, and how many rows failed for which reason."""
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
        f'  {counts["failed"]} replies hold no usable answer, {counts["repaired"]} were repaired, '
        f'{counts["nothing_found"]} say that nothing matches'
    )
    if counts['cut_off']:
        print(
            f'  {counts["cut_off"]} replies were cut off by the token limit, '
            f'{counts["cut_off_failed"]} of them before a usable answer: raise --max-new-tokens, '
            'or limit the thinking with --reasoner-option max_think_tokens=N'
        )
    if 'dropped' in figures:
        print(f'  {figures["dropped"]} rows left out, as the released evaluation does')
    if counts['error']:
        print(
            f'  {counts["error"]} rows could not be measured and count as zero: those with status '
            f'"error" in {folder / ROWS} say why. Repair that and start the same command again',
            file=sys.stderr,
        )
    print(f'  {folder / SUMMARY}', flush=True)
