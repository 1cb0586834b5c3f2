# SPDX-License-Identifier: Apache-2.0
"""The files of a run: metrics, pictures, plots, a model that the reasoner loads."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from segzero_core.data import read_dataset
from training import plot
from training.metrics_log import append_metrics, read_metrics
from training.train import main

Failure = Callable[[Callable[[list[str]], int], list[str]], str]


@pytest.fixture(scope='module')
def run(short_grpo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with everything switched on."""
    folder = tmp_path_factory.mktemp('runs') / 'all'
    settings = [
        f'output={folder}',
        'think=false',
        'extra_rewards=[mask_iou]',
        'segmenter=grabcut',
        'eval_data=synthetic:val?kinds=attribute&size=56&objects=2',
        'eval_limit=3',
        'eval_steps=3',
        'tensorboard=true',
        'warmup_steps=2',
        'keep_checkpoints=1',
    ]
    pytest.importorskip('tensorboard', reason='needs tensorboard')
    assert main(['--config', str(short_grpo), *settings]) == 0
    return folder


def test_metrics(run: Path) -> None:
    lines = read_metrics(run)
    steps = [line for line in lines if 'loss' in line]
    assert [line['step'] for line in steps] == [1, 2, 3, 4]
    names = {
        'reward',
        'kl',
        'parsed',
        'completions/min_length',
        'completions/mean_length',
        'completions/max_length',
        'rewards/answer_format/mean',
        'rewards/box_iou/mean',
        'rewards/box_l1/mean',
        'rewards/point_l1/mean',
        'rewards/mask_iou/mean',
    }
    assert names <= steps[0].keys()
    assert 'rewards/think_format/mean' not in steps[0]
    assert [line['learning_rate'] for line in steps] == pytest.approx([0, 5e-4, 1e-3, 1e-3])
    examined = [line for line in lines if 'eval/reward' in line]
    assert [line['step'] for line in examined] == [0, 3, 4]
    assert {'eval/parsed', 'eval/box_hit', 'eval/box_overlap'} <= examined[0].keys()


def test_samples_have_their_pictures(run: Path) -> None:
    for step in (2, 4):
        file = run / 'samples' / f'step_{step:06d}.jsonl'
        samples = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(samples) == 2
        assert set(samples[0]) == {'id', 'query', 'text', 'rewards'}
        assert set(samples[0]['rewards']) >= {'answer_format', 'mask_iou'}
        with Image.open(run / 'samples' / f'step_{step:06d}_1.png') as picture:
            assert picture.width == 56
            assert picture.height > 56


def test_only_the_checkpoints_wanted_are_kept(run: Path) -> None:
    assert [path.name for path in run.glob('checkpoint*')] == ['checkpoint-4']
    assert list(run.rglob('events.out.tfevents.*'))


def test_plots(run: Path, failure: Failure) -> None:
    pytest.importorskip('matplotlib', reason='needs matplotlib')
    assert plot.main([str(run), '--output', str(run / 'plots')]) == 0
    for name in ('lengths', 'rewards'):
        with Image.open(run / 'plots' / f'{name}.png') as picture:
            assert len(picture.convert('RGB').getcolors(2**24) or []) > 10
    error = failure(plot.main, [str(run / 'samples')])
    assert 'has no metrics.jsonl' in error


def test_runs_of_one_name_are_all_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('matplotlib', reason='needs matplotlib')
    runs = [tmp_path / 'first' / 'run', tmp_path / 'second' / 'run']
    lengths = {f'completions/{name}_length': 3.0 for name in ('min', 'mean', 'max')}
    for run in runs:
        run.mkdir(parents=True)
        append_metrics(run, {'step': 1, 'rewards/box_iou/mean': 0.5, **lengths})
    lines = []

    def count(figure: Any, path: Path) -> Path:
        lines.append(len(figure.axes[0].lines))
        return path

    monkeypatch.setattr(plot, 'save_figure', count)
    plot.plot(runs, tmp_path)
    assert lines == [2, 2]


def test_names_of_runs_in_any_script_are_legends(tmp_path: Path) -> None:
    pytest.importorskip('matplotlib', reason='needs matplotlib')
    names = ['红色杯子', 'красная', 'a$b$', '_hidden', 'mug 🍎', os.fsdecode(b'r\xe9n')]
    lengths = {f'completions/{name}_length': 3.0 for name in ('min', 'mean', 'max')}
    for name in names:
        (tmp_path / name).mkdir()
        append_metrics(tmp_path / name, {'step': 1, 'rewards/box_iou/mean': 0.5, **lengths})
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # matplotlib warns of letters that it draws as boxes
        plot.plot([tmp_path / name for name in names], tmp_path)
    assert (tmp_path / 'lengths.png').stat().st_size > 1000


def test_model_is_asked_as_it_was_trained(run: Path) -> None:
    from segzero_core.reasoners.transformers import TransformersReasoner

    reasoner = TransformersReasoner(str(run / 'model'), device='cpu', max_new_tokens=4)
    (record,) = read_dataset('synthetic:val?size=56&count=1').records
    assert reasoner.task.family.image_size == 56
    assert 'think' not in reasoner.task.prompt.template
    assert reasoner.reason(record.load_image(), record.query).text
    assert not list((run / 'model').glob('*.bin'))
    reasoner.close()
