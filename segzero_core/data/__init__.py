# SPDX-License-Identifier: Apache-2.0
"""Datasets of images, sentences and the objects that the sentences refer to.

``read_dataset`` returns records to train on, ``read_samples`` samples to evaluate on. A row that
cannot be used becomes a ``Skipped`` with its id and the reason.
"""

from __future__ import annotations

import itertools

from segzero_core.data.catalog import read_samples
from segzero_core.data.folder import FILE, read_folder
from segzero_core.data.hub_train import read_hub
from segzero_core.data.records import Annotation, Dataset, Record, Skipped
from segzero_core.data.rle import Rle
from segzero_core.data.samples import LEVELS, Level, Sample, Samples
from segzero_core.data.scenes import read_scenes
from segzero_core.data.tables import local_folder
from segzero_core.errors import DataError, first_line, quoted


def read_dataset(source: str, limit: int = 0, split: str = 'train') -> Dataset:
    """Read a dataset to train on.

    Args:
        source: ``synthetic:SPLIT?...`` (see ``scenes``), a folder with ``records.jsonl`` (see
            ``folder``), or a folder of parquet or arrow files or a hub id (see ``tables``);
            the last two may end in ``:SPLIT``.
        limit: Maximum number of rows; 0 for all.
        split: The split to read unless ``source`` names one.

    Returns:
        The usable records, and the other rows with their reasons.

    Raises:
        DataError: The dataset does not exist, or no row of it can be used.
    """
    if source.startswith('synthetic:'):
        return Dataset(read_scenes(source.removeprefix('synthetic:'), limit), [])
    folder = local_folder(source)
    if not source or (source.startswith(('.', '/', '~')) and folder is None):
        raise DataError(f'no such dataset folder: {quoted(source, 200)}')
    has_records = folder is not None and (folder / FILE).is_file()
    rows = read_folder(folder) if folder and has_records else read_hub(source, split)
    found = list(itertools.islice(rows, limit or None))
    records = [row for row in found if isinstance(row, Record)]
    skipped = [row for row in found if isinstance(row, Skipped)]
    if not records:
        first = f': {skipped[0].id}: {first_line(skipped[0].reason)}' if skipped else ''
        raise DataError(f'{source!r} has no usable row among {len(found)}{first}')
    return Dataset(records, skipped)


__all__ = [
    'LEVELS',
    'Annotation',
    'Dataset',
    'Level',
    'Record',
    'Rle',
    'Sample',
    'Samples',
    'Skipped',
    'read_dataset',
    'read_samples',
]
