# SPDX-License-Identifier: Apache-2.0
"""Two processes, and DeepSpeed, learn what one process learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.metrics import read_metrics
from training.train import main

ROOT = Path(__file__).parents[2]
TORCHRUN = ('torch.distributed.run', '--standalone', '--nproc-per-node=2')
# As config/accelerate/zero2_8gpu.yaml, on the one process a CPU allows.
ZERO2 = (
    'accelerate.commands.launch',
    '--config_file',
    str(ROOT / 'config' / 'accelerate' / 'zero2_8gpu.yaml'),
    '--num_processes=1',
)


def losses(run: Path) -> list[float]:
    return [line['loss'] for line in read_metrics(run)]


def launch(module: tuple[str, ...], arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, '-m', *module, str(ROOT / 'training' / 'train.py'), *arguments],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def supervised(
    short_grpo: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], list[float]]:
    """Arguments of a supervised run, and the losses one process has."""
    arguments = ['--config', str(short_grpo), 'method=sft', 'batch_size=4', 'micro_batch=2']
    run = tmp_path_factory.mktemp('single')
    assert main([*arguments, f'output={run}']) == 0
    found = losses(run)
    assert found[3] < found[0]
    return arguments, found


@pytest.mark.slow
def test_two_processes(supervised: tuple[list[str], list[float]], tmp_path: Path) -> None:
    arguments, expected = supervised
    assert '2 processes' in launch(TORCHRUN, [*arguments, f'output={tmp_path}'])
    assert losses(tmp_path) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_deepspeed(supervised: tuple[list[str], list[float]], tmp_path: Path) -> None:
    pytest.importorskip('deepspeed', reason='needs deepspeed: requirements/train.txt')
    arguments, expected = supervised
    launch(ZERO2, [*arguments, f'output={tmp_path}', 'precision=bf16'])
    assert (tmp_path / 'checkpoint-4' / 'latest').is_file()
    assert losses(tmp_path) == pytest.approx(expected, rel=0.02)
