# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the training tests: a tiny model, short runs."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from segzero_core.errors import SegZeroError
from segzero_core.runtime.program import one_line

ROOT = Path(__file__).parents[2]

# Four steps of eight answers on the smallest images: a second or two.
SHORT_GRPO = """\
method: grpo
data: synthetic:train?kinds=attribute&count=6&size=56&objects=2
image_size: 56
batch_size: 2
micro_batch: 4
num_generations: 4
max_completion_tokens: 8
max_steps: 4
learning_rate: 1e-3
loss: bnpo
save_steps: 2
sample_steps: 2
samples: 2
gradient_checkpointing: false
"""


@pytest.fixture(scope='session')
def trl() -> None:
    """Skip where TRL is not installed."""
    pytest.importorskip('trl', reason='needs TRL: pip install -r requirements/train.txt')


@pytest.fixture(scope='session')
def short_grpo(
    trl: None, tiny_reasoner_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A configuration of a few seconds of GRPO."""
    path = tmp_path_factory.mktemp('config') / 'short_grpo.yaml'
    path.write_text(SHORT_GRPO + f'model: {tiny_reasoner_dir}\n')
    return path


class Training:
    """``training/train.py`` as a separate process."""

    def __init__(self, config: Path, output: Path, *overrides: str) -> None:
        command = [sys.executable, str(ROOT / 'training' / 'train.py'), '--config', str(config)]
        self.output = output
        self.log = output.with_suffix('.log')
        with self.log.open('a') as log:
            self.process = subprocess.Popen(
                [*command, f'output={output}', *overrides],
                stdout=log,
                stderr=log,
                env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
                start_new_session=True,
            )

    def kill_when(self, exists: Path) -> None:
        """Send SIGKILL as soon as the file ``exists`` is there."""
        while not exists.exists():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.005)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> str:
        """Wait for a good end; return what was printed."""
        status = self.process.wait()
        assert status == 0, self.log.read_text()
        return self.log.read_text()


@pytest.fixture
def start_training() -> type[Training]:
    """``Training``: starts the command line as a process."""
    return Training


@pytest.fixture
def limited_files() -> Callable[[int], AbstractContextManager[None]]:
    """Limit the size of written files in bytes, as a full disk would."""

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def failure() -> Callable[[Callable[[list[str]], int], list[str]], str]:
    """Run the ``main`` of a program, which must end with an error; return the line it says."""

    def run(main: Callable[[list[str]], int], arguments: list[str]) -> str:
        with pytest.raises((SegZeroError, OSError)) as caught:
            main(arguments)
        return one_line(caught.value)

    return run
