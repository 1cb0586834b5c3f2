# SPDX-License-Identifier: Apache-2.0
"""The released evaluation sets on the hub: ``Ricky06662/ReasonSeg_val``, ``refcoco_testA``, ...

Columns: ``image``, ``text``, ``mask`` (nested lists of bool, one of each row of the image),
``image_id``, ``ann_id``, ``img_height``, ``img_width``. The split is called ``test`` in every one
of them, so the dataset's name tells which images were measured. ReasonSeg's ignored regions are
foreground here.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from segzero_core.data.annotations import text_of
from segzero_core.data.columns import IMAGE, MASK, NAME, TEXT, image_source, plain_type
from segzero_core.data.image_io import load_rgb, read_header
from segzero_core.data.mask_files import plain_values
from segzero_core.data.rle import encode_mask
from segzero_core.data.samples import Level, Sample, SampleRow, Samples
from segzero_core.data.size_mismatch import explain_mismatch
from segzero_core.data.tables import load_table, local_folder
from segzero_core.errors import DataError, quoted
from segzero_core.prompts import check_query
from segzero_core.types import Mask

SPLIT = 'test'
_MOST_DIFFERENCE = 8.0  # mean, of 255, between two encodings of one image
COLUMNS = {'image': IMAGE, 'text': TEXT, 'mask': MASK, 'image_id': NAME, 'ann_id': NAME}


def masked_samples(source: str, level: Level = 'instance', split: str = SPLIT) -> Samples:
    """Return the samples of a dataset on the hub or in a local parquet or arrow folder.

    Args:
        source: See ``tables.load_table``.
        level: Level of the rows of the dataset (its name ends in ``_all`` for expressions).
        split: The split to read unless ``source`` names one.

    Raises:
        DataError: There is no such dataset or split, or a column cannot be used.
    """
    table, split = load_table(source, split, COLUMNS)
    folder = local_folder(source)
    total: dict[str, int] = {}
    first_rows: dict[str, tuple[bytes, int]] = {}
    rows = []
    for index, ids in enumerate(table.select_columns(['image_id', 'ann_id'])):
        image, annotation = str(ids['image_id']), str(ids['ann_id'])
        base = annotation if annotation == image else f'{image}/{annotation}'
        total[base] = total.get(base, 0) + 1
        # One annotation has several expressions in the sets called _all.
        row_id = base if total[base] == 1 or level == 'instance' else f'{base}/{total[base] - 1}'
        rows.append(
            SampleRow(
                row_id, image, functools.partial(_make, table, index, row_id, folder, first_rows)
            )
        )
    name = folder.name if folder else Path(source.partition(':')[0]).name
    return Samples(name, split, level, rows)


def _make(
    table: Any,
    index: int,
    row_id: str,
    folder: Path | None,
    first_rows: dict[str, tuple[bytes, int]],
) -> Sample:
    row = table.select_columns(['image', 'text', 'image_id'])[index]
    if row['image_id'] is None:  # rows of one image share it: these would all get the first one's
        raise DataError("the row has no 'image_id', which tells which rows share an image")
    source = image_source(row['image'], folder)
    header = read_header(source, verify=True)
    digest = hashlib.blake2b(
        source if isinstance(source, bytes) else str(source).encode()
    ).digest()
    same, first = first_rows.setdefault(str(row['image_id']), (digest, index))
    if same != digest and not _look_alike(table, index, first, folder):
        raise DataError(
            f"the 'image_id' {quoted(row['image_id'])} also belongs to another image (row {first} "
            'of the table): rows share an image by this id, so give each image its own'
        )
    truth = encode_mask(_mask(table, index))
    return Sample(
        id=row_id,
        query=check_query(text_of(row['text'])),
        image_id=str(row['image_id']),
        size=header.size,
        load_image=functools.partial(_load_image, table, index, row_id, folder),
        # The truth may be of another size: the released evaluation leaves such rows out only
        # when it compares the masks.
        truth=truth,
        boxes=(truth.box,) if truth.box else (),
        mismatch='' if truth.size == header.size else explain_mismatch(header, truth.size),
    )


def _look_alike(table: Any, index: int, other: int, folder: Path | None) -> bool:
    """Return whether two rows have the same image, perhaps encoded twice."""
    image = _load_image(table, index, f'row {index}', folder)
    first = _load_image(table, other, f'row {other}', folder)
    if image.shape != first.shape:
        return False
    return float(np.abs(image.astype(np.int16) - first).mean()) < _MOST_DIFFERENCE


def _mask(table: Any, index: int) -> Mask:
    """Return one mask without making a Python object of each pixel."""
    import pyarrow

    cell = table.select_columns(['mask']).with_format('arrow')[index : index + 1]['mask']
    pixel = plain_type(cell.type).value_type.value_type
    (rows,) = cell.cast(pyarrow.list_(pyarrow.large_list(pixel))).combine_chunks()
    rows = rows.values
    if rows is None or not len(rows):
        raise DataError('the mask is empty: it has no row of pixels')
    widths = np.unique(np.diff(rows.offsets.to_numpy()))
    if len(widths) != 1 or rows.null_count:
        raise DataError(f'the rows of the mask differ in length: {widths[:5].tolist()}')
    pixels = rows.flatten()
    if pixels.null_count:
        raise DataError('the mask has pixels without a value')
    if not len(pixels):
        raise DataError('the mask is empty: its rows have no pixel')
    flat = pixels.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(plain_values(flat.reshape(len(rows), int(widths[0]))))


def _load_image(table: Any, index: int, name: str, folder: Path | None) -> Any:
    cell = table.select_columns(['image'])[index]['image']
    return load_rgb(image_source(cell, folder), name)
