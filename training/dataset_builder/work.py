# SPDX-License-Identifier: Apache-2.0
"""The work of preparing: in parts, by several processes, going on where it was ended.

A part is finished when its note ``parts/N.json`` is there, which is written last and in one step.
Whatever a part without a note has left is written again, so that no row is lost or there twice.
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
from segzero_core.errors import ConfigError, DataError
from segzero_core.runtime.atomic import atomic_file, atomic_text, remove_drafts
from segzero_core.segmenters import Segmenter, load_segmenter
from training.dataset_builder.rows import Dropped, Making, TrainingRow, make_rows
from training.files import changed_settings, claimed

SPLITS = ('train', 'val')
SETTINGS = 'settings.json'
_PARTS = 'parts'


@dataclass(frozen=True)
class BuildSettings:
    """What decides which rows there will be. A folder holds the work of one choice of them.

    Attributes:
        dataset: Name of the annotations, e.g. ``refcocog:train``.
        level: ``instance`` or ``expression``.
        rows: How many annotated sentences there are.
        digest: Of them and their annotations, see ``Samples.digest``.
        making: How rows are made.
        segmenter: Options of the segmenter that filters, ``engine`` among them; empty for none.
        val_share: Share of the images whose rows are held out.
        seed: Chooses those images.
        part: Annotated sentences a part has.
    """

    dataset: str
    level: str
    rows: int
    digest: str
    making: Making
    segmenter: dict[str, str]
    val_share: float
    seed: int
    part: int


class Note(NamedTuple):
    """What became of one part.

    Attributes:
        kept: Rows written, by split.
        dropped: Annotations that made none.
    """

    kept: dict[str, int]
    dropped: list[Dropped]


@contextlib.contextmanager
def claim(folder: Path, settings: BuildSettings) -> Iterator[None]:
    """Hold ``folder`` for this process and these settings.

    Raises:
        ConfigError: Another process is at work there, it holds rows made with other settings, or
            it cannot be written to.
    """
    with claimed(folder):
        _check_settings(folder, settings)
        yield


def _check_settings(folder: Path, settings: BuildSettings) -> None:
    now = json.loads(json.dumps(asdict(settings)))
    file = folder / SETTINGS
    if file.is_file():
        if found := changed_settings(json.loads(file.read_text(encoding='utf-8')), now):
            raise ConfigError(
                f'{folder} holds rows made with other settings: {", ".join(found)}. Use the '
                'settings it had, or choose another --output'
            )
        return
    if any((folder / name).exists() for name in SPLITS):
        raise ConfigError(f'{folder} holds something else: choose another --output')
    atomic_text(file, json.dumps(now, indent=1))


def prepare(
    samples: Samples, settings: BuildSettings, folder: Path, workers: int
) -> Iterator[tuple[int, Note]]:
    """Make all parts that are not finished; yield each part's number and note, finished ones too.

    Args:
        samples: The annotated sentences.
        settings: How; ``folder`` is claimed for them.
        folder: Where to.
        workers: Processes.

    Raises:
        DataError: A process died; what is finished is kept.
    """
    (folder / _PARTS).mkdir(exist_ok=True)
    for split in SPLITS:
        (folder / split).mkdir(exist_ok=True)
        remove_drafts(folder / split)
    held_out = choose_images(samples.image_ids, settings.val_share, settings.seed)
    numbers = range(-(-len(samples) // settings.part))
    open_numbers = []
    for number in numbers:
        note = read_note(folder, number)
        if note is None:
            open_numbers.append(number)
        else:
            yield number, note
    if not open_numbers:
        return
    context = multiprocessing.get_context('spawn')  # threads of libraries do not survive a fork
    pool = ProcessPoolExecutor(workers, context, _start_worker, (settings,))
    try:
        yield from _run(pool, samples, settings, folder, held_out, open_numbers, 2 * workers)
    except BrokenProcessPool as error:
        raise DataError(
            'a working process died, perhaps for want of memory: start again with less --workers; '
            'what is finished is kept'
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
) -> Iterator[tuple[int, Note]]:
    """Keep ``ahead`` parts on their way, so that memory does not grow with the dataset."""
    running: dict[Future[Note], int] = {}
    for number in numbers:
        start = number * settings.part
        part = samples[start : start + settings.part]
        running[pool.submit(_make_part, folder, number, part, held_out)] = number
        while len(running) >= ahead:
            yield from _finished(running)
    while running:
        yield from _finished(running)


def _finished(running: dict[Future[Note], int]) -> Iterator[tuple[int, Note]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def choose_images(image_ids: Sequence[str], share: float, seed: int) -> set[str]:
    """Return the images to hold out: the same ones for a seed, whatever their order."""

    def fate(image: str) -> bytes:
        return hashlib.sha256(f'{seed}:{image}'.encode()).digest()

    images = sorted(set(image_ids), key=fate)
    return set(images[: round(share * len(images))])


# In a working process -----------------------------------------------------------------------

_worker: dict[str, Any] = {}


def _start_worker(settings: BuildSettings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too and ends the work
    cv2.setNumThreads(1)  # there is a process for each core
    threading.Thread(target=_end_with_parent, daemon=True).start()
    segmenter: Segmenter | None = None
    if settings.segmenter:
        options = dict(settings.segmenter)
        segmenter = load_segmenter(options.pop('engine'), **options)
    _worker.update(making=settings.making, segmenter=segmenter)


def _end_with_parent() -> None:
    """End when the parent is killed: it may be started again and must find nobody at work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _make_part(
    folder: Path, number: int, samples: Sequence[Sample | Skipped], held_out: set[str]
) -> Note:
    images = {sample.id: sample.image_id for sample in samples if isinstance(sample, Sample)}
    rows: dict[str, list[TrainingRow]] = {split: [] for split in SPLITS}
    dropped = []
    for made in make_rows(samples, _worker['making'], _worker['segmenter']):
        if isinstance(made, Dropped):
            dropped.append(made)
        else:
            rows['val' if images[made.id] in held_out else 'train'].append(made)
    for split, kept in rows.items():
        _write_rows(folder / split / f'part-{number:05}.parquet', kept)
    note = Note({split: len(kept) for split, kept in rows.items()}, dropped)
    atomic_text(_note_file(folder, number), json.dumps(note))
    return note


def _write_rows(file: Path, rows: Sequence[TrainingRow]) -> None:
    """Write parquet as the library datasets would, without its long import in every process."""
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
    notes = {'huggingface': json.dumps({'info': {'features': features}})}
    with atomic_file(file) as draft:
        parquet.write_table(pyarrow.table(columns, pyarrow.schema(kinds, notes)), draft)


# Notes ---------------------------------------------------------------------------------------


def read_note(folder: Path, number: int) -> Note | None:
    """Return the note of a finished part; None if it is not finished."""
    file = _note_file(folder, number)
    if not file.is_file():
        return None
    kept, dropped = json.loads(file.read_text(encoding='utf-8'))
    return Note(kept, [Dropped(*row) for row in dropped])


def _note_file(folder: Path, number: int) -> Path:
    return folder / _PARTS / f'{number:05}.json'
