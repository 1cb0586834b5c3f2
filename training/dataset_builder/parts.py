# SPDX-License-Identifier: Apache-2.0
"""Prepare a training set in parts, in several processes, so that a run can be resumed.

A part is finished when its report ``parts/N.json`` exists. The report is written last, atomically.
A part without a report is written again, so that no row is lost and none is there twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from segzero_core.data import Sample, Samples, Skipped
from segzero_core.data.annotations import load_json
from segzero_core.errors import ConfigError, DataError
from segzero_core.runtime.atomic import atomic_file, atomic_text, remove_drafts
from segzero_core.runtime.program import interrupts_held
from segzero_core.segmenters import Segmenter, load_segmenter
from training.dataset_builder.rows import Dropped, RowOptions, TrainingRow, make_rows
from training.files import changed_settings, claimed

SPLITS = ('train', 'val')
SETTINGS = 'settings.json'
_PARTS = 'parts'


@dataclass(frozen=True)
class BuildSettings:
    """Everything that decides which rows are made. A folder holds the rows of one choice.

    Attributes:
        dataset: Name of the annotations, e.g. ``refcocog:train``.
        level: ``instance`` or ``expression``.
        rows: Number of annotated sentences.
        digest: Digest of the sentences and their annotations, see ``Samples.digest``.
        options: How a row is made.
        segmenter: Options of the segmenter that filters rows, with its ``engine``; empty for none.
        val_share: Share of the images whose rows are held out, 0 to 1.
        seed: Seed for the choice of those images.
        part: Number of annotated sentences in a part.
    """

    dataset: str
    level: str
    rows: int
    digest: str
    options: RowOptions
    segmenter: dict[str, str]
    val_share: float
    seed: int
    part: int


class PartReport(NamedTuple):
    """The rows of one finished part.

    Attributes:
        kept: Number of rows written, by split.
        dropped: Annotations that did not become a row.
    """

    kept: dict[str, int]
    dropped: list[Dropped]


@contextlib.contextmanager
def claim(folder: Path, settings: BuildSettings) -> Iterator[None]:
    """Lock ``folder`` for this process and these settings.

    Raises:
        ConfigError: Another process works in the folder, the folder holds rows made with other
            settings, or it cannot be written to.
        DataError: Its settings file is damaged.
    """
    with claimed(folder):
        _check_settings(folder, settings)
        yield


def _check_settings(folder: Path, settings: BuildSettings) -> None:
    now = json.loads(json.dumps(asdict(settings)))
    file = folder / SETTINGS
    if file.is_file():
        if found := changed_settings(_read_settings(file), now):
            raise ConfigError(
                f'{folder} holds rows made with other settings: {", ".join(found)}. Use the '
                'settings it had, or choose another --output'
            )
        return
    if any((folder / name).exists() for name in SPLITS):
        raise ConfigError(f'{folder} holds something else: choose another --output')
    atomic_text(file, json.dumps(now, indent=1))


def _read_settings(file: Path) -> dict[str, Any]:
    content = load_json(file)
    if not isinstance(content, dict):
        raise DataError(f'{file} holds no settings: remove the folder, or choose another --output')
    return content


def prepare(
    samples: Samples, settings: BuildSettings, folder: Path, workers: int
) -> Iterator[tuple[int, PartReport]]:
    """Make all unfinished parts; yield the number and report of each part, finished ones first.

    Args:
        samples: The annotated sentences.
        settings: The settings that ``folder`` is locked for, see ``claim``.
        folder: The output folder.
        workers: Number of processes.

    Raises:
        DataError: A process died; finished parts are kept.
    """
    (folder / _PARTS).mkdir(exist_ok=True)
    for split in SPLITS:
        (folder / split).mkdir(exist_ok=True)
        remove_drafts(folder / split)
    held_out = choose_images(samples.image_ids, settings.val_share, settings.seed)
    numbers = range(-(-len(samples) // settings.part))
    unfinished = []
    for number in numbers:
        report = read_part(folder, number)
        if report is None:
            unfinished.append(number)
        else:
            yield number, report
    if not unfinished:
        return
    context = multiprocessing.get_context('spawn')  # a fork would lose the threads of libraries
    pool = ProcessPoolExecutor(workers, context, _start_worker, (settings,))
    try:
        yield from _run(pool, samples, settings, folder, held_out, unfinished, 2 * workers)
    except BrokenProcessPool as error:
        raise DataError(
            'a worker process died, perhaps because memory ran out: start again with fewer '
            '--workers; finished parts are kept'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _run(
    pool: ProcessPoolExecutor,
    samples: Samples,
    settings: BuildSettings,
    folder: Path,
    held_out: set[str],
    numbers: Sequence[int],
    ahead: int,
) -> Iterator[tuple[int, PartReport]]:
    """Submit at most ``ahead`` parts at a time, so that memory does not grow with the dataset."""
    running: dict[Future[PartReport], int] = {}
    for number in numbers:
        start = number * settings.part
        part = samples[start : start + settings.part]
        with interrupts_held():  # this may start a process
            running[pool.submit(_make_part, folder, number, part, held_out)] = number
        while len(running) >= ahead:
            yield from _finished(running)
    while running:
        yield from _finished(running)


def _finished(running: dict[Future[PartReport], int]) -> Iterator[tuple[int, PartReport]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def choose_images(image_ids: Sequence[str], share: float, seed: int) -> set[str]:
    """Return the images to hold out. They depend on the seed, not on the order of the images."""

    def rank(image: str) -> bytes:
        return hashlib.sha256(f'{seed}:{image}'.encode()).digest()

    images = sorted(set(image_ids), key=rank)
    return set(images[: round(share * len(images))])


# In a worker process -------------------------------------------------------------------------

_worker: dict[str, Any] = {}


def _start_worker(settings: BuildSettings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too and stops the pool
    cv2.setNumThreads(1)  # each core has its own process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    segmenter: Segmenter | None = None
    if settings.segmenter:
        options = dict(settings.segmenter)
        segmenter = load_segmenter(options.pop('engine'), **options)
    _worker.update(options=settings.options, segmenter=segmenter)


def _end_with_parent() -> None:
    """Exit when the parent is killed: a restarted parent must be the only one that writes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _make_part(
    folder: Path, number: int, samples: Sequence[Sample | Skipped], held_out: set[str]
) -> PartReport:
    images = {sample.id: sample.image_id for sample in samples if isinstance(sample, Sample)}
    rows: dict[str, list[TrainingRow]] = {split: [] for split in SPLITS}
    dropped = []
    for made in make_rows(samples, _worker['options'], _worker['segmenter']):
        if isinstance(made, Dropped):
            dropped.append(made)
        else:
            rows['val' if images[made.id] in held_out else 'train'].append(made)
    for split, kept in rows.items():
        _write_rows(folder / split / f'part-{number:05}.parquet', kept)
    report = PartReport({split: len(kept) for split, kept in rows.items()}, dropped)
    atomic_text(_part_file(folder, number), json.dumps(report))
    return report


def _write_rows(file: Path, rows: Sequence[TrainingRow]) -> None:
    """Write parquet as the library datasets does, without importing it in every process."""
    if not rows:
        file.unlink(missing_ok=True)
        return
    import pyarrow
    from pyarrow import parquet

    columns = {name: [getattr(row, name) for row in rows] for name in TrainingRow._fields}
    columns['image'] = [{'bytes': row.image, 'path': None} for row in rows]
    text, whole = pyarrow.string(), pyarrow.int64()
    encoded = pyarrow.struct({'bytes': pyarrow.binary(), 'path': text})
    kinds = dict(zip(TrainingRow._fields, (text, text, text, encoded, whole, whole), strict=True))
    features = {name: {'dtype': str(kind), '_type': 'Value'} for name, kind in kinds.items()}
    features['image'] = {'_type': 'Image'}
    metadata = {'huggingface': json.dumps({'info': {'features': features}})}
    with atomic_file(file) as draft, draft.open('wb') as out:  # pyarrow takes UTF-8 paths only
        parquet.write_table(pyarrow.table(columns, pyarrow.schema(kinds, metadata)), out)


# Reports of parts ----------------------------------------------------------------------------


def read_part(folder: Path, number: int) -> PartReport | None:
    """Return the report of a finished part; None if the part is not finished.

    Raises:
        DataError: The report is damaged.
    """
    file = _part_file(folder, number)
    if not file.is_file():
        return None
    try:
        kept, dropped = load_json(file)
        return PartReport(dict(kept), [Dropped(*row) for row in dropped])
    except (TypeError, ValueError) as error:
        raise DataError(f'{file} is damaged: remove it, and the part is made again') from error


def _part_file(folder: Path, number: int) -> Path:
    return folder / _PARTS / f'{number:05}.json'
