# SPDX-License-Identifier: Apache-2.0
"""Training sets with the released Hugging Face columns, from the hub or a local folder.

Columns: ``id``, ``problem``, ``solution``, ``image``. The released sets also have ``img_height``
and ``img_width``, the size the image had before it was resized; they are not needed here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segzero_core.data.annotations import text_of
from segzero_core.data.columns import IMAGE, NAME, SOLUTION, TEXT, image_source, row_name
from segzero_core.data.image_io import load_rgb, read_header
from segzero_core.data.records import Record, Skipped
from segzero_core.data.solutions import parse_solution
from segzero_core.data.tables import load_table, local_folder
from segzero_core.errors import DataError, QueryError
from segzero_core.prompts import check_query

SPLIT = 'train'
COLUMNS = {'id': NAME, 'problem': TEXT, 'solution': SOLUTION, 'image': IMAGE}


def read_hub(source: str, split: str = SPLIT) -> Iterator[Record | Skipped]:
    """Yield every row of a dataset on the hub or in a local parquet or arrow folder, in order.

    Args:
        source: See ``tables.load_table``.
        split: The same.

    Raises:
        DataError: There is no such dataset or split, or a column cannot be used.
    """
    table, _ = load_table(source, split, COLUMNS)
    folder = local_folder(source)
    for index in range(len(table)):
        yield _read_row(table, index, folder)


def _read_row(table: Any, index: int, folder: Path | None) -> Record | Skipped:
    row = table[index]
    name = row_name(row['id'], index)
    try:
        header = read_header(image_source(row['image'], folder), verify=True)
        return Record(
            id=name,
            query=check_query(text_of(row['problem'])),
            size=header.size,
            targets=parse_solution(row['solution'], header.size, header.stored),
            load_image=functools.partial(_load_image, table, index, name, folder),
        )
    except (DataError, QueryError) as error:
        return Skipped(name, str(error))


def _load_image(table: Any, index: int, name: str, folder: Path | None) -> Any:
    return load_rgb(image_source(table[index]['image'], folder), name)
