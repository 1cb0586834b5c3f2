# SPDX-License-Identifier: Apache-2.0
"""The single parts of an answer, compared with transformers' implementation.

    python benchmarks/parts.py [--side 840] [--rounds 40] [--compiled] [--json parts.json]

All implementations run in turn in one process, on one CPU thread. The parts are the reasoner's
image processor, the patch embedding, and SAM 2's image encoder (with ``--compiled`` also compiled,
which takes minutes). The models are tiny and random, so only ratios are meaningful. The last part
is the matrix products of one layer of Qwen2.5-VL-3B for typical numbers of tokens: one token, a
draft, several sentences, an image.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Measure, print a table, and write the requested files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--side', type=int, default=840, help="of the reasoner's image, pixels")
    parser.add_argument('--rounds', type=int, default=40)
    parser.add_argument('--compiled', action='store_true', help='also compile the encoder')
    parser.add_argument('--json', type=Path, help='write the figures here')
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        parts = {
            **reasoner(Path(folder), options.side),
            **encoder(options.compiled),
            **products(),
        }
        for part, ways in parts.items():
            figures[part] = in_turns(ways, options.rounds)
            published = figures[part]['published']
            for way, seconds in figures[part].items():
                print(f'{part:16} {way:10} {1e3 * seconds:8.2f} ms {published / seconds:6.1f} x')
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + '\n')


def reasoner(folder: Path, side: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the ways to make a model's inputs of an image and a prompt, and to embed patches."""
    from PIL import Image
    from transformers import AutoImageProcessor

    from segzero_core.reasoners.qwen_processor import QwenProcessor
    from segzero_core.reasoners.transformers import TransformersReasoner
    from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner

    engine = TransformersReasoner(str(build_tiny_reasoner(folder)), 'cpu', image_side=side)
    ours, published = (QwenProcessor.from_pretrained(folder) for _ in range(2))
    published.image_processor = AutoImageProcessor.from_pretrained(folder, backend='pil')
    prompt = engine.prompt('the red mug')
    image = Image.fromarray(noise(side, side))

    def called(processor: Any) -> Any:
        return processor(text=[prompt], images=[image], return_tensors='pt')

    embedding = engine.model.model.visual.patch_embed
    two, one = (
        inputs['pixel_values'] for inputs in (called(ours), ours.encode_still(prompt, image))
    )
    return {
        'image processor': {
            'published': lambda: called(published),
            'ours': lambda: ours.encode_still(prompt, image),
        },
        'patch embedding': {
            'published': lambda: type(embedding).forward(embedding, two),
            'ours': lambda: embedding(one),
        },
    }


def encoder(compiled: bool) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the ways to embed an image of VGA size with the embedded SAM 2."""
    from segzero_core.segmenters.sam2 import Sam2Segmenter

    image = noise(480, 640)
    recorded = Sam2Segmenter('tiny_sam2', 'cpu')
    square = recorded.preprocess(image)
    ways: dict[str, Callable[[], Any]] = {
        'published': lambda: recorded.features(square),
        'recorded': lambda: recorded.encode(square),
    }
    if compiled:
        other = Sam2Segmenter('tiny_sam2', 'cpu', torch_compile=True)
        start = time.perf_counter()
        other.embed(image)
        print(f'compiled: {other.compiled}, in {time.perf_counter() - start:.0f} s')
        ways['compiled'] = lambda: other.encode(square)
    return {'SAM 2 encoder': ways}


def products() -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the ways to multiply tokens with the weights of one layer."""
    import torch

    from segzero_core.reasoners.decode.linear import fuse_linear

    torch.manual_seed(0)
    shapes = ((2048, 2560), (2048, 2048), (2048, 22016), (11008, 2048))  # qkv, out, MLP
    published = [torch.nn.Linear(*shape, bias=False, dtype=torch.bfloat16) for shape in shapes]
    plain, packed = ([copy.deepcopy(each).float() for each in published] for _ in range(2))
    ways = {'published': plain, 'ours': [fuse_linear(each, pack=True) for each in packed]}

    def multiply(layers: list[Any], inputs: list[Any]) -> None:
        for layer, hidden in zip(layers, inputs, strict=True):
            layer(hidden)

    found: dict[str, dict[str, Callable[[], Any]]] = {}
    for tokens in (1, 4, 8, 64, 1024):
        inputs = [torch.randn(tokens, width) for width, _ in shapes]
        found[f'{tokens} tokens'] = {
            way: functools.partial(multiply, layers, inputs) for way, layers in ways.items()
        }
    return found


def noise(height: int, width: int) -> np.ndarray:
    """Return an image of noise."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each way."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 3):
        for way, function in ways.items():
            start = time.process_time()
            function()
            if number >= 3:  # the first rounds warm up
                times[way].append(time.process_time() - start)
    return {way: float(np.median(found)) for way, found in times.items()}


if __name__ == '__main__':
    main()
