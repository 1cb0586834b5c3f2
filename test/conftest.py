# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints of the real model classes, built once per test session."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

# The answer of the overfit reasoner to any sentence, in pixels of its 112 x 112 image. The cup
# takes several tokens, none of which is a whole character.
OVERFIT_ANSWER = (
    '<think>The red mug ☕ stands left of the box.</think>'
    '<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}</answer>'
)


@pytest.fixture(scope='module')
def one_thread() -> Iterator[None]:
    """Run torch on one thread, because more threads are slower on matrices this small."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def tiny() -> ModuleType:
    """``segzero_core.runtime.tiny_checkpoints``, where what it needs is installed."""
    for library in ('torch', 'transformers'):
        pytest.importorskip(library, reason=f'needs {library}: see requirements/models.txt')
    from segzero_core.runtime import tiny_checkpoints as tiny

    return tiny


@pytest.fixture(scope='session')
def tiny_reasoner_dir(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Qwen2.5-VL. It answers nonsense."""
    return tiny.build_tiny_reasoner(tmp_path_factory.mktemp('tiny_reasoner'))


@pytest.fixture(scope='session')
def tiny_segmenter_dir(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random SAM 2. Its masks are nonsense of the right size."""
    return tiny.build_tiny_segmenter(tmp_path_factory.mktemp('tiny_segmenter'))


@pytest.fixture(scope='session')
def overfit_reasoner_dir(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Qwen2.5-VL that answers ``OVERFIT_ANSWER`` to anything.

    It was trained for a few seconds to do so, and to go on writing after the answer.
    """
    folder = tiny.build_tiny_reasoner(tmp_path_factory.mktemp('overfit_reasoner'))
    (folder / 'segzero.json').write_text(json.dumps({'family': 'seg_zero', 'image_size': 112}))
    _overfit(folder, OVERFIT_ANSWER + ' That is all there is to say.<|im_end|>', steps=160)
    return folder


def _overfit(folder: Path, reply: str, steps: int) -> None:
    """Train the model in ``folder`` to write ``reply`` whatever the image and the question."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText

    from segzero_core.prompts import get_family
    from segzero_core.reasoners.qwen_processor import QwenProcessor

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads are slower on matrices this small
    processor = QwenProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    answer = processor.tokenizer(reply, return_tensors='pt').input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    random = np.random.default_rng(0)
    for _ in range(steps):
        letters = random.choice(list(string.printable[:95] + 20 * ' '), random.integers(3, 60))
        prompt = processor.apply_chat_template(
            get_family('seg_zero').conversation(''.join(letters)), add_generation_prompt=True
        )
        noise = random.integers(0, 256, (112, 112, 3), dtype=np.uint8)
        pixels = noise if random.random() < 0.5 else np.full_like(noise, noise[0, 0])
        inputs = processor(
            text=[prompt + reply], images=[Image.fromarray(pixels)], return_tensors='pt'
        )
        labels = inputs['input_ids'].clone()
        labels[:, : -answer.shape[1]] = -100
        model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    torch.set_num_threads(threads)
