# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of every task: trained tiny by our presets, then asked by engine and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('trl', reason='needs TRL: pip install -r requirements/train.txt')
pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')

from segzero_core.data import read_dataset
from segzero_core.pipeline import SegZero
from segzero_core.reasoners import load_reasoner
from segzero_core.segmenters import load_segmenter
from training import evaluate, train
from training.evaluation.merging import read_rows

PRESETS = Path(__file__).parents[2] / 'config' / 'training'
# Imitation teaches the form of an answer in a few steps, where reinforcement needs many.
SHORT = [
    'method=sft',
    'max_steps=14',
    'learning_rate=5e-4',
    'warmup_steps=0',
    'schedule=constant',
    'batch_size=16',
    'micro_batch=16',
    'save_steps=100',
    'eval_data=',
    'segmenter=',
    'segmenter_model=',
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize(
    ('preset', 'answer', 'think'),
    [('tiny_bbox', 'box', True), ('tiny_points', 'points', True), ('tiny_nocot', '', False)],
)
def test_a_checkpoint_is_asked_and_read_as_it_was_trained(
    tmp_path: Path, preset: str, answer: str, think: bool
) -> None:
    run = tmp_path / preset
    assert train.main(['--config', str(PRESETS / f'{preset}.yaml'), *SHORT, f'output={run}']) == 0
    model = run / 'model'
    notes = json.loads((model / 'segzero.json').read_text())
    assert (notes['answer'], notes['think']) == (answer or 'box_points', think)

    # In the pipeline, as the command line and the node use it.
    reasoner = load_reasoner('transformers', model=str(model), device='cpu', max_new_tokens=64)
    segzero = SegZero(reasoner, load_segmenter('grabcut'))
    (record,) = read_dataset('synthetic:val?size=256x192&count=1&kinds=attribute').records
    found = segzero(record.load_image(), record.query)
    assert found.mask.any()
    assert (found.box is None) == (answer == 'points')
    assert (found.points == ()) == (answer == 'box')
    assert bool(found.reasoning) == think
    segzero.close()

    # And in the evaluation, without a word about the task.
    dataset = 'synthetic:val?size=256x192&count=4&kinds=attribute'
    flags = ['--dataset', dataset, '--model', str(model), '--segmenter', 'grabcut']
    flags += ['--device', 'cpu', '--max-new-tokens', '64', '--output', str(tmp_path / 'eval')]
    assert evaluate.main(flags) == 0
    rows = list(read_rows(tmp_path / 'eval'))
    assert {row['status'] for row in rows} <= {'ok', 'repaired'}
    assert not any(row['repairs'] for row in rows)
    for row in rows:
        assert (row['box'] is None) == (answer == 'points')
        assert (row['points'] == []) == (answer == 'box')
