# SPDX-License-Identifier: Apache-2.0
"""The released evaluation sets on the hub: ``Ricky06662/ReasonSeg_val``, ``refcoco_testA``, ...

Columns: ``image``, ``text``, ``mask`` (nested lists of bool, one of each row of the image),
``image_id``, ``ann_id``, ``img_height``, ``img_width``. The split is called ``test`` in every one
of them, so what was measured is known by the dataset's name. ReasonSeg's ignored regions are
foreground here.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from segzero_core.data.annotations import text_of
from segzero_core.data.hub_train import image_source, load_table
from segzero_core.data.image_io import check_image_file, load_rgb
from segzero_core.data.rle import encode_mask
from segzero_core.data.samples import Level, Sample, SampleRow, Samples
from segzero_core.errors import DataError
from segzero_core.prompts import check_query
from segzero_core.types import Mask

SPLIT = 'test'
COLUMNS = ('image', 'text', 'mask', 'image_id', 'ann_id')


def masked_samples(source: str, level: Level = 'instance') -> Samples:
    """Return the samples of a dataset on the hub or in a local parquet or arrow folder.

    Args:
        source: Folder or hub id.
        level: What the dataset holds (its name ends in ``_all`` for expressions).

    Raises:
        DataError: There is no such dataset, or a column is missing.
    """
    table = load_table(source, SPLIT)
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(
            f'{source!r} has no column {missing[0]!r}: to measure on, it needs '
            f'{", ".join(COLUMNS)} and has {", ".join(table.column_names)}'
        )
    kind = str(table.features.arrow_schema.field('mask').type)
    if kind.count('list<') != 2:
        raise DataError(f'the column mask of {source!r} must be lists of lists, it is {kind}')
    names = table.select_columns(['image_id', 'ann_id'])
    total: dict[str, int] = {}
    rows = []
    for index, name in enumerate(names):
        image, annotation = str(name['image_id']), str(name['ann_id'])
        base = annotation if annotation == image else f'{image}/{annotation}'
        total[base] = total.get(base, 0) + 1
        # One annotation has several expressions in the sets called _all.
        row_id = base if total[base] == 1 or level == 'instance' else f'{base}/{total[base] - 1}'
        rows.append(SampleRow(row_id, image, functools.partial(_make, table, index, row_id)))
    return Samples(Path(source).name, SPLIT, level, rows)


def _make(table: Any, index: int, row_id: str) -> Sample:
    row = table.select_columns(['image', 'text', 'image_id'])[index]
    if row['image_id'] is None:  # rows of one image share it: these would all get the first one's
        raise DataError("the row has no 'image_id', which tells which rows share an image")
    size = check_image_file(image_source(row))
    truth = encode_mask(_mask(table, index))
    return Sample(
        id=row_id,
        query=check_query(text_of(row['text'])),
        image_id=str(row['image_id']),
        size=size,
        load_image=functools.partial(_load_image, table, index, row_id),
        truth=truth,  # maybe of another size: the released evaluation meets that only in the end
        boxes=(truth.box,) if truth.box else (),
    )


def _mask(table: Any, index: int) -> Mask:
    """Return one mask without making a Python object of each pixel."""
    rows = table.select_columns(['mask']).with_format('arrow')[index : index + 1]['mask'][0].values
    if rows is None or not len(rows):
        raise DataError('the mask is empty: it has no row of pixels')
    widths = np.unique(np.diff(rows.offsets.to_numpy()))
    if len(widths) != 1 or rows.null_count:
        raise DataError(f'the rows of the mask differ in length: {widths[:5].tolist()}')
    pixels = rows.flatten()
    if pixels.null_count:
        raise DataError('the mask has pixels without a value')
    flat = pixels.to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(len(rows), int(widths[0])), dtype=np.bool_)


def _load_image(table: Any, index: int, name: str) -> Any:
    return load_rgb(image_source(table.select_columns(['image'])[index]), name)
