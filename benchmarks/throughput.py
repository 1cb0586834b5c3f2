# SPDX-License-Identifier: Apache-2.0
"""Answers per second of a reasoner with 1, 8 and 64 sentences at a time.

    python benchmarks/throughput.py --reasoner tiny [--same-frame] [--json throughput.json]
    .venv-vllm/bin/python benchmarks/throughput.py --engine vllm --eager  # after make test-vllm
    python benchmarks/throughput.py --engine openai --url http://127.0.0.1:8000/v1

The sentences are about synthetic scenes: each about a different scene or, with ``--same-frame``,
all about one new scene. The model writes its reply up to a limit of tokens. Without ``--reasoner``
the benchmark creates a tiny random model, which never ends a reply by itself. A single sentence
uses ``reason``. The column "pieces" is the number of pieces in which that reply arrived; vLLM
sends one per step.

``--drafts 0 8`` compares numbers of draft tokens, in turn in one process, each with a separate
reasoner. Without ``--eager`` vLLM compiles the model first. On a CPU this takes minutes whenever
the model, the folder or the number of drafts changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('VLLM_CPU_KVCACHE_SPACE', '2')  # GiB, of vLLM on a CPU


def main() -> None:
    """Measure, print a table, and write the requested files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--engine', default='transformers')
    parser.add_argument('--reasoner', help='folder or hub id; a tiny random one if absent')
    parser.add_argument('--url', help='of a server, for the engine openai')
    parser.add_argument('--side', type=int, default=224, help='of the image the tiny model sees')
    parser.add_argument('--tokens', type=int, default=100, help='most of each reply')
    parser.add_argument('--at-once', type=int, nargs='+', default=[1, 8, 64])
    parser.add_argument('--same-frame', action='store_true')
    parser.add_argument('--drafts', type=int, nargs='+', default=[None], help='guessed at once')
    parser.add_argument('--eager', action='store_true', help='vllm without compilation')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--json', type=Path, help='write the figures here')
    parser.add_argument('--plot', type=Path, help='draw them here')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    print('  drafts at once   seconds answers/s  cost of one  pieces')
    for row in figures['rows']:
        print(
            f'{row["drafts"]!s:>8}{row["at_once"]:>8}{row["seconds"]:>10.3f}'
            f'{row["answers_per_s"]:>10.2f}{row["cost"]:>11.2f} x{row["pieces"]:>8.1f}'
        )
    print({key: value for key, value in figures.items() if key != 'rows'})
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + '\n')
    if options.plot:
        draw(figures, options.plot)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return seconds and answers per second for each number of drafts and sentences at a time."""
    reasoners = {drafts: load(options, drafts, folder) for drafts in options.drafts}
    seeds = itertools.count(1_000_000)
    times: dict[Any, list[float]] = {
        (drafts, count): [] for drafts in reasoners for count in options.at_once
    }
    pieces: dict[Any, list[int]] = {drafts: [] for drafts in reasoners}
    for number in range(options.rounds + 1):
        for count in options.at_once:
            frames, sentences = questions(count, options.same_frame, seeds)
            for drafts, reasoner in reasoners.items():
                came: list[str] = []
                start = time.perf_counter()
                if count == 1:
                    reasoner.reason(frames[0], sentences[0], came.append)
                else:
                    reasoner.reason_batch(frames, sentences)
                if number:  # the first round warms up
                    times[drafts, count].append(time.perf_counter() - start)
                    pieces[drafts] += [len(came)] if came else []
    for reasoner in reasoners.values():
        reasoner.close()
    kept = ('engine', 'reasoner', 'side', 'tokens', 'same_frame', 'eager', 'rounds')
    return {
        **{name: getattr(options, name) for name in kept},
        'cores': len(os.sched_getaffinity(0)),
        'rows': rows(times, pieces),
    }


def questions(
    count: int, same_frame: bool, seeds: Iterator[int]
) -> tuple[Sequence[Any], Sequence[str]]:
    """Return new frames, and a sentence about each."""
    from segzero_core.synthetic import make_scene

    scenes = [make_scene(next(seeds)) for _ in range(1 if same_frame else count)]
    asked = [(scene.image, query.text) for scene in scenes for query in scene.queries()]
    if not same_frame:
        asked = [(scene.image, scene.queries()[0].text) for scene in scenes]
    frames, sentences = zip(*(asked * count)[:count], strict=True)
    return frames, sentences


def rows(times: dict[Any, list[float]], pieces: dict[Any, list[int]]) -> list[dict[str, Any]]:
    """Return the rows of the table; the cost is relative to the fewest sentences at once."""
    medians = {key: statistics.median(found) for key, found in times.items()}
    fewest = min(count for _, count in medians)
    return [
        {
            'drafts': drafts,
            'at_once': count,
            'seconds': seconds,
            'answers_per_s': count / seconds,
            'cost': seconds / medians[drafts, fewest] * fewest,
            'pieces': statistics.mean(pieces[drafts] or [0]),
        }
        for (drafts, count), seconds in medians.items()
    ]


def load(options: argparse.Namespace, drafts: int | None, folder: Path) -> Any:
    """Return the reasoner, with replies of the requested length."""
    from segzero_core import load_reasoner

    given = {
        'max_new_tokens': options.tokens,
        'url': options.url,
        'model': options.reasoner,
        'num_draft_tokens': drafts,
        'eager': options.eager or None,
    }
    if options.engine != 'openai' and not options.reasoner:
        from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner

        given['model'] = str(build_tiny_reasoner(folder / 'reasoner'))
        notes = {'family': 'seg_zero', 'image_size': options.side}
        (folder / 'reasoner' / 'segzero.json').write_text(json.dumps(notes))
    return load_reasoner(options.engine, **given)


def draw(figures: dict[str, Any], file: Path) -> None:
    """Draw answers per second over sentences at a time."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    plot, axes = pyplot.subplots(figsize=(5, 2.5), layout='constrained')
    for drafts in dict.fromkeys(row['drafts'] for row in figures['rows']):
        points = [row for row in figures['rows'] if row['drafts'] == drafts]
        rates = [row['answers_per_s'] for row in points]
        label = '' if drafts is None else f'{drafts} drafts'
        axes.plot([row['at_once'] for row in points], rates, marker='o', label=label)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    axes.set_xscale('log', base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f'sentences at a time ({figures["engine"]}, {figures["reasoner"]})')
    axes.set_ylabel('answers per second')
    plot.savefig(file, dpi=120)


if __name__ == '__main__':
    main()
