# SPDX-License-Identifier: Apache-2.0
"""Held-out answers while training: as the reasoner writes them, or truly sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segzero_core.data import read_dataset

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')

import torch

from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.reasoners.transformers import TransformersReasoner
from segzero_core.rewards.hardened import Recipe
from segzero_core.task import Task
from training.models import load_model
from training.validation import answer_records


def load(folder: Path) -> tuple[Any, Any]:
    processor = QwenProcessor.from_pretrained(folder, padding_side='left')
    return load_model(folder, torch.float32), processor


def test_answers_are_those_of_the_reasoner(overfit_reasoner_dir: Path) -> None:
    records = read_dataset('synthetic:val?size=112&count=3').records
    reasoner = TransformersReasoner(str(overfit_reasoner_dir), device='cpu', max_new_tokens=200)
    found = answer_records(
        *load(overfit_reasoner_dir), records, reasoner.task, Recipe(), max_tokens=200, batch=2
    )
    for answer, record in zip(found, records, strict=True):
        assert answer.text.startswith(reasoner.reason(record.load_image(), record.query).text)
        assert answer.values['parsed'] == 1
        assert answer.values['think_format'] == 0  # it goes on writing after the answer
        assert answer.values['answer_format'] == 1
    reasoner.close()


def test_sampling_ignores_the_sampling_settings_of_the_checkpoint(tiny_reasoner_dir: Path) -> None:
    """Those of Qwen2.5-VL make sampling greedy; a list of others would change it, too."""
    model, processor = load(tiny_reasoner_dir)
    records = read_dataset('synthetic:val?size=56&count=1').records

    def answer(temperature: float, seed: int) -> str:
        torch.manual_seed(seed)
        found = answer_records(
            model, processor, records, Task(), Recipe(), max_tokens=8, temperature=temperature
        )
        return found[0].text

    plain = [answer(1.0, seed) for seed in range(4)]
    assert len(set(plain)) == 4
    qwen = {'temperature': 1e-6, 'top_p': 0.001, 'top_k': 1, 'repetition_penalty': 1.05}
    other = {'min_p': 0.9, 'typical_p': 0.1, 'epsilon_cutoff': 0.1, 'no_repeat_ngram_size': 1}
    for settings in (qwen, other):
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
        assert [answer(1.0, seed) for seed in range(4)] == plain
    assert answer(0.0, 0) == answer(0.0, 1)


def test_a_failure_leaves_the_model_in_its_mode(tiny_reasoner_dir: Path) -> None:
    model, processor = load(tiny_reasoner_dir)
    model.train()
    records = read_dataset('synthetic:val?size=56&count=1').records
    with pytest.raises(ValueError, match='max_new_tokens'):
        answer_records(model, processor, records, Task(), Recipe(), max_tokens=0)
    assert model.training
