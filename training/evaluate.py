# SPDX-License-Identifier: Apache-2.0
"""Measures a reasoner and a segmenter: ``python training/evaluate.py --dataset NAME --model ...``.

Started again after whatever ended it, the same command goes on; no row is lost or there twice.
``torchrun --nproc-per-node 8 training/evaluate.py ...`` shares the images out to eight processes,
each on a GPU of its own; over several machines the folder of the run must be one they all see.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == '__main__':  # run as a file: the project's root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from segzero_core.data import Samples, read_samples
from segzero_core.errors import SegZeroError
from training.evaluating.config import EvalConfig, add_flags, make_config
from training.evaluating.engines import Engines
from training.evaluating.loading import load_batches
from training.evaluating.progress import Progress
from training.evaluating.scoring import Running, summarise
from training.evaluating.shards import Place, Shard, merge, open_run

SUMMARY = 'summary.json'


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog='evaluate.py', description='Measure a reasoner and a segmenter on a dataset.'
    )
    parser.add_argument('--config', type=Path, help='a preset of config/evaluation; flags win')
    add_flags(parser)
    flags = vars(parser.parse_args(arguments))
    try:
        evaluate(make_config(flags.pop('config'), flags), Place.of_environment())
    except SegZeroError as error:
        print(f'evaluate.py: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on', file=sys.stderr)
        return 130
    return 0


def evaluate(config: EvalConfig, place: Place) -> dict[str, Any] | None:
    """Measure the rows of one process; sum up if they are the last.

    Returns:
        The figures of the whole run; None while other processes are at work.

    Raises:
        SegZeroError: Something cannot be used. What is done stays done.
    """
    folder = Path(config.output)
    samples = read_samples(config.dataset, config.root, config.level, config.limit)
    run = open_run(folder, run_settings(config, samples, place))
    rows = own_rows(samples, place)
    score = Running(config.protocol)  # type: ignore[arg-type]
    shard = Shard(folder, run, place, score.add)
    try:
        todo = [row for row in rows if row not in shard.done]
        if todo:
            progress = Progress(len(rows), len(shard.done), aloud=place.rank == 0)
            with Engines(config, samples.dataset, place) as engines:
                for batch in load_batches(samples, todo, config.batch_size):
                    for row in engines.examiner.examine(batch):
                        shard.add(row)
                    progress.show(len(shard.done), str(score))
    finally:
        shard.close(wanted=bool(rows))
    found = merge(folder, run, place.world, len(samples))
    if found is None:
        print(f'process {place.rank} of {place.world} is done; the last one sums up', flush=True)
        return None
    settings = run_settings(config, samples, place) | {'root': config.root}
    summary = {'settings': settings, **summarise(found)}
    text = json.dumps(summary, indent=2)
    draft = folder / f'.{SUMMARY}.{os.getpid()}'
    draft.write_text(text + '\n', encoding='utf-8')
    os.replace(draft, folder / SUMMARY)
    _report(config, summary, folder)
    return summary


def run_settings(config: EvalConfig, samples: Samples, place: Place) -> dict[str, Any]:
    """Return all that the processes of a run, and its parts before and after a stop, share."""
    ids = '\n'.join(samples.ids).encode()
    return config.identity() | {
        'level': samples.level,
        'rows': len(samples),
        'ids': hashlib.sha256(ids).hexdigest()[:16],
        'processes': place.world,
    }


def own_rows(samples: Samples, place: Place) -> list[int]:
    """Return the rows of one process: those of every so-manieth image."""
    images = {name: i for i, name in enumerate(dict.fromkeys(samples.image_ids))}
    return [
        row
        for row, name in enumerate(samples.image_ids)
        if images[name] % place.world == place.rank
    ]


def _report(config: EvalConfig, summary: dict[str, Any], folder: Path) -> None:
    """Print the figures, and what went wrong."""
    counts = summary['counts']
    figures = {**summary, **summary.get(config.protocol, {})}
    print(f'{config.dataset}: {summary["rows"]} rows, protocol {config.protocol}')
    for name, figure in figures.items():
        if isinstance(figure, dict) and 'value' in figure:
            low, high = 100 * figure['low'], 100 * figure['high']
            print(f'  {name:20} {100 * figure["value"]:6.2f}   95 %: {low:.2f} to {high:.2f}')
    print(
        f'  {counts["failed"]} texts could not be read, {counts["repaired"]} were repaired, '
        f'{counts["nothing_found"]} say that nothing matches'
    )
    if config.protocol == 'released':
        print(f'  {figures["dropped"]} rows left out, as the released evaluation does')
    if counts['error']:
        print(
            f'  {counts["error"]} rows have data that cannot be used; they count as zero. Repair '
            f'it and start the same command again (status "error" in {folder / "rows.jsonl"})',
            file=sys.stderr,
        )
    print(f'  {folder / SUMMARY}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
