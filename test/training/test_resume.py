# SPDX-License-Identifier: Apache-2.0
"""A killed run continues to the same result as an uninterrupted run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')

from training.train import main

# Times and the trainer's own share of the run differ from run to run; nothing else may.
_TIMES = ('step_time', 'train_runtime')


def learnt(run: Path) -> list[dict[str, Any]]:
    from training.metrics_log import read_metrics

    return [
        {key: value for key, value in line.items() if key not in _TIMES}
        for line in read_metrics(run)
    ]


def test_killed_run_continues_exactly(
    short_grpo: Path, tmp_path: Path, start_training: Any
) -> None:
    whole = start_training(short_grpo, tmp_path / 'whole')
    killed = start_training(short_grpo, tmp_path / 'killed')
    # The picture is drawn in step 4, from answers that checkpoint 2 knows nothing of.
    killed.kill_when(tmp_path / 'killed' / 'samples' / 'step_000004.jsonl')
    resumed = start_training(short_grpo, tmp_path / 'killed')
    whole.finish()
    assert 'continuing from' in resumed.finish()

    expected = learnt(tmp_path / 'whole')
    assert [line['step'] for line in expected] == [1, 2, 3, 4]
    assert learnt(tmp_path / 'killed') == expected
    # The model really learnt, so the compared values are not constant.
    assert len({line['grad_norm'] for line in expected}) == 4
    assert expected[3]['kl'] > 0


@pytest.mark.parametrize(
    'extra',
    [('lora_rank=4',), ('method=sft', 'micro_batch=1', 'freeze_vision=true')],
    ids=['lora', 'sft'],
)
def test_stopped_run_continues_exactly(
    short_grpo: Path, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    settings = ['--config', str(short_grpo), *extra]
    assert main([*settings, f'output={tmp_path / "whole"}']) == 0
    for steps in (2, 4):
        assert main([*settings, f'output={tmp_path / "parts"}', f'max_steps={steps}']) == 0
    expected = learnt(tmp_path / 'whole')
    assert len(expected) == 4
    assert learnt(tmp_path / 'parts') == expected


def test_half_written_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    from training.checkpointing import PARTIAL, newest_checkpoint

    (tmp_path / PARTIAL / 'checkpoint-30').mkdir(parents=True)
    for step in (9, 10):
        (tmp_path / f'checkpoint-{step}').mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / 'checkpoint-10'
    assert not (tmp_path / PARTIAL).exists()


def test_metrics_of_steps_done_again_are_dropped(tmp_path: Path) -> None:
    from training.metrics_log import append_metrics, forget_after, read_metrics

    for step in (1, 2, 3):
        append_metrics(tmp_path, {'step': step, 'loss': math.nan})
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 4, "lo')  # killed while writing
    forget_after(tmp_path, 2)
    assert read_metrics(tmp_path) == [{'step': 1, 'loss': None}, {'step': 2, 'loss': None}]


def test_order_depends_on_seed_and_step_alone() -> None:
    from training.dataset import StepSampler

    long = list(StepSampler(rows=5, steps=6, sentences=2, seed=1, copies=3, repeats=2))
    short = list(StepSampler(rows=5, steps=3, sentences=2, seed=1, copies=3, repeats=2))
    assert len(long) == 6 * 2 * 3 * 2
    assert long[: len(short)] == short
    steps = [long[i : i + 12] for i in range(0, len(long), 12)]
    assert all(step[:6] == step[6:] and step[:3] == [step[0]] * 3 for step in steps)
    seen = [step[i] for step in steps for i in (0, 3)]
    assert sorted(seen[:5]) == sorted(seen[5:10]) == list(range(5))
    assert seen[:5] != seen[5:10]
