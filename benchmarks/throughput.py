# SPDX-License-Identifier: Apache-2.0
"""Answers per second of a reasoner with 1, 8 and 64 sentences at a time.

    python benchmarks/throughput.py --reasoner tiny [--same-frame] [--json throughput.json]
    .venv-vllm/bin/python benchmarks/throughput.py --engine vllm        # after make test-vllm
    python benchmarks/throughput.py --engine openai --url http://127.0.0.1:8000/v1

The sentences are about synthetic scenes, each about one of its own or, with ``--same-frame``, all
about one that the model has not seen before. The model writes what it thinks, up to a limit.
Without ``--reasoner`` it is a tiny random one made on the spot, which never ends by itself. One
sentence at a time is ``reason``.
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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('VLLM_CPU_KVCACHE_SPACE', '2')  # GiB, of vLLM on a CPU


def main() -> None:
    """Measure, print a table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--engine', default='transformers')
    parser.add_argument('--reasoner', help='folder or hub id; a tiny random one if absent')
    parser.add_argument('--url', help='of a server, for the engine openai')
    parser.add_argument('--side', type=int, default=224, help='of the image the tiny model sees')
    parser.add_argument('--tokens', type=int, default=100, help='most of each reply')
    parser.add_argument('--at-once', type=int, nargs='+', default=[1, 8, 64])
    parser.add_argument('--same-frame', action='store_true')
    parser.add_argument('--drafts', type=int, help="tokens guessed at once; the engine's own")
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--json', type=Path, help='write the figures here')
    parser.add_argument('--plot', type=Path, help='draw them here')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    print(f'{"at once":>8}{"seconds":>10}{"answers/s":>12}{"cost of one":>14}')
    for row in figures['rows']:
        cells = (row['at_once'], row['seconds'], row['answers_per_s'], row['cost'])
        print('{:>8}{:>10.2f}{:>12.2f}{:>12.2f} x'.format(*cells))
    print({key: value for key, value in figures.items() if key != 'rows'})
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + '\n')
    if options.plot:
        draw(figures, options.plot)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return seconds and answers per second for each number of sentences at a time."""
    from segzero_core.synthetic import make_scene

    reasoner = load(options, folder)
    seeds = itertools.count(1_000_000)
    times: dict[int, list[float]] = {count: [] for count in options.at_once}
    for number in range(options.rounds + 1):
        for count, found in times.items():
            scenes = [make_scene(next(seeds)) for _ in range(1 if options.same_frame else count)]
            asked = [(scene.image, query.text) for scene in scenes for query in scene.queries()]
            if not options.same_frame:
                asked = [(scene.image, scene.queries()[0].text) for scene in scenes]
            frames, sentences = zip(*(asked * count)[:count], strict=True)
            start = time.perf_counter()
            if count == 1:
                reasoner.reason(frames[0], sentences[0])
            else:
                reasoner.reason_batch(frames, sentences)
            if number:  # the first round warms up
                found.append(time.perf_counter() - start)
    reasoner.close()
    medians = {count: statistics.median(found) for count, found in times.items()}
    one = medians[min(medians)] / min(medians)
    rows = [
        {'at_once': count, 'seconds': s, 'answers_per_s': count / s, 'cost': s / one}
        for count, s in medians.items()
    ]
    return {
        'engine': options.engine,
        'reasoner': options.reasoner,
        'side': options.side,
        'tokens': options.tokens,
        'same_frame': options.same_frame,
        'drafts': options.drafts,
        'cores': len(os.sched_getaffinity(0)),
        'rows': rows,
    }


def load(options: argparse.Namespace, folder: Path) -> Any:
    """Return the reasoner, with replies of the length asked for."""
    from segzero_core import load_reasoner

    given = {
        'max_new_tokens': options.tokens,
        'url': options.url,
        'model': options.reasoner,
        'drafts': options.drafts,
    }
    if options.engine != 'openai' and not options.reasoner:
        from segzero_core.tiny import build_tiny_reasoner

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
    rows = figures['rows']
    axes.plot([row['at_once'] for row in rows], [row['answers_per_s'] for row in rows], marker='o')
    axes.set_xscale('log', base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f'sentences at a time ({figures["engine"]}, {figures["reasoner"]})')
    axes.set_ylabel('answers per second')
    plot.savefig(file, dpi=120)


if __name__ == '__main__':
    main()
