# SPDX-License-Identifier: Apache-2.0
"""Time from a sentence to its mask, by stage, compared with the original's method.

    python benchmarks/latency.py [--rounds 10] [--json latency.json] [--plot latency.png]
    python benchmarks/latency.py --reasoner tiny --segmenter tiny_sam2 --tokens 0

The original's method (dvlab-research/Seg-Zero at 77f9ea5) runs three steps in sequence:
transformers' unmodified image processor, model and ``generate``; SAM 2's encoder; and SAM 2's
decoder, whose three masks are upsampled to the image's size and copied as floats.

Both methods use the same weights, images and sentences, in turn, in one process, and write the
same replies. With ``--tokens 0`` the replies are the model's own, about synthetic scenes.
Otherwise both methods are forced to write given replies, so random weights of any shape can be
used. These replies have thoughts of random words, which n-gram drafts cannot predict, and answers
with random numbers. Without ``--reasoner`` and ``--segmenter`` tiny random models are created.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WAYS = ('original', 'first sentence', 'second sentence', 'reasoner alone')
Case = tuple[Any, str, str]  # an image and two sentences about it


def main() -> None:
    """Measure, print a table, and write the requested files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--reasoner', help='folder or hub id; a tiny random one if absent')
    parser.add_argument('--segmenter', help='folder or hub id; a tiny random one if absent')
    parser.add_argument('--device', default='', help='CUDA if there is one')
    parser.add_argument(
        '--side', type=int, default=0, help="image's; 0 = as the model was trained"
    )
    parser.add_argument('--tokens', type=int, default=150, help="of a reply; 0 = the model's own")
    parser.add_argument('--drafts', type=int, default=8, help='0 = guess nothing')
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
    """Return p50 and p95 in seconds per method and stage, and the number of equal masks."""
    import torch

    from segzero_core import SegZero
    from segzero_core.reasoners.transformers import TransformersReasoner
    from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner, build_tiny_segmenter
    from segzero_core.segmenters.sam2 import Sam2Segmenter

    if options.threads:
        torch.set_num_threads(options.threads)
    model = options.reasoner or str(build_tiny_reasoner(folder / 'reasoner', dtype=torch.bfloat16))
    reasoner = TransformersReasoner(
        model, options.device, image_side=options.side, num_draft_tokens=options.drafts
    )
    segmenter = Sam2Segmenter(
        options.segmenter or str(build_tiny_segmenter(folder / 'segmenter')), options.device
    )
    replies: dict[str, list[int]] = {}
    cases = noise(reasoner, options.tokens, replies) if options.tokens else scenes()
    original = Original(model, reasoner, segmenter, replies)
    steps = counted(reasoner.engine.cache)
    times: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    same, passes = [], []
    with SegZero(reasoner, segmenter) as segzero:
        segzero.warm_up()
        for number in range(options.rounds + 1):
            (image, query, other), (unseen, third, _) = next(cases), next(cases)
            clock = [time.process_time()]
            mask, stages = original(image, query)
            clock.append(time.process_time())
            steps[0] = 0
            first = segzero(image, query)
            clock.append(time.process_time())
            passes.append(steps[0])
            second = segzero(image, other)
            clock.append(time.process_time())
            alone = -time.perf_counter()
            reasoner.reason(unseen, third)
            alone += time.perf_counter()
            clock.append(time.process_time())
            same.append(np.array_equal(first.mask, mask))
            if number:  # the first round warms up
                found = (stages, first.timings, second.timings, {'reason': alone, 'total': alone})
                for way, seconds, cpu in zip(WAYS, found, np.diff(clock), strict=True):
                    times[way].append({**seconds, 'cpu': float(cpu)})
    return {
        'device': str(reasoner.device),
        'threads': torch.get_num_threads(),
        'tokens': options.tokens,
        'side': reasoner.task.answer_size((640, 480)).width,
        'drafts': options.drafts,
        'passes after the prompt': float(np.mean(passes)),
        'same masks': f'{sum(same)} of {len(same)}',
        'seconds': {way: quantiles(rounds) for way, rounds in times.items()},
    }


def counted(cache: Any) -> list[int]:
    """Return a list that records every later forward pass of ``cache`` over text."""
    count, extend = [0], cache.extend

    def count_on(*args: Any) -> Any:
        count[0] += 1
        return extend(*args)

    cache.extend = count_on
    return count


def scenes() -> Iterator[Case]:
    """Yield scenes, each with two sentences about it."""
    from segzero_core.synthetic import make_scene

    for seed in itertools.count(1_000_000):
        scene = make_scene(seed)
        first, second, *_ = [query.text for query in scene.queries()] * 2
        yield scene.image, first, second


def noise(reasoner: Any, tokens: int, replies: dict[str, list[int]]) -> Iterator[Case]:
    """Force the content of ``replies`` on ``reasoner``, and yield frames of noise.

    The reply to each sentence is added to ``replies``. It has the requested number of tokens, and
    no two replies are equal.
    """
    tokenizer = reasoner.processor.tokenizer
    side = reasoner.task.answer_size((640, 480)).width
    words = [t for text, t in tokenizer.get_vocab().items() if text.strip('\u0120').isalpha()]
    rng = np.random.default_rng(0)
    verify, reason = reasoner.engine.verify, reasoner.reason
    left: list[int] = []

    def follow(logits: Any, going: Any) -> list[list[int]]:
        verify(logits, going)  # its time counts
        guess, script = going[0].draft, left[: 1 + len(going[0].draft)]
        right = [one == other for one, other in zip(script, guess, strict=False)]
        tokens = script[: 1 + [*right, False].index(False)]
        del left[: len(tokens)]
        return [tokens or [0]]

    def start(image: Any, query: str, *rest: Any) -> str:
        left[:] = replies.get(query, [])
        return reason(image, query, *rest)

    reasoner.engine.verify, reasoner.reason = follow, start

    def sentence(number: int) -> str:
        x, y = np.sort(rng.integers(0, side - 1, (2, 2)), axis=1).tolist()
        box = [x[0], y[0], x[1] + 1, y[1] + 1]
        points = rng.integers(0, side, (2, 2)).tolist()
        answer = {'bbox': box, 'points_1': points[0], 'points_2': points[1]}
        start = tokenizer('<think>').input_ids
        end = tokenizer(f'</think><answer>{json.dumps(answer)}</answer>').input_ids
        thoughts = rng.choice(words, tokens - len(start) - len(end)).tolist()
        replies[f'thing number {number}'] = [*start, *thoughts, *end]
        return f'thing number {number}'

    for number in itertools.count(0, 2):
        image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        yield image, sentence(number), sentence(number + 1)


class Original:
    """A reimplementation of the original's method."""

    def __init__(
        self, model: str, reasoner: Any, segmenter: Any, replies: dict[str, list[int]]
    ) -> None:
        """Load ``model`` a second time; force ``replies`` on the copy if there are any."""
        import torch

        from segzero_core.reasoners.transformers import best_attention
        from segzero_core.runtime.checkpoints import find_checkpoint, transformers

        folder = find_checkpoint(model)
        self._reasoner, self._segmenter, self._replies = reasoner, segmenter, replies
        self._images = transformers.AutoImageProcessor.from_pretrained(folder)
        self._model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=torch.bfloat16 if reasoner.device.type == 'cuda' else torch.float32,
            attn_implementation=best_attention(reasoner.device),
        )
        self._model.to(reasoner.device).eval()

    def __call__(self, image: Any, query: str) -> tuple[Any, dict[str, float]]:
        """Return the mask and seconds per stage."""
        import torch

        clock = [time.perf_counter()]
        with torch.inference_mode():
            text = self._write(image, query)
            clock.append(time.perf_counter())
            with self._segmenter.autocast():
                square = self._segmenter.preprocess(image)
                features = self._segmenter.model.get_image_embeddings(square)
            clock.append(time.perf_counter())
            mask = self._mask(image, text, features)
            clock.append(time.perf_counter())
        stages = dict(zip(('reason', 'embed', 'decode'), np.diff(clock).tolist(), strict=True))
        return mask, {**stages, 'total': clock[-1] - clock[0]}

    def _write(self, image: Any, query: str) -> str:
        from PIL import Image

        from segzero_core.runtime.checkpoints import transformers
        from segzero_core.types import image_size

        size = self._reasoner.task.input_size(image_size(image))
        picture = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        pixels = self._images(images=[picture], return_tensors='pt')
        tokenizer, mark = self._reasoner.processor.tokenizer, '<|image_pad|>'
        count = int(pixels['image_grid_thw'].prod()) // self._images.merge_size**2
        prompt = self._reasoner.prompt(query).replace(mark, mark * count)
        inputs = {**tokenizer([prompt], return_tensors='pt'), **pixels}
        inputs['mm_token_type_ids'] = (
            inputs['input_ids'] == tokenizer.convert_tokens_to_ids(mark)
        ).int()
        inputs = {name: value.to(self._reasoner.device) for name, value in inputs.items()}
        length = inputs['input_ids'].shape[1]
        reply = self._replies.get(query, [])

        class Forced(transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
            def __call__(self, ids: Any, scores: Any) -> Any:
                scores[:, reply[ids.shape[1] - length]] = np.inf
                return scores

        written = self._model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=len(reply) or 1024,
            logits_processor=transformers.LogitsProcessorList([Forced()] if reply else []),
        )
        return tokenizer.batch_decode(
            written[:, length:], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )[0]

    def _mask(self, image: Any, text: str, features: Any) -> Any:
        from segzero_core.answers.parse import parse_answer
        from segzero_core.geometry import rescale_box, rescale_point
        from segzero_core.segmenters.sam2 import upsample
        from segzero_core.types import image_size

        size = image_size(image)
        space = self._reasoner.task.answer_size(size)
        answer = parse_answer(text, space)
        box = rescale_box(answer.box, space, size)
        points = [rescale_point(point, space, size) for point in answer.points]
        given = self._segmenter.prompt_tensors(size, [(box, points)])
        with self._segmenter.autocast():
            logits, scores = self._segmenter.logits(*given, *features)
        masks = (upsample(logits[0], image.shape[:2]) > 0).float().cpu().numpy()
        return masks[int(scores[0].argmax())].astype(bool)


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
    original, first, second, alone = (seconds[way] for way in WAYS)
    for name, over, under in (
        ('original / first sentence', original, first),
        ('original / second sentence', original, second),
        ('second / first sentence', second, first),
        ('everything / reasoner alone', first, alone),
    ):
        wall, cpu = (over[stage][0] / under[stage][0] for stage in ('total', 'cpu'))
        print(f'{name}: {wall:.2f} ({cpu:.2f} in CPU seconds)')
    both = max(first['reason'][0], first['embed'][0])
    print(f'reasoner and encoder / reasoner alone: {both / alone["reason"][0]:.2f}')
    print({key: value for key, value in figures.items() if key != 'seconds'})


def draw(figures: dict[str, Any], file: Path) -> None:
    """Draw the stages of each method as bars."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    plot, axes = pyplot.subplots(figsize=(7, 2.2), layout='constrained')
    for row, way in enumerate(WAYS[:3]):
        found = figures['seconds'][way]
        reason, total = found['reason'][0], found['total'][0]
        axes.barh(row, 1e3 * reason, color='#4477aa', label='reasoner' if not row else None)
        rest = 1e3 * (total - reason)
        label = 'segmenter, as far as it is waited for' if not row else None
        axes.barh(row, rest, left=1e3 * reason, color='#ee6677', label=label)
        axes.text(1e3 * total, row, f' {1e3 * total:.0f} ms', va='center')
    axes.set_yticks(range(3), WAYS[:3])
    axes.invert_yaxis()
    axes.set_xlabel(f'ms, {figures["tokens"]} tokens, {figures["side"]} pixels')
    axes.margins(x=0.15)
    axes.legend(loc='lower right')
    plot.savefig(file, dpi=120)


if __name__ == '__main__':
    main()
