# SPDX-License-Identifier: Apache-2.0
"""The cost of evaluation, compared with Seg-Zero's released evaluation.

``python benchmarks/evaluate.py metrics``: pixel counts of 1080p masks, from run lengths and with
the released method (numpy's ``logical_and`` and ``logical_or``). Both use the same masks in turn.

``python benchmarks/evaluate.py memory --samples 5000``: peak memory of ``training/evaluate.py``
with ``rules`` and ``grabcut`` on images of 1920 x 1080, for all samples and for a tenth of them.

``python benchmarks/evaluate.py throughput``: samples per second of ``training/evaluate.py`` and of
the released method, on the same tiny models and images, in turn. The released method uses one
process, reads all data first, generates static batches without a stop at the end of the answer,
embeds the image for each sentence, and copies three float masks at full resolution.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from peak import peak_megabytes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WAYS = Path(__file__).with_name('evaluate_ways.py')
WIDTH, HEIGHT = 1920, 1080


def main() -> None:
    """Run the requested benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('metrics')
    memory = commands.add_parser('memory')
    memory.add_argument('--samples', type=int, default=500)
    throughput = commands.add_parser('throughput')
    throughput.add_argument('--images', type=int, default=18)
    throughput.add_argument('--sentences', type=int, default=7, help='about each image')
    throughput.add_argument('--rounds', type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.command == 'metrics':
            measure_metrics()
        elif options.command == 'memory':
            measure_memory(folder, options.samples)
        else:
            measure_throughput(folder, options.images, options.sentences, options.rounds)


def measure_metrics(pairs: int = 40, rounds: int = 15) -> None:
    """Print the time for one pair of masks, from run lengths and with the released method."""
    from segzero_core.data.rle import encode_mask
    from segzero_core.metrics.masks import overlap, overlap_rle

    masks = [(blob(2 * seed), blob(2 * seed + 1)) for seed in range(pairs)]
    runs = [tuple(encode_mask(mask) for mask in pair) for pair in masks]

    def released(predicted: Any, truth: Any) -> tuple[int, int]:
        intersection = np.logical_and(predicted, truth).sum()
        return int(intersection), int(np.logical_or(predicted, truth).sum())

    ways: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        'released': (released, masks),
        'run lengths': (overlap_rle, runs),
        'pixels': (overlap, masks),
    }
    counts = {name: [way(*pair) for pair in data] for name, (way, data) in ways.items()}
    for (common, either), of_runs, of_pixels in zip(*counts.values(), strict=True):
        assert of_runs == of_pixels
        assert (common, either) == (of_runs[0], of_runs[1] + of_runs[2] - of_runs[0])
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, data) in ways.items():
            start = time.perf_counter()
            for pair in data:
                way(*pair)
            times[name].append((time.perf_counter() - start) / pairs)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, seconds in medians.items():
        ratio = medians['released'] / seconds
        print(f'{name:12} {1e3 * seconds:.4f} ms a pair, {ratio:.1f} x as fast as released')
    start = time.perf_counter()
    for pair in masks:
        encode_mask(pair[0])
    print(f'encoding     {1e3 * (time.perf_counter() - start) / pairs:.4f} ms a mask, once')


def blob(seed: int) -> Any:
    """Return a mask of 1920 x 1080 with a ragged object in it, as segmenters make them."""
    rng = np.random.default_rng(seed)
    noise = cv2.resize(rng.normal(0, 1, (27, 48)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centre, radius = rng.uniform((500, 300), (1400, 780)), rng.uniform(80, 400)
    return np.hypot(x - centre[0], y - centre[1]) + 40 * noise < radius


def measure_memory(folder: Path, samples: int) -> None:
    """Print peak memory for a tenth of the samples and for all."""
    data = write_scenes(folder / 'scenes', 12)
    for count in (samples // 10, samples):
        multiply(data, folder / f'data{count}', count)
        start = time.perf_counter()
        peak = evaluate(folder / f'data{count}', folder / f'run{count}')
        seconds = time.perf_counter() - start
        rows = json.loads((folder / f'run{count}' / 'summary.json').read_text())['rows']
        assert rows == count
        print(
            f'{rows} samples: peak {peak:.0f} MiB, {rows / seconds:.2f} a second',
            flush=True,
        )


def evaluate(data: Path, output: Path, *flags: str) -> float:
    """Run ``training/evaluate.py``; return its peak memory in MiB."""
    command = [sys.executable, str(ROOT / 'training' / 'evaluate.py'), '--dataset', str(data)]
    peak = 0.0
    with (output.parent / 'log.txt').open('w') as log:
        process = subprocess.Popen(
            [*command, '--output', str(output), *flags], stdout=log, stderr=log
        )
        while process.poll() is None:
            peak = max(peak, peak_megabytes(process.pid))
            time.sleep(0.1)
    if process.returncode:
        sys.exit((output.parent / 'log.txt').read_text())
    return peak


def write_scenes(folder: Path, count: int, sentences: int = 0) -> Path:
    """Write synthetic scenes of 1920 x 1080, with one sentence each or ``sentences`` each."""
    from segzero_core.geometry import largest_inscribed_circles, mask_to_box
    from segzero_core.synthetic import make_scene
    from segzero_core.types import Size

    folder.mkdir()
    rows = []
    for seed in range(count):
        scene = make_scene(seed, Size(WIDTH, HEIGHT))
        cv2.imwrite(str(folder / f'{seed}.jpg'), scene.image[:, :, ::-1])
        asked = scene.queries()
        for i in range(sentences or 1):
            query = asked[i % len(asked)]
            mask = scene.mask(query.target)
            cv2.imwrite(str(folder / f'{seed}_{query.target}.png'), 255 * mask.astype(np.uint8))
            circles = largest_inscribed_circles(mask)
            rows.append(
                {
                    'id': f'{seed}/{i}',
                    'image': f'{seed}.jpg',
                    'mask': f'{seed}_{query.target}.png',
                    'query': query.text,
                    'box': list(mask_to_box(mask)),
                    'points': [list(circle.center) for circle in circles],
                }
            )
    (folder / 'records.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder


def multiply(source: Path, folder: Path, count: int) -> None:
    """Repeat a few samples until there are ``count``; each image is a separate file."""
    folder.mkdir()
    rows = [json.loads(line) for line in (source / 'records.jsonl').read_text().splitlines()]
    for file in source.glob('*.png'):
        os.link(file, folder / file.name)
    lines = []
    for i in range(count):
        row = rows[i % len(rows)]
        os.link(source / row['image'], folder / f'copy{i}.jpg')
        lines.append(json.dumps(row | {'id': i, 'image': f'copy{i}.jpg'}))
    (folder / 'records.jsonl').write_text('\n'.join(lines))


def measure_throughput(folder: Path, images: int, sentences: int, rounds: int) -> None:
    """Print samples per second of both methods; check that both count the same pixels."""
    from evaluate_ways import teach

    from segzero_core.runtime.tiny_checkpoints import build_tiny_segmenter

    data = write_scenes(folder / 'scenes', images, sentences)
    segmenter = build_tiny_segmenter(folder / 'segmenter')
    paths = [str(data), str(teach(folder / 'model')), str(segmenter)]
    ways = {'released': ('released', 1), 'ours': ('ours', 1), 'ours, two processes': ('ours', 2)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, processes) in ways.items():
            found[name].append(one_round(way, processes, paths))
    released_counts = found['released'][0]['counts']
    medians = {
        name: {key: statistics.median(r[key] for r in results) for key in ('seconds', 'cpu')}
        for name, results in found.items()
    }
    for name, median in medians.items():
        # Masks made in one batch differ from single ones in pixels whose logit is 0 within
        # rounding.
        counts = np.array(sorted(found[name][0]['counts']))
        assert np.allclose(counts, sorted(released_counts), rtol=1e-5, atol=2), 'other masks'
        speed = len(released_counts) / median['seconds']
        ratio = medians['released']['seconds'] / median['seconds']
        work = medians['released']['cpu'] / median['cpu']
        peak = max(result['peak'] for result in found[name])
        print(
            f'{name:20} {speed:.2f} samples a second, {ratio:.2f} x released; per CPU second '
            f'{work:.2f} x; peak {peak:.0f} MiB'
        )


def one_round(way: str, processes: int, paths: list[str]) -> dict[str, Any]:
    """Run one method in several processes; return time, CPU time, peak memory and pixel counts."""
    # As torchrun does, because processes with one thread per core would slow each other down.
    threads = {'OMP_NUM_THREADS': '1'} if processes > 1 else {}
    running = [
        subprocess.Popen(
            [sys.executable, str(WAYS), way, *paths],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {'RANK': str(rank), 'WORLD_SIZE': str(processes)} | threads,
        )
        for rank in range(processes)
    ]
    results = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    return {
        'seconds': max(result['seconds'] for result in results),
        'cpu': sum(result['cpu'] for result in results),
        'peak': sum(result['peak'] for result in results),
        'counts': [counts for result in results for counts in result['counts']],
    }


if __name__ == '__main__':
    main()
