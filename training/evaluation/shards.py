# SPDX-License-Identifier: Apache-2.0
"""The rows of a run on disk: one file per process, which whatever ends it leaves usable.

``run.json`` says what the run is. ``rows-00002-of-00008.jsonl`` are the rows of the third of eight
processes; their first line names the run. A run that goes on with another number of processes has
files of both, and what is done in any of them is done. When all rows are there, ``rows.jsonl``
holds them in the order of the dataset.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from segzero_core.errors import DataError
from segzero_core.runtime.atomic import atomic_file, create_once
from training.files import changed_settings, lock

RUN = 'run.json'
ROWS = 'rows.jsonl'
SHARDS = 'rows-*.jsonl'


class Place(NamedTuple):
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_environment(cls) -> Place:
        """Return what torchrun or accelerate says."""
        return cls(int(os.environ.get('RANK', '0')), int(os.environ.get('WORLD_SIZE', '1')))


def open_run(folder: Path, settings: dict[str, Any]) -> str:
    """Note what the run is, or make sure that it is the one already in ``folder``.

    Args:
        folder: Of the run; made if it is not there.
        settings: All that two parts of one run share, as plain data for JSON.

    Returns:
        The run's name: a digest of the settings.

    Raises:
        DataError: ``folder`` holds another run, or cannot be written to.
    """
    text = json.dumps(settings, indent=2, sort_keys=True) + '\n'
    file = folder / RUN
    try:
        folder.mkdir(parents=True, exist_ok=True)
        create_once(file, text)  # several processes start at the same time
        before = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f'cannot use {folder} for a run ({error}): choose another') from error
    if found := changed_settings(before, json.loads(text)):
        raise DataError(
            f'{folder} holds another run: {"; ".join(found)}. Start it again as it was, or '
            'choose another --output'
        )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Shard:
    """The file of one process: knows what is in it, adds rows, is nobody else's meanwhile.

    Attributes:
        done: The rows that are there.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        place: Place,
        on_row: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        """Open the file, or start it. A last line that was cut short is taken away.

        Rows with the status ``error`` are taken away too: their data may have been repaired.

        Args:
            folder: Of the run.
            run: Its name.
            place: Which process this is.
            on_row: Called with every row, those that are there already too.

        Raises:
            DataError: Another process is writing, or the file is of another run or damaged.
        """
        self._path = shard_path(folder, place)
        self._on_row = on_row
        self.done: set[int] = set()
        self._lock = _lock(self._path)
        try:
            self._write_anew(run, place)
            self._file = self._path.open('ab', buffering=0)
        except BaseException:
            self._lock.close()
            raise

    def add(self, row: dict[str, Any]) -> None:
        """Write a row, at once and whole.

        Raises:
            OSError: It cannot be written, or its beginning only.
        """
        # Half a character, which servers do send, cannot be encoded; escaped it is JSON.
        text = json.dumps(row, ensure_ascii=False).encode('utf-8', 'backslashreplace') + b'\n'
        if self._file.write(text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._note(row)

    def close(self, wanted: bool = True) -> None:
        """Let others write.

        Args:
            wanted: Whether there should be rows. If there is none nevertheless, the file goes, and
                with the last of them the run: what never began does not keep the folder.
        """
        self._file.close()
        if wanted and not self.done:
            self._path.unlink()
            if not list(self._path.parent.glob(SHARDS)):
                (self._path.parent / RUN).unlink(missing_ok=True)
        self._lock.close()

    def _note(self, row: dict[str, Any]) -> None:
        self.done.add(row['row'])
        self._on_row(row)

    def _write_anew(self, run: str, place: Place) -> None:
        """Leave the head and the good rows in the file, or the file as it was if that fails."""
        head = json.dumps({'run': run, 'rank': place.rank, 'world': place.world}).encode()
        with atomic_file(self._path) as draft, draft.open('wb') as file:
            file.write(head + b'\n')
            for line in read_shard(self._path, run):
                if line.row['status'] != 'error':
                    file.write(line.text)
                    self._note(line.row)


def _lock(path: Path, shared: bool = False) -> TextIO:
    """Make a shard this process's own until the file that is returned is closed.

    Args:
        path: Of the shard.
        shared: See only that nobody writes it: several processes may.

    Raises:
        DataError: It is another's.
    """
    held = lock(path.with_name(f'.{path.name}.lock'), shared)
    if held is None:
        raise DataError(
            f'another process is writing {path}: wait for it, or choose another --output'
        )
    return held


def shard_path(folder: Path, place: Place) -> Path:
    """Return where the rows of one process are."""
    return folder / f'rows-{place.rank:05d}{_of(place.world)}'


def _of(world: int) -> str:
    return f'-of-{world:05d}.jsonl'


class Elsewhere(NamedTuple):
    """Rows that are done in the files of other processes.

    Attributes:
        before: By parts of the run that had another number of processes; all of them have ended.
        beside: By the others of this number of processes, in this part of the run or before.
    """

    before: set[int]
    beside: set[int]


def done_elsewhere(folder: Path, run: str, place: Place) -> Elsewhere:
    """Return what the other files of a run hold. The own one must be open: see ``Shard``.

    Raises:
        DataError: A process of another number is still at work, or a file is of another run or
            damaged.
    """
    found = Elsewhere(set(), set())
    for path in sorted(folder.glob(SHARDS)):
        if path == shard_path(folder, place):
            continue
        same = path.name.endswith(_of(place.world))
        if not same:
            _lock(path, shared=True).close()
        rows = (line.row for line in read_shard(path, run))
        good = (row['row'] for row in rows if row['status'] != 'error')
        (found.beside if same else found.before).update(good)
    return found


class Line(NamedTuple):
    """A line of a shard: where it starts in the file, its bytes, and what it says."""

    start: int
    text: bytes
    row: dict[str, Any]


def read_shard(path: Path, run: str) -> Iterator[Line]:
    """Yield the lines of a shard; a last one that was cut short is passed over.

    A file that is not there has none: another process may have taken its own away.

    Raises:
        DataError: It belongs to another run, or a line in its midst is damaged.
    """
    try:
        file = path.open('rb')
    except FileNotFoundError:
        return
    with file:
        first = file.readline()
        head, start = _loads(first), len(first)
        if head is None and not file.readline():
            return  # killed while the first line was written
        if head is None or head.get('run') != run:
            raise DataError(
                f'{path} is of another run than the {RUN} beside it: move it away, or choose '
                'another --output'
            )
        line = file.readline()
        number = 1
        while line:
            following = file.readline()
            number += 1
            row = _loads(line)
            if row is not None:
                yield Line(start, line, row)
            elif following:
                raise DataError(f'{path}, line {number} is damaged: delete that line, start again')
            start += len(line)
            line = following


def counted(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without what is long: text, mask and reasoning do not count."""
    long = ('text', 'reasoning', 'mask', 'query', 'repairs')
    short = {key: value for key, value in row.items() if key not in long}
    return short | {'repaired': bool(row.get('repairs'))}


def merge(folder: Path, run: str, world: int, total: int) -> list[dict[str, Any]] | None:
    """Write all rows to ``rows.jsonl`` if all are there.

    Args:
        folder: Of the run.
        run: Its name.
        world: How many processes are at work now. What earlier ones could not use is measured
            again by these, so that only their own rows with the status ``error`` count.
        total: How many rows there must be.

    Returns:
        The rows in the order of the dataset, without what is long; None while some are missing.

    Raises:
        DataError: A shard is of another run or damaged, or a row is there twice.
    """
    rows: dict[int, dict[str, Any]] = {}
    places: dict[int, tuple[Path, int, int]] = {}
    for path in sorted(folder.glob(SHARDS)):
        now = path.name.endswith(_of(world))
        for start, text, row in read_shard(path, run):
            number, error = row['row'], row['status'] == 'error'
            there = number in rows and rows[number]['status'] != 'error'
            if there and not error:
                raise DataError(
                    f'row {number} ({row["id"]}) is there twice, also in {path}: delete one'
                )
            if not there and (now or not error):
                rows[number] = counted(row)
                places[number] = (path, start, len(text))
    if len(rows) < total:
        return None
    _copy(folder / ROWS, [places[row] for row in sorted(places)])
    return [rows[row] for row in sorted(rows)]


def _copy(target: Path, places: list[tuple[Path, int, int]]) -> None:
    """Write the lines at ``places`` to ``target``, holding one at a time."""
    with contextlib.ExitStack() as opened:
        paths = dict.fromkeys(path for path, _, _ in places)
        sources = {path: opened.enter_context(path.open('rb')) for path in paths}
        draft = opened.enter_context(atomic_file(target, shared=True))
        file = opened.enter_context(draft.open('wb'))
        for path, start, length in places:
            sources[path].seek(start)
            file.write(sources[path].read(length))


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finished run.

    Raises:
        DataError: There is no finished run in ``folder``.
    """
    try:
        with (folder / ROWS).open(encoding='utf-8') as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise DataError(
            f'{folder} has no finished run ({error}): start training/evaluate.py again, it goes on'
        ) from error


def _loads(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line) if line.endswith(b'\n') else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
