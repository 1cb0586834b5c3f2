# SPDX-License-Identifier: Apache-2.0
"""The rows of a run on disk: one file per process, usable whenever a process ends.

``run.json`` holds the identity of the run. ``rows-00002-of-00008.jsonl`` has the rows of the third
of eight processes; its first line names the run. A run that continues with another number of
processes has files of both numbers, and every finished row counts. When all rows are there,
``rows.jsonl`` holds them in the order of the dataset.
"""

from __future__ import annotations

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
SERVED_MODEL = 'served_model.json'
SHARDS = 'rows-*.jsonl'


class ProcessRank(NamedTuple):
    """The rank of this process and the number of processes."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_environment(cls) -> ProcessRank:
        """Return the rank that torchrun or accelerate has assigned."""
        return cls(int(os.environ.get('RANK', '0')), int(os.environ.get('WORLD_SIZE', '1')))


def open_run(folder: Path, settings: dict[str, Any]) -> str:
    """Record the identity of the run in ``folder``, or check that it is the recorded one.

    Args:
        folder: Folder of the run; created if it does not exist.
        settings: See ``fingerprint.run_settings``; plain data for JSON.

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


def check_served_model(folder: Path, model: str) -> None:
    """Record which model the server of a run has, or check that it is the recorded one.

    The server may move, so its address does not belong to the identity of a run; its model does.
    Only the last part of the name counts, because the folder may differ between servers.

    Args:
        folder: Folder of the run.
        model: The server's name of the model; '' = there is no server, nothing is checked.

    Raises:
        DataError: The rows in ``folder`` are answers of another model.
    """
    if not model:
        return
    name = Path(model).name
    create_once(folder / SERVED_MODEL, json.dumps({'model': name}) + '\n')
    before = json.loads((folder / SERVED_MODEL).read_text(encoding='utf-8'))['model']
    if before != name:
        raise DataError(
            f'the rows in {folder} are answers of the model {before!r}, but the server has '
            f'{name!r}: use a server with that model, or choose another --output'
        )


class Shard:
    """The file of one process, locked while it is open.

    Attributes:
        done: Indices of the rows in the file.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        rank: ProcessRank,
        on_row: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        """Open or create the file. An incomplete last line is removed.

        Rows with the status ``error`` are removed too, because their data may have been repaired.

        Args:
            folder: Folder of the run.
            run: Name of the run.
            rank: The process this is.
            on_row: Called with every row, including those that are already in the file.

        Raises:
            DataError: Another process writes the file, or it is damaged or of another run.
        """
        self._path = shard_path(folder, rank)
        self._on_row = on_row
        self.done: set[int] = set()
        self._lock = _lock(self._path)
        try:
            self._rewrite(run, rank)
            self._file = self._path.open('ab', buffering=0)
        except BaseException:
            self._lock.close()
            raise

    def add(self, row: dict[str, Any]) -> None:
        """Write a row in one call.

        Raises:
            OSError: The row cannot be written completely.
        """
        # Servers do send half a surrogate pair. It cannot be encoded, but its escape is JSON.
        text = json.dumps(row, ensure_ascii=False).encode('utf-8', 'backslashreplace') + b'\n'
        if self._file.write(text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._note(row)

    def close(self, wanted: bool = True) -> None:
        """Close and unlock the file.

        Args:
            wanted: Whether there should be rows. If there are none, the file is removed, and with
                the last file of a run its identity: a run that never began does not keep the
                folder.
        """
        self._file.close()
        if wanted and not self.done:
            self._path.unlink()
            if not list(self._path.parent.glob(SHARDS)):
                for name in (RUN, SERVED_MODEL):
                    (self._path.parent / name).unlink(missing_ok=True)
        self._lock.close()

    def _note(self, row: dict[str, Any]) -> None:
        self.done.add(row['row'])
        self._on_row(row)

    def _rewrite(self, run: str, rank: ProcessRank) -> None:
        """Write the head and the good rows; the file stays as it was if that fails."""
        head = json.dumps({'run': run, 'rank': rank.rank, 'world': rank.world}).encode()
        with atomic_file(self._path) as draft, draft.open('wb') as file:
            file.write(head + b'\n')
            for line in read_shard(self._path, run):
                if line.row['status'] != 'error':
                    file.write(line.text)
                    self._note(line.row)


def _lock(path: Path, shared: bool = False) -> TextIO:
    """Lock a shard until the returned file is closed.

    Args:
        path: Path of the shard.
        shared: Only check that no process writes it; several processes may do so.

    Raises:
        DataError: Another process holds the lock.
    """
    held = lock(path.with_name(f'.{path.name}.lock'), shared)
    if held is None:
        raise DataError(
            f'another process is writing {path}: wait for it, or choose another --output'
        )
    return held


def shard_path(folder: Path, rank: ProcessRank) -> Path:
    """Return the path of the rows of one process."""
    return folder / f'rows-{rank.rank:05d}{shard_suffix(rank.world)}'


def shard_suffix(world: int) -> str:
    """Return the end of the names of all shards of ``world`` processes."""
    return f'-of-{world:05d}.jsonl'


class OtherRows(NamedTuple):
    """Indices of the finished rows in the files of other processes.

    Attributes:
        earlier: Of starts with another number of processes; all of those have ended.
        current: Of the other processes of this number, from this start or an earlier one.
    """

    earlier: set[int]
    current: set[int]


def rows_of_others(folder: Path, run: str, rank: ProcessRank) -> OtherRows:
    """Return the rows in the other files of a run. The own file must be open, see ``Shard``.

    Raises:
        DataError: A process of an earlier start still works, or a file is damaged or of another
            run.
    """
    found = OtherRows(set(), set())
    for path in sorted(folder.glob(SHARDS)):
        if path == shard_path(folder, rank):
            continue
        same = path.name.endswith(shard_suffix(rank.world))
        if not same:
            _lock(path, shared=True).close()
        rows = (line.row for line in read_shard(path, run))
        good = (row['row'] for row in rows if row['status'] != 'error')
        (found.current if same else found.earlier).update(good)
    return found


class ShardLine(NamedTuple):
    """A line of a shard: its offset in the file (bytes), its bytes, and its row."""

    start: int
    text: bytes
    row: dict[str, Any]


def read_shard(path: Path, run: str) -> Iterator[ShardLine]:
    """Yield the lines of a shard; an incomplete last line is skipped.

    A missing file has no lines, because another process may have removed its own.

    Raises:
        DataError: The file belongs to another run, or a line before the last one is damaged.
    """
    try:
        file = path.open('rb')
    except FileNotFoundError:
        return
    with file:
        first = file.readline()
        head, start = _loads(first), len(first)
        if head is None and not file.readline():
            return  # killed while it wrote the first line
        if head is None or head.get('run') != run:
            raise DataError(
                f'{path} belongs to another run than {RUN} in its folder: move it away, or choose '
                'another --output'
            )
        line = file.readline()
        number = 1
        while line:
            following = file.readline()
            number += 1
            row = _loads(line)
            if row is not None:
                yield ShardLine(start, line, row)
            elif following:
                raise DataError(f'{path}, line {number} is damaged: delete that line, start again')
            start += len(line)
            line = following


def _loads(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line) if line.endswith(b'\n') else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
