# SPDX-License-Identifier: Apache-2.0
"""Two processes, and DeepSpeed, learn what one process learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.metrics_log import read_metrics
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
    return [line['loss'] for line in read_metrics(run) if 'loss' in line]


def examined(run: Path) -> list[float]:
    return [line['eval/reward'] for line in read_metrics(run) if 'eval/reward' in line]


def launch(module: tuple[str, ...], arguments: list[str]) -> str:
    # DeepSpeed compiles C++ for half a minute, once for each environment. A process that is killed
    # meanwhile leaves a lock, for which all later processes would wait without end.
    compiled = Path(sys.prefix, 'torch_extensions')
    for lock in compiled.glob('*/lock'):
        lock.unlink()
    done = subprocess.run(
        [sys.executable, '-m', *module, str(ROOT / 'training' / 'train.py'), *arguments],
        env={
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'CUDA_VISIBLE_DEVICES': '',
            'TORCH_EXTENSIONS_DIR': str(compiled),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def single(short_grpo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Arguments of a supervised run, and the run of one process."""
    arguments = [
        *('--config', str(short_grpo), 'method=sft', 'batch_size=4', 'micro_batch=2'),
        'eval_data=synthetic:val?kinds=attribute&size=56&objects=2&count=3',
    ]
    run = tmp_path_factory.mktemp('single')
    assert main([*arguments, f'output={run}']) == 0
    found = losses(run)
    assert found[3] < found[0]
    return arguments, run


def test_two_processes(single: tuple[list[str], Path], tmp_path: Path) -> None:
    arguments, alone = single
    told = launch(TORCHRUN, [*arguments, f'output={tmp_path}'])
    assert '2 processes' in told
    assert '3 held-out records' in told
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-4)
    assert len(examined(alone)) == 2
    assert examined(tmp_path) == pytest.approx(examined(alone))


@pytest.mark.parametrize(('records', 'processes'), [(1, 1), (7, 2), (3, 8), (16, 4), (33, 8)])
def test_all_processes_answer_equally_often(trl: None, records: int, processes: int) -> None:
    from training.callbacks import assign_records

    shares = [assign_records(records, process, processes) for process in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert {record for share in shares for record in share} == set(range(records))
    assert sorted(set(shares[0])) == shares[0]


def test_deepspeed(single: tuple[list[str], Path], tmp_path: Path) -> None:
    pytest.importorskip('deepspeed', reason='needs deepspeed: requirements/train.txt')
    arguments, alone = single
    launch(ZERO2, [*arguments, f'output={tmp_path}', 'precision=bf16'])
    assert (tmp_path / 'checkpoint-4' / 'latest').is_file()
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=0.02)
