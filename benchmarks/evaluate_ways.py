# SPDX-License-Identifier: Apache-2.0
"""An evaluation of tiny models with our and with the released code; used by ``evaluate.py``.

``python benchmarks/evaluate_ways.py ours|released DATA MODEL SEGMENTER`` measures one of the two.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peak import peak_megabytes

SIDE = 112  # pixels of the square the tiny reasoner sees
BATCH = 42
ANSWER = (
    '<think>The picture shows several things on a table. The one that is meant stands in the '
    'middle, in front of the others, and fits the words best.</think>'
    '<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}</answer>'
)


def main() -> None:
    """Measure one method; print the figures as one line of JSON."""
    way, *folders = sys.argv[1:]
    result = {'ours': ours, 'released': released}[way](*map(Path, folders))
    print(json.dumps({**result, 'peak': peak_megabytes()}))


def teach(folder: Path, steps: int = 160) -> Path:
    """Write a tiny reasoner that answers ``ANSWER`` to anything, and then stops."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText

    from segzero_core.prompts import get_family
    from segzero_core.reasoners.qwen_processor import QwenProcessor
    from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner

    build_tiny_reasoner(folder)
    notes = {'family': 'seg_zero', 'image_size': SIDE}
    (folder / 'segzero.json').write_text(json.dumps(notes))
    processor = QwenProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    reply = ANSWER + '<|im_end|>'
    length = len(processor.tokenizer(reply).input_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        words = ''.join(rng.choice(list('abcdefghijklm nopqrstuvwxyz '), rng.integers(3, 60)))
        prompt = processor.apply_chat_template(
            get_family('seg_zero').conversation(words), add_generation_prompt=True
        )
        picture = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        inputs = processor(text=[prompt + reply], images=[picture], return_tensors='pt')
        labels = inputs['input_ids'].clone()
        labels[:, :-length] = -100
        model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def ours(data: Path, model: Path, segmenter: Path) -> dict[str, Any]:
    """Evaluate as ``training/evaluate.py`` does; return time, CPU time and pixel counts."""
    from segzero_core.data import read_samples
    from training.evaluate import assigned_rows
    from training.evaluation.engines import Engines
    from training.evaluation.fingerprint import run_settings
    from training.evaluation.merging import merge_shards
    from training.evaluation.options import make_config
    from training.evaluation.prefetch import load_batches
    from training.evaluation.shards import ProcessRank, Shard, open_run

    place = ProcessRank.of_environment()
    with tempfile.TemporaryDirectory() as name:
        flags = {'dataset': str(data), 'output': name, 'model': str(model), 'device': 'cpu'}
        flags |= {'segmenter_model': str(segmenter), 'protocol': 'released'}
        config = make_config(None, flags | {'batch_size': BATCH})
        with Engines(config, '', place) as engines:
            start, worked = time.perf_counter(), time.process_time()
            samples = read_samples(config.dataset)
            run = open_run(Path(name), run_settings(config, samples))
            rows: list[dict[str, Any]] = []
            shard = Shard(Path(name), run, place, rows.append)
            batches = load_batches(samples, assigned_rows(samples, place), BATCH)
            for results in engines.runner.run(batches):
                for row in results:
                    shard.add(row)
            shard.close()
            merge_shards(Path(name), run, place.world, len(samples))
            seconds, cpu = time.perf_counter() - start, time.process_time() - worked
    counts = [[row['intersection'], row['union']] for row in rows]
    return {'seconds': seconds, 'cpu': cpu, 'counts': counts}


def released(data: Path, model: Path, segmenter: Path) -> dict[str, Any]:
    """Evaluate as Seg-Zero's code at 77f9ea5 does; return time, CPU time and pixel counts.

    The original reads true masks from nested lists, which takes longer than everything else. This
    benchmark reads the masks from files instead.
    """
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText

    from segzero_core.answers.released import parse_released
    from segzero_core.reasoners.image_input import model_picture
    from segzero_core.reasoners.qwen_processor import QwenProcessor
    from segzero_core.runtime.checkpoint_metadata import choose_family
    from segzero_core.segmenters.sam2 import Sam2Segmenter, upsample
    from segzero_core.types import Size

    family = choose_family(model, 'qwen2_5_vl')
    processor = QwenProcessor.from_pretrained(model, padding_side='left')
    network = AutoModelForImageTextToText.from_pretrained(model).eval()
    promptable = Sam2Segmenter(str(segmenter), 'cpu')
    counts = []
    start, worked = time.perf_counter(), time.process_time()
    rows = [json.loads(line) for line in (data / 'records.jsonl').read_text().splitlines()]
    images = [np.asarray(Image.open(data / row['image']).convert('RGB')) for row in rows]
    masks = [np.asarray(Image.open(data / row['mask'])) > 0 for row in rows]
    for first in range(0, len(rows), BATCH):
        part = range(first, min(first + BATCH, len(rows)))
        prompts = [
            processor.apply_chat_template(
                family.conversation(rows[i]['query']), add_generation_prompt=True
            )
            for i in part
        ]
        pictures = [model_picture(images[i], family.input_size(Size(1, 1))) for i in part]
        inputs = processor(text=prompts, images=pictures, padding=True, return_tensors='pt')
        with torch.inference_mode():
            written = network.generate(**inputs, do_sample=False, max_new_tokens=1024)
        texts = processor.batch_decode(
            written[:, inputs['input_ids'].shape[1] :], skip_special_tokens=True
        )
        for i, text in zip(part, texts, strict=True):
            height, width = masks[i].shape
            answer = parse_released(text, Size(SIDE, SIDE), Size(width, height))
            with torch.inference_mode():
                features = promptable.features(promptable.preprocess(images[i]))
                prompts = [(answer.box, answer.points)]
                asked = promptable.prompt_tensors(Size(width, height), prompts)
                logits, scores = promptable.logits(*asked, *features)
                full = (upsample(logits[0], (height, width)) > 0).float().numpy()
            best = full[np.argsort(scores[0].numpy())[::-1]][0].astype(bool)
            common = np.logical_and(best, masks[i]).sum()
            counts.append([int(common), int(np.logical_or(best, masks[i]).sum())])
    seconds, cpu = time.perf_counter() - start, time.process_time() - worked
    return {'seconds': seconds, 'cpu': cpu, 'counts': counts}


if __name__ == '__main__':
    main()
