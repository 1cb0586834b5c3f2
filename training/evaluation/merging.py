# SPDX-License-Identifier: Apache-2.0
"""All shards of a run -> one file with its rows in the order of the dataset."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segzero_core.errors import DataError
from segzero_core.runtime.atomic import atomic_file
from training.evaluation.shards import SHARDS, read_shard, shard_suffix

ROWS = 'rows.jsonl'


def without_texts(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without its long fields, which no metric needs."""
    long = ('text', 'reasoning', 'mask', 'query', 'repairs', 'warnings')
    short = {key: value for key, value in row.items() if key not in long}
    return short | {'repaired': bool(row.get('repairs'))}


def merge_shards(folder: Path, run: str, world: int, total: int) -> list[dict[str, Any]] | None:
    """Write all rows to ``rows.jsonl`` if none is missing.

    Args:
        folder: Folder of the run.
        run: Name of the run.
        world: Number of processes of this start. They measure again what failed in earlier
            starts, so only their own rows with the status ``error`` count.
        total: Number of rows of the dataset.

    Returns:
        The rows in the order of the dataset, see ``without_texts``; None if any is missing.

    Raises:
        DataError: A shard is damaged or of another run, or a row appears twice.
    """
    rows: dict[int, dict[str, Any]] = {}
    places: dict[int, tuple[Path, int, int]] = {}
    for path in sorted(folder.glob(SHARDS)):
        now = path.name.endswith(shard_suffix(world))
        for start, text, row in read_shard(path, run):
            number, error = row['row'], row['status'] == 'error'
            there = number in rows and rows[number]['status'] != 'error'
            if there and not error:
                raise DataError(
                    f'row {number} ({row["id"]}) appears twice, again in {path}: delete one'
                )
            if not there and (now or not error):
                rows[number] = without_texts(row)
                places[number] = (path, start, len(text))
    if len(rows) < total:
        return None
    _copy(folder / ROWS, [places[row] for row in sorted(places)])
    return [rows[row] for row in sorted(rows)]


def _copy(target: Path, places: list[tuple[Path, int, int]]) -> None:
    """Copy the lines at ``places`` (file, offset, length) to ``target``, one at a time."""
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
        DataError: ``folder`` holds no finished run.
    """
    try:
        with (folder / ROWS).open(encoding='utf-8') as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise DataError(
            f'{folder} has no finished run ({error}): start training/evaluate.py again'
        ) from error
