# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one answer, compared with the original's method.

    python benchmarks/memory.py [--width 5820 --height 5950] [--json memory.json] [--plot ...]

Each method runs in a separate process, with the same models (by default tiny ones) and an image of
the given size. The default size has the largest height and width of ReasonSeg's validation images,
where the original holds three float masks of the image's size. The figures are MiB of the process,
and of CUDA if there is a GPU, in addition to the memory in use after the models are loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peak import peak_megabytes

WAYS = ('original', 'ours')


def main() -> None:
    """Measure, print a table, and write the requested files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--reasoner', help='folder or hub id; a tiny random one if absent')
    parser.add_argument('--segmenter', help='folder or hub id; a tiny random one if absent')
    parser.add_argument('--device', default='', help='CUDA if there is one')
    parser.add_argument('--side', type=int, default=224, help="of the reasoner's image, pixels")
    parser.add_argument('--width', type=int, default=5820)
    parser.add_argument('--height', type=int, default=5950)
    parser.add_argument('--json', type=Path, help='write the figures here')
    parser.add_argument('--plot', type=Path, help='draw them here')
    parser.add_argument('--way', choices=WAYS, help=argparse.SUPPRESS)  # of one process
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options)))
        return
    figures = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], '--way', way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        figures[way] = json.loads(done.stdout.splitlines()[-1])
    print(f'{"MiB":10}{"loaded":>10}{"answer":>10}{"CUDA":>10}')
    for way, found in figures.items():
        print(f'{way:10}' + ''.join(f'{found[key]:>10.0f}' for key in found))
    ratio = figures['original']['answer'] / max(figures['ours']['answer'], 1)
    print(f'original / ours: {ratio:.2f}, image {options.width} x {options.height}')
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + '\n')
    if options.plot:
        draw(figures, options.plot)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return MiB after loading and warm-up, and the additional MiB during an answer."""
    import torch
    from latency import Original, noise

    from segzero_core import SegZero
    from segzero_core.reasoners.transformers import TransformersReasoner
    from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner, build_tiny_segmenter
    from segzero_core.segmenters.sam2 import Sam2Segmenter

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.reasoner or str(build_tiny_reasoner(folder / 'reasoner'))
        reasoner = TransformersReasoner(model, options.device, image_side=options.side)
        segmenter = Sam2Segmenter(
            options.segmenter or str(build_tiny_segmenter(folder / 'segmenter')), options.device
        )
        replies: dict[str, list[int]] = {}
        _, query, _ = next(noise(reasoner, 120, replies))
        original = Original(model, reasoner, segmenter, replies)
    shape = (options.height, options.width, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    small = np.ascontiguousarray(image[:480, :640])
    cuda = torch.cuda.is_available()
    with SegZero(reasoner, segmenter) as segzero:
        segzero.warm_up()
        original(small, query)
        loaded = peak_megabytes()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        (segzero if options.way == 'ours' else original)(image, query)
        on_gpu = (torch.cuda.max_memory_allocated() - held) / 2**20 if cuda else 0.0
        return {'loaded': loaded, 'answer': peak_megabytes() - loaded, 'cuda': on_gpu}


def draw(figures: dict[str, Any], file: Path) -> None:
    """Draw the memory of an answer as bars."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    plot, axes = pyplot.subplots(figsize=(6, 1.6), layout='constrained')
    bars = axes.barh(list(figures), [found['answer'] for found in figures.values()])
    axes.bar_label(bars, fmt='%.0f MiB', padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel('MiB beyond the loaded models')
    plot.savefig(file, dpi=120)


if __name__ == '__main__':
    main()
