# SPDX-License-Identifier: Apache-2.0
"""The gain of each part of the decoder: the engine without that part, compared with all parts.

    python benchmarks/decode_parts.py [--model tiny] [--tokens 64] [--rounds 10] [--side 0]
    python benchmarks/shapes.py 3b FOLDER --layers 2 --vision-layers 1
    python benchmarks/decode_parts.py --model FOLDER --side 252 --tokens 16 --rounds 2

All variants take turns in one process, on one CPU thread. Each variant answers two sentences about
a new frame (``first`` and ``second``), and a batch of eight about another new frame. The last
lines show the time of a decoding step of several tokens, relative to a step of one token. Drafts
are worthwhile if the model accepts more tokens per step than this ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WHOLE, PACKED = 'whole engine', 'without 16-bit weights'


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='tiny', help='folder or hub id')
    parser.add_argument('--side', type=int, default=0, help="of the image; 0 = the model's own")
    parser.add_argument('--tokens', type=int, default=64, help='most of a reply')
    parser.add_argument('--rounds', type=int, default=10)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    ways = load(options)
    times: dict[str, list[list[float]]] = {way: [] for way in ways}
    for number, (image, other, queries) in enumerate(frames(options.rounds + 2)):
        for way, (engine, without) in ways.items():
            engine.engine.cache.clear()
            with without(engine):
                found = [timed(engine.reason, image, query) for query in queries[:2]]
                found.append(timed(engine.reason_batch, [other] * 8, queries))
            if number >= 2:  # the first rounds warm up
                times[way].append(found)
    medians = {way: np.median(found, axis=0) for way, found in times.items()}
    print(f'{"ms (times the whole engine)":28}{"first":>18}{"second":>18}{"eight at once":>18}')
    for way, found in medians.items():
        ratios = zip(found, found / medians[WHOLE], strict=True)
        cells = (f'{1e3 * seconds:.1f} ({ratio:.2f} x)' for seconds, ratio in ratios)
        print(f'{way:28}' + ''.join(f'{cell:>18}' for cell in cells))
    for way in (WHOLE, PACKED):
        cache = ways[way][0].engine.cache
        print(f'{way}: a step of 2, 4, 8, 16 tokens / of one: {steps(cache)}')


def load(options: argparse.Namespace) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Return an engine for each variant, and a context that turns one part of the engine off."""
    from segzero_core.reasoners.decode.linear import PackedLinear
    from segzero_core.reasoners.transformers import TransformersReasoner

    def engine() -> Any:
        return TransformersReasoner(
            options.model, 'cpu', max_new_tokens=options.tokens, image_side=options.side
        )

    whole = engine()
    with mock.patch.object(PackedLinear, 'of', return_value=None):
        plain = engine()
    return {
        WHOLE: (whole, contextlib.nullcontext),
        'without drafts': (whole, without_drafts),
        'without recording': (whole, without_recording),
        'without the prefix cache': (whole, without_prefixes),
        'without tree batches': (whole, without_trees),
        PACKED: (plain, contextlib.nullcontext),
    }


def without_drafts(engine: Any) -> Any:
    """Let ``engine`` generate one token per step."""
    return mock.patch.object(engine.engine.drafts, 'limit', 0)


@contextlib.contextmanager
def without_recording(engine: Any) -> Iterator[None]:
    """Let ``engine`` run in Python."""
    cache = engine.engine.cache
    with (
        mock.patch.object(cache, 'step', cache.text.step),
        mock.patch.object(cache.embedder.features, 'enabled', False),
    ):
        yield


def without_prefixes(engine: Any) -> Any:
    """Let ``engine`` compute every prompt completely, without the prefix cache."""
    reason = engine.reason

    def forget(*asked: Any) -> Any:
        engine.engine.cache.clear()
        return reason(*asked)

    return mock.patch.object(engine, 'reason', forget)


def without_trees(engine: Any) -> Any:
    """Let ``engine`` answer several sentences one after the other."""

    def one_by_one(images: Any, queries: Any) -> list[Any]:
        return [engine.reason(*asked) for asked in zip(images, queries, strict=True)]

    return mock.patch.object(engine, 'reason_batch', one_by_one)


def frames(count: int) -> Any:
    """Yield two frames and eight sentences, ``count`` times."""
    from segzero_core.synthetic import make_scene

    for seed in range(1_000_000, 1_000_000 + 2 * count, 2):
        scene, other = make_scene(seed), make_scene(seed + 1)
        queries = [query.text for query in (*scene.queries(), *other.queries())] * 8
        yield scene.image, other.image, queries[:8]


def timed(function: Callable[..., Any], *args: Any) -> float:
    """Return CPU seconds."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def steps(cache: Any) -> str:
    """Return the CPU time of steps of several tokens, relative to a step of one token."""
    times: dict[int, list[float]] = {count: [] for count in (1, 2, 4, 8, 16)}
    length = len(cache.state.tokens)
    for number in range(20):
        for count, found in times.items():
            seconds = timed(cache.extend, [5] * count, count)
            cache.truncate(length)
            if number >= 3:
                found.append(seconds)
    one, *others = (float(np.median(found)) for found in times.values())
    return ', '.join(f'{other / one:.2f}' for other in others)


if __name__ == '__main__':
    main()
