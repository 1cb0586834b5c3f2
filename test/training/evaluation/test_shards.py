# SPDX-License-Identifier: Apache-2.0
"""The rows of a run on disk, after random sequences of kills and restarts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segzero_core.data.samples import SampleRow, Samples
from segzero_core.errors import DataError
from training.evaluate import assigned_rows
from training.evaluation.merging import merge_shards, read_rows
from training.evaluation.shards import (
    ProcessRank,
    Shard,
    open_run,
    read_shard,
    rows_of_others,
    shard_path,
)

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')


def never() -> Any:
    raise AssertionError('nothing is measured here')


def dataset(count: int, random: np.random.Generator) -> Samples:
    images = np.sort(random.integers(0, count // 2, count))
    rows = [SampleRow(str(i), str(image), never) for i, image in enumerate(images)]
    return Samples('d', 'val', 'expression', rows)


class Process:
    """One process of a run, which can be stopped after any row."""

    def __init__(self, folder: Path, run: str, place: ProcessRank, samples: Samples) -> None:
        self.folder, self.run, self.place, self.samples = folder, run, place, samples
        self.shard = Shard(folder, run, place)
        others = rows_of_others(folder, run, place)
        rows = assigned_rows(samples, place, others.earlier)
        self.todo = [row for row in rows if row not in self.shard.done | others.current]
        self.measured: list[int] = []

    def step(self, bad: set[int]) -> bool:
        """Measure a row; return whether there was one."""
        if not self.todo:
            return False
        row = self.todo.pop(0)
        status = 'error' if row in bad else 'ok'
        self.shard.add({'row': row, 'id': str(row), 'status': status, 'by': str(self.place)})
        self.measured += [] if row in bad else [row]
        return True

    def end(self) -> list[dict[str, Any]] | None:
        self.shard.close(wanted=bool(self.measured or self.todo))
        return merge_shards(self.folder, self.run, self.place.world, len(self.samples))


@pytest.mark.parametrize('seed', range(20))
def test_whatever_happens_every_row_is_measured_once(tmp_path: Path, seed: int) -> None:
    """Any number of processes, started one after the other, each killed after any row."""
    random = np.random.default_rng(seed)
    samples = dataset(30, random)
    run = open_run(tmp_path, {'a': 1})
    bad = set(random.integers(0, 30, 3).tolist())  # data that is repaired in the end
    measured: Counter[int] = Counter()
    for _ in range(5):
        world = int(random.integers(1, 5))
        processes: list[Process] = []
        waiting = [ProcessRank(rank, world) for rank in random.permutation(world).tolist()]
        for _ in range(random.integers(0, 20)):
            if waiting and random.random() < 0.3:
                processes.append(Process(tmp_path, run, waiting.pop(), samples))
            elif processes:
                processes[random.integers(len(processes))].step(bad)
        for process in processes:
            measured.update(process.measured)
            process.end()
        torn = sorted(tmp_path.glob('rows-*.jsonl'))
        if torn and random.random() < 0.5:  # killed while a row was written
            file = torn[random.integers(len(torn))]
            file.write_bytes(file.read_bytes() + b'{"row": 3, "id"')
    world = int(random.integers(1, 5))
    processes = [
        Process(tmp_path, run, ProcessRank(rank, world), samples) for rank in range(world)
    ]
    found = None
    for process in processes:
        while process.step(set()):
            pass
        measured.update(process.measured)
        found = process.end()
    assert found is not None
    assert [row['row'] for row in found] == list(range(30))
    assert all(row['status'] == 'ok' for row in found)
    assert [row['row'] for row in read_rows(tmp_path)] == list(range(30))
    assert measured == Counter(range(30))


def test_what_is_missing_is_shared_out_evenly(tmp_path: Path) -> None:
    """Seven of eight processes have ended: the rows of the eighth are shared by all."""
    samples = dataset(400, np.random.default_rng(0))
    run = open_run(tmp_path, {'a': 1})
    for rank in range(7):
        process = Process(tmp_path, run, ProcessRank(rank, 8), samples)
        while process.step(set()):
            pass
        assert process.end() is None
    left = [len(Process(tmp_path, run, ProcessRank(rank, 4), samples).todo) for rank in range(4)]
    assert sum(left) == 400 - sum(
        len(assigned_rows(samples, ProcessRank(rank, 8))) for rank in range(7)
    )
    assert max(left) <= 2 * min(left)


def test_another_number_of_processes_while_some_are_at_work(tmp_path: Path) -> None:
    samples = dataset(30, np.random.default_rng(0))
    run = open_run(tmp_path, {'a': 1})
    working = Process(tmp_path, run, ProcessRank(1, 2), samples)
    working.step(set())
    shard = Shard(tmp_path, run, ProcessRank())
    with pytest.raises(DataError, match=r'another process is writing .*rows-00001-of-00002'):
        rows_of_others(tmp_path, run, ProcessRank())
    shard.close()
    Process(tmp_path, run, ProcessRank(0, 2), samples)  # the other of the two is expected
    working.end()


def test_a_file_that_its_process_took_away_has_no_rows(tmp_path: Path) -> None:
    assert list(read_shard(tmp_path / 'rows-00000-of-00002.jsonl', 'run')) == []


def test_a_row_that_only_begins_on_the_disk_is_not_done(
    tmp_path: Path, limited_files: Any
) -> None:
    """The last row of a run, too, which no other write follows that could fail."""
    place = ProcessRank()
    run = open_run(tmp_path, {})
    shard = Shard(tmp_path, run, place)
    shard.add({'row': 0, 'id': '0', 'status': 'ok'})
    file = shard_path(tmp_path, place)
    with limited_files(file.stat().st_size + 9), pytest.raises(OSError, match=file.name):
        shard.add({'row': 1, 'id': '1', 'status': 'ok'})
    assert shard.done == {0}
    shard.close()
    assert Shard(tmp_path, run, place).done == {0}


def test_half_a_character_does_not_end_a_run(tmp_path: Path) -> None:
    """Servers send them where they cut an emoji in two."""
    run = open_run(tmp_path, {})
    shard = Shard(tmp_path, run, ProcessRank())
    shard.add({'row': 0, 'id': '0', 'status': 'failed', 'text': 'a \ud83c \U0001f375'})
    shard.close()
    merge_shards(tmp_path, run, 1, 1)
    assert [row['text'] for row in read_rows(tmp_path)] == ['a \ud83c \U0001f375']
