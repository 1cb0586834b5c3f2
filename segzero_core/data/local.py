# SPDX-License-Identifier: Apache-2.0
"""Evaluation samples from synthetic scenes and from folders with ``records.jsonl``."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from segzero_core.data.folder import FILE, read_folder
from segzero_core.data.records import Record, Skipped
from segzero_core.data.rle import encode_mask
from segzero_core.data.samples import Sample, SampleRow, Samples
from segzero_core.data.scenes import SceneRecords, read_scenes
from segzero_core.errors import DataError


def scene_samples(name: str, limit: int = 0) -> Samples:
    """Return the samples of ``synthetic:name``; each scene has one sentence.

    Raises:
        DataError: An unknown split or option.
    """
    records = read_scenes(name, limit)
    split = records.options.split
    rows = [
        SampleRow(
            f'{split}/{index}', f'{split}/{index}', functools.partial(_scene, records, index)
        )
        for index in range(len(records))
    ]
    return Samples('synthetic', split, 'expression', rows)


def folder_samples(folder: Path) -> Samples:
    """Return the samples of a folder with ``records.jsonl`` whose rows have a ``mask``.

    Raises:
        DataError: ``records.jsonl`` cannot be read or has no row.
    """
    return Samples(folder.name, 'all', 'expression', _folder_rows(folder), [folder / FILE])


def _folder_rows(folder: Path) -> Iterator[SampleRow]:
    for found in read_folder(folder, check_masks=False):
        if isinstance(found, Skipped):
            yield SampleRow(found.id, found.id, functools.partial(_refuse, found.reason))
        else:
            yield SampleRow(found.id, found.image, functools.partial(_sample, found))


def _refuse(reason: str) -> Sample:
    raise DataError(reason)


def _scene(records: SceneRecords, index: int) -> Sample:
    return _sample(records[index])


def _sample(record: Record) -> Sample:
    if record.load_mask is None:
        raise DataError(f"{FILE} has no 'mask' for this row: evaluation needs one")
    return Sample(
        id=record.id,
        query=record.query,
        image_id=record.image or record.id,
        size=record.size,
        load_image=record.load_image,
        truth=encode_mask(record.load_mask()),
        boxes=tuple(target.box for target in record.targets),
    )
