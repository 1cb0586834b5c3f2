# SPDX-License-Identifier: Apache-2.0
"""After a fault at any write, the same command continues to the same result."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from segzero_core.errors import SegZeroError
from training import evaluate, train
from training.evaluation.merging import read_rows
from training.metrics_log import read_metrics

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')

FAILURES: list[Callable[[], BaseException]] = [
    lambda: OSError(errno.ENOSPC, 'No space left on device'),
    lambda: KeyboardInterrupt(),
    lambda: MemoryError(),
    lambda: RuntimeError('CUDA error: an illegal memory access was encountered'),
]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class FailingWrites:
    """Counts what is opened for writing, renamed or linked in a folder; one of them can fail.

    The interpreter's audit events come right before the system call, so the failure is at the same
    place as that of a full disk or of a signal.
    """

    def __init__(self) -> None:
        self.folder, self.count, self.fails_at = '', 0, -1
        self.failure: Callable[[], BaseException] = MemoryError
        sys.addaudithook(self._on_event)  # cannot be removed; does nothing without a folder

    @contextlib.contextmanager
    def within(
        self, folder: Path, fails_at: int = -1, failure: Callable[[], BaseException] = MemoryError
    ) -> Iterator[None]:
        self.count, self.fails_at, self.failure = 0, fails_at, failure
        self.folder = str(folder)
        try:
            yield
        finally:
            self.folder = ''

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder or event not in ('open', 'os.rename', 'os.link'):
            return
        if event == 'open' and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
            return
        if str(arguments[0]).startswith(self.folder):
            self.count += 1
            if self.count == self.fails_at + 1:
                raise self.failure()


@pytest.fixture(scope='module')
def writes() -> FailingWrites:
    return FailingWrites()


# --- evaluation -------------------------------------------------------------------------------


def measure(folder: Path) -> int:
    dataset = 'synthetic:val?size=96x72&count=3&objects=2-3'
    return evaluate.main(['--dataset', dataset, '--output', str(folder), '--batch-size', '2'])


def measured(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows and summary of a run without durations."""
    summary = json.loads((folder / 'summary.json').read_text())
    return [{**row, 'timings': None} for row in read_rows(folder)], {**summary, 'seconds': None}


def test_an_evaluation_that_failed_at_any_write_continues(
    tmp_path: Path, writes: FailingWrites
) -> None:
    whole = tmp_path / 'whole'
    with writes.within(whole):
        assert measure(whole) == 0
    assert writes.count >= 6
    wanted, left = measured(whole), {path.name for path in whole.iterdir()}
    for place in range(writes.count):
        folder = tmp_path / str(place)
        with (
            writes.within(folder, place, FAILURES[place % len(FAILURES)]),
            pytest.raises((SegZeroError, OSError, KeyboardInterrupt, MemoryError, RuntimeError)),
        ):
            measure(folder)
        assert measure(folder) == 0
        assert measured(folder) == wanted
        assert {path.name for path in folder.iterdir()} == left


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread after some time, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_evaluation_interrupted_at_any_time_continues(tmp_path: Path) -> None:
    assert measure(tmp_path / 'whole') == 0
    for seconds in (0.03, 0.1, 0.3):
        folder = tmp_path / str(seconds)
        with contextlib.suppress(KeyboardInterrupt), interrupted_after(seconds):
            measure(folder)
        assert measure(folder) == 0
        assert measured(folder) == measured(tmp_path / 'whole')


# --- training ---------------------------------------------------------------------------------


def learn(config: Path, folder: Path) -> int:
    settings = ['method=sft', 'micro_batch=2', 'save_steps=1', 'max_steps=2']
    return train.main(['--config', str(config), *settings, f'output={folder}'])


def learnt(folder: Path) -> tuple[Any, bytes]:
    """Return metrics without durations, and the weights."""
    times = ('train_runtime', 'train_samples_per_second', 'train_steps_per_second')
    metrics = [
        {key: value for key, value in line.items() if key not in times}
        for line in read_metrics(folder)
    ]
    return metrics, (folder / 'model' / 'model.safetensors').read_bytes()


@pytest.mark.parametrize(
    'parts', [4, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_a_training_that_failed_at_a_write_continues(
    short_grpo: Path, tmp_path: Path, writes: FailingWrites, parts: int
) -> None:
    """At the first and last write and two between; at every one in the slow variant."""
    whole = tmp_path / 'whole'
    with writes.within(whole):
        assert learn(short_grpo, whole) == 0
    wanted, last = learnt(whole), writes.count - 1
    left = {path.name for path in whole.iterdir()}
    for place in sorted({last * part // (parts - 1) for part in range(parts)}):
        folder = tmp_path / str(place)
        with (
            writes.within(folder, place, FAILURES[place % len(FAILURES)]),
            pytest.raises((SegZeroError, OSError, KeyboardInterrupt, MemoryError, RuntimeError)),
        ):
            learn(short_grpo, folder)
        assert learn(short_grpo, folder) == 0
        assert learnt(folder) == wanted
        assert {path.name for path in folder.iterdir()} == left
