# SPDX-License-Identifier: Apache-2.0
"""Datasets with the released Hugging Face columns, from the hub or a local folder.

Columns: ``id``, ``problem``, ``solution``, ``image``, ``img_height``, ``img_width`` (the size the
image had before it was resized; not needed here).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segzero_core.data.annotations import text_of
from segzero_core.data.image_io import check_image_file, load_rgb
from segzero_core.data.records import Record, Skipped
from segzero_core.data.solutions import parse_solution
from segzero_core.errors import DataError, QueryError, first_line
from segzero_core.prompts import check_query

COLUMNS = ('id', 'problem', 'solution', 'image')


def read_hub(source: str, split: str = 'train') -> Iterator[Record | Skipped]:
    """Yield every row of a dataset on the hub or in a local parquet or arrow folder, in order.

    Raises:
        DataError: There is no such dataset, or a column is missing.
    """
    table = load_table(source, split)
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(
            f'the dataset {source!r} has no column {missing[0]!r}: it needs {", ".join(COLUMNS)} '
            f'and has {", ".join(table.column_names)}. Rename its columns'
        )
    for index in range(len(table)):
        yield _read_row(table, index)


def load_table(source: str, split: str) -> Any:
    """Return one split as a ``datasets.Dataset``, its images still encoded.

    Raises:
        DataError: There is no such dataset or split.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            'reading this dataset needs a library that is not here: '
            'pip install -r requirements/evaluate.txt'
        ) from error
    folder = Path(source).expanduser()
    try:
        if (folder / 'dataset_dict.json').is_file() or (folder / 'state.json').is_file():
            loaded = datasets.load_from_disk(str(folder))
        elif folder.is_dir() and (files := _parquet_files(folder, split)):
            loaded = datasets.load_dataset('parquet', data_files={split: files})
        elif folder.is_dir():
            raise DataError(f'{folder} holds neither records.jsonl nor parquet or arrow files')
        else:
            loaded = datasets.load_dataset(source)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f'cannot load the dataset {source!r} ({first_line(error)}): give a folder '
            'with records.jsonl, a folder of parquet or arrow files, a hub id such as '
            "'Ricky06662/refCOCOg_9k_840', or 'synthetic:train'"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f'{source!r} has no split {split!r}, only {", ".join(loaded)}')
        loaded = loaded[split]
    if 'image' in loaded.column_names:  # bytes: decoded when needed, by us
        loaded = loaded.cast_column('image', datasets.Image(decode=False))
    return loaded


def _parquet_files(folder: Path, split: str) -> list[str]:
    """Return the files of a split: those with its name in theirs, or all if none has it."""
    files = sorted(path.relative_to(folder) for path in folder.rglob('*.parquet'))
    word = re.compile(rf'(?<![a-z]){split}(?![a-z])')
    named = [file for file in files if word.search(str(file).lower())]
    return [str(folder / file) for file in named or files]


def _read_row(table: Any, index: int) -> Record | Skipped:
    row = table[index]
    name = str(row['id'])
    try:
        size = check_image_file(image_source(row))
        return Record(
            id=name,
            query=check_query(text_of(row['problem'])),
            size=size,
            targets=parse_solution(str(row['solution']), size),
            load_image=functools.partial(_load_image, table, index, name),
        )
    except (DataError, QueryError) as error:
        return Skipped(name, str(error))


def _load_image(table: Any, index: int, name: str) -> Any:
    return load_rgb(image_source(table[index]), name)


def image_source(row: Any) -> bytes | Path:
    """Return the encoded image of a row, or where it lies.

    Raises:
        DataError: The row has none.
    """
    image = row['image']
    if not isinstance(image, dict) or not (image.get('bytes') or image.get('path')):
        raise DataError('the row has no image')
    return image['bytes'] or Path(image['path'])
