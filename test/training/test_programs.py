# SPDX-License-Identifier: Apache-2.0
"""The end of the training programs: real processes, real signals, real pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / 'training'
SCENES = 'synthetic:val?size=96x72&count=2&objects=2'
# What each program is asked for where it gets as far.
PROGRAMS = {
    'train.py': ['--config', str(ROOT / 'config' / 'training' / 'tiny_grpo.yaml')],
    'tiny_recipe/train.py': ['--config', str(ROOT / 'config/tiny_recipe/tiny_reasoner.yaml')],
    'evaluate.py': ['--dataset', SCENES],
    'report.py': ['nowhere'],
    'plot.py': ['nowhere'],
}
TERM_BIT = 1 << (signal.SIGTERM - 1)


def start(program: str, *arguments: str, cwd: Path, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TRAINING / program), *arguments],
        cwd=cwd,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **{'stdout': subprocess.PIPE, **more},  # type: ignore[call-overload]
    )


def handles_signals(process: subprocess.Popen[str]) -> bool:
    status = Path(f'/proc/{process.pid}/status').read_text()
    caught = next(line for line in status.splitlines() if line.startswith('SigCgt'))
    return bool(int(caught.split()[1], 16) & TERM_BIT)


@pytest.mark.parametrize('program', PROGRAMS)
def test_ctrl_c_while_it_starts_is_one_line(program: str, tmp_path: Path) -> None:
    process = start(program, *PROGRAMS[program], cwd=tmp_path)
    while not handles_signals(process):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, '')
    assert err.startswith(f'{Path(program).name}: interrupted')
    assert err.count('\n') == 1


@pytest.mark.parametrize(
    ('program', 'arguments', 'message'),
    [
        ('train.py', ['--config', 'none.yaml'], 'cannot read the configuration'),
        ('train.py', [*PROGRAMS['train.py'], 'output=/proc/run'], 'cannot write to /proc/run'),
        ('tiny_recipe/train.py', PROGRAMS['train.py'], 'belong to training/train.py'),
        ('evaluate.py', ['--dataset', SCENES, '--output', '/proc/run'], 'cannot use /proc/run'),
        ('evaluate.py', [], 'no dataset is given'),
        ('report.py', ['nowhere'], 'nowhere holds no finished evaluation'),
        ('plot.py', ['nowhere'], 'nowhere has no metrics.jsonl'),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    program: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    process = start(program, *arguments, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, '')
    assert err.startswith(f'{Path(program).name}: ')
    assert message in err
    assert err.count('\n') == 1


def test_a_reader_that_goes_away_is_no_error_message(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = start('evaluate.py', '--dataset', SCENES, cwd=tmp_path, stdout=writing)
    os.close(writing)
    os.close(reading)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGPIPE
    assert 'Broken' not in err
    assert 'Traceback' not in err
    (run,) = (tmp_path / 'runs' / 'eval').iterdir()
    assert (run / 'summary.json').is_file()


def test_a_locale_without_the_letters_ends_nothing(tmp_path: Path) -> None:
    environment = os.environ | {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONIOENCODING': 'ascii'}
    arguments = ['--dataset', SCENES, '--output', 'Läufe ☕']
    process = start('evaluate.py', *arguments, cwd=tmp_path, env=environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert 'L\\xe4ufe \\u2615' in out or 'udcc3' in out
