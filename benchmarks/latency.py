# SPDX-License-Identifier: Apache-2.0
"""From a sentence to its mask, by stage, beside the original's method.

    python benchmarks/latency.py [--rounds 10] [--json latency.json] [--plot latency.png]

The original's method (dvlab-research/Seg-Zero at 77f9ea5): ``generate`` to its end, then SAM 2's
encoder, then its decoder with three masks enlarged to the image and copied as floats. Both ways
get the same weights, images and sentences, in turn, in one process, and write the same tokens: a
reply of a fixed length is forced on them, so that random weights of any shape will do. Without
``--reasoner`` and ``--segmenter`` those are tiny models made on the spot.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WAYS = ('original', 'first sentence', 'second sentence')


def main() -> None:
    """Measure, print a table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--reasoner', help='folder or hub id; a tiny random one if absent')
    parser.add_argument('--segmenter', help='folder or hub id; a tiny random one if absent')
    parser.add_argument('--device', default='', help='CUDA if there is one')
    parser.add_argument('--side', type=int, default=840, help="of the reasoner's image, pixels")
    parser.add_argument('--tokens', type=int, default=150, help='length of the reply')
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--threads', type=int, default=0, help="torch's; 0 = its own choice")
    parser.add_argument('--json', type=Path, help='write the figures here')
    parser.add_argument('--plot', type=Path, help='draw them here')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + '\n')
    if options.plot:
        draw(figures, options.plot)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return p50 and p95 in seconds per way and stage, and whether the masks are the same."""
    import torch

    from segzero_core import SegZero
    from segzero_core.reasoners.transformers import TransformersReasoner
    from segzero_core.segmenters.sam2 import Sam2Segmenter
    from segzero_core.tiny import build_tiny_reasoner, build_tiny_segmenter

    if options.threads:
        torch.set_num_threads(options.threads)
    reasoner = TransformersReasoner(
        options.reasoner or str(build_tiny_reasoner(folder / 'reasoner')),
        options.device,
        image_side=options.side,
    )
    segmenter = Sam2Segmenter(
        options.segmenter or str(build_tiny_segmenter(folder / 'segmenter')), options.device
    )
    script = force(reasoner, options.tokens)
    times: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    same = True
    with SegZero(reasoner, segmenter) as segzero:
        segzero.warm_up()
        rng = np.random.default_rng(0)
        for number in range(options.rounds + 1):
            image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
            clock = [time.process_time()]
            mask, original = released(reasoner, segmenter, script, image, 'the red mug')
            clock.append(time.process_time())
            first = segzero(image, 'the red mug')
            clock.append(time.process_time())
            second = segzero(image, 'something to drink from')
            clock.append(time.process_time())
            same = same and np.array_equal(first.mask, mask)
            if number:  # the first round warms up
                found = (original, first.timings, second.timings)
                for way, stages, cpu in zip(WAYS, found, np.diff(clock), strict=True):
                    times[way].append({**stages, 'cpu': float(cpu)})
    return {
        'device': str(reasoner.device),
        'threads': torch.get_num_threads(),
        'tokens': len(script),
        'side': options.side,
        'same masks': bool(same),
        'seconds': {way: quantiles(rounds) for way, rounds in times.items()},
    }


def force(reasoner: Any, tokens: int) -> list[int]:
    """Make ``reasoner`` write a reply of so many tokens whatever it thinks; return them."""
    tokenizer = reasoner._processor.tokenizer
    quarter = reasoner.family.answer_size((1, 1)).width // 4
    points = f'"points_1": [{2 * quarter}, {2 * quarter}], "points_2": [{quarter}, {2 * quarter}]'
    box = f'"bbox": [{quarter}, {quarter}, {3 * quarter}, {3 * quarter}]'
    end = tokenizer(f'</think><answer>{{{box}, {points}}}</answer>').input_ids
    start = tokenizer('<think>').input_ids
    word = tokenizer(' a').input_ids[-1:]
    script = start + word * (tokens - len(start) - len(end)) + end
    choose: Callable[..., Any] = reasoner._writer._choose
    read: Callable[..., Any] = reasoner._writer._read
    state = {'written': 0}

    def restart(*args: Any) -> Any:
        state['written'] = 0
        return read(*args)

    def follow(logits: Any, seen: Any) -> Any:
        choose(logits, seen)  # its time counts
        state['written'] += 1
        return script[state['written'] - 1]

    reasoner._writer._read, reasoner._writer._choose = restart, follow
    return script


def released(
    reasoner: Any, segmenter: Any, script: list[int], image: Any, query: str
) -> tuple[Any, dict[str, float]]:
    """Answer as the original's code does; return the mask and seconds per stage."""
    import torch

    from segzero_core.answer import parse_answer
    from segzero_core.checkpoints import transformers
    from segzero_core.geometry import rescale_box, rescale_point
    from segzero_core.segmenters.sam2 import _upsample
    from segzero_core.types import image_size

    class Forced(transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
        def __call__(self, ids: Any, scores: Any) -> Any:
            scores[:, script[ids.shape[1] - length]] = torch.inf
            return scores

    clock = [time.perf_counter()]
    with torch.inference_mode():
        inputs = reasoner._encode(image, reasoner._prompt(query)).to(reasoner.device)
        length = inputs['input_ids'].shape[1]
        written = reasoner._model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=len(script),
            logits_processor=transformers.LogitsProcessorList([Forced()]),
        )
        text = reasoner._processor.batch_decode(
            written[:, length:], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )[0]
        clock.append(time.perf_counter())
        with segmenter._autocast():
            features = segmenter._model.get_image_embeddings(segmenter._preprocess(image))
        clock.append(time.perf_counter())
        size = image_size(image)
        space = reasoner.family.answer_size(size)
        answer = parse_answer(text, space)
        box = rescale_box(answer.box, space, size)
        points = [rescale_point(point, space, size) for point in answer.points]
        with segmenter._autocast():
            found = segmenter._model(
                image_embeddings=features, **segmenter._prompt(size, [(box, points)])
            )
        logits, scores = found.pred_masks[0, 0].float(), found.iou_scores[0, 0].float()
        masks = (_upsample(logits, image.shape[:2]) > 0).float().cpu().numpy()
        mask = masks[int(scores.argmax())].astype(bool)
        clock.append(time.perf_counter())
    stages = dict(zip(('reason', 'embed', 'decode'), np.diff(clock).tolist(), strict=True))
    return mask, {**stages, 'total': clock[-1] - clock[0]}


def quantiles(rounds: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return (p50, p95) of each stage."""
    return {
        stage: [float(np.quantile([each[stage] for each in rounds], q)) for q in (0.5, 0.95)]
        for stage in rounds[0]
    }


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    seconds = figures['seconds']
    stages = ('reason', 'first_text', 'embed', 'decode', 'total', 'cpu')
    print(f'{"ms, p50 (p95)":16}' + ''.join(f'{stage:>20}' for stage in stages))
    for way, found in seconds.items():
        cells = [
            '{:.1f} ({:.1f})'.format(*(1e3 * v for v in found[s])) if s in found else '-'
            for s in stages
        ]
        print(f'{way:16}' + ''.join(f'{cell:>20}' for cell in cells))
    original, first, second = (seconds[way] for way in WAYS)
    for name, over, under in (
        ('original / first sentence', original, first),
        ('original / second sentence', original, second),
        ('second / first sentence', second, first),
    ):
        wall, cpu = (over[stage][0] / under[stage][0] for stage in ('total', 'cpu'))
        print(f'{name}: {wall:.2f} ({cpu:.2f} in CPU seconds)')
    print(f'everything / reasoner alone: {first["total"][0] / first["reason"][0]:.2f}')
    print(f'the same masks: {figures["same masks"]}')
    print({key: figures[key] for key in ('device', 'threads', 'tokens', 'side')})


def draw(figures: dict[str, Any], file: Path) -> None:
    """Draw the stages of each way as bars."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    plot, axes = pyplot.subplots(figsize=(7, 2.2), layout='constrained')
    for row, found in enumerate(figures['seconds'].values()):
        reason, total = found['reason'][0], found['total'][0]
        axes.barh(row, 1e3 * reason, color='#4477aa', label='reasoner' if not row else None)
        rest = 1e3 * (total - reason)
        label = 'segmenter, as far as it is waited for' if not row else None
        axes.barh(row, rest, left=1e3 * reason, color='#ee6677', label=label)
        axes.text(1e3 * total, row, f' {1e3 * total:.0f} ms', va='center')
    axes.set_yticks(range(len(WAYS)), WAYS)
    axes.invert_yaxis()
    axes.set_xlabel(f'ms, {figures["tokens"]} tokens, {figures["side"]} pixels')
    axes.margins(x=0.15)
    axes.legend(loc='lower right')
    plot.savefig(file, dpi=120)


if __name__ == '__main__':
    main()
