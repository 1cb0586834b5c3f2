# SPDX-License-Identifier: Apache-2.0
"""Load tables with the library ``datasets``, from the hub or a local folder.

A local folder holds parquet or arrow files (``train-00000.parquet``, ``train/part-0.parquet``), or
the output of ``save_to_disk`` for one split or several. ``splits`` chooses among them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segzero_core.data.columns import Columns, check_columns, plain_type
from segzero_core.data.splits import choose_split, no_split, split_in, split_of
from segzero_core.errors import DataError, first_line, quoted
from segzero_core.runtime.utf8_path import utf8_path

_STATE, _DICT = 'state.json', 'dataset_dict.json'


def load_table(source: str, split: str, columns: Columns) -> tuple[Any, str]:
    """Return one split as a ``datasets.Dataset`` of the needed columns, with encoded images.

    Args:
        source: A folder or a hub id. ``SOURCE:SPLIT`` asks for another split by its name.
        split: The split to read unless ``source`` names one.
        columns: The needed columns and their types.

    Returns:
        The table, and the name of the split.

    Raises:
        DataError: The dataset or split does not exist, or a column cannot be used.
    """
    try:
        import datasets
        import pyarrow
    except ImportError as error:
        raise DataError(
            'reading this dataset needs a library that is not here: '
            'pip install -r requirements/evaluate.txt'
        ) from error
    folder, wanted = _parse_source(source, split)
    place = str(folder) if folder else source.rpartition(':')[0] if wanted != split else source
    try:
        table = _load_local(folder, wanted, columns) if folder else _load_hub(place, wanted)
        check_columns(quoted(place, 200), table.features.arrow_schema, columns)
        table = table.select_columns(list(columns))
        if isinstance(table.features.get('image'), datasets.Image):
            table = table.cast_column('image', datasets.Image(decode=False))  # see image_io
    except (
        *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError),
        *(pyarrow.ArrowException, datasets.exceptions.DatasetsError),
    ) as error:
        cause = error.__cause__ or error
        remedy = (
            'its files are damaged, or of types that pyarrow cannot read: write them again'
            if folder
            else 'give a folder with records.jsonl, a folder of parquet or arrow files, a hub id '
            "such as 'Ricky06662/refCOCOg_9k_840', or 'synthetic:train'"
        )
        raise DataError(
            f'cannot load the dataset {quoted(place, 200)} ({first_line(cause, 200)}): {remedy}'
        ) from error
    return table, wanted


def local_folder(source: str) -> Path | None:
    """Return the folder that ``FOLDER`` or ``FOLDER:SPLIT`` names; None if there is none."""
    for name in (source, source.rpartition(':')[0]):
        folder = Path(name).expanduser()
        try:
            if name and folder.is_dir():
                return folder
        except (OSError, ValueError):
            continue
    return None


def _parse_source(source: str, split: str) -> tuple[Path | None, str]:
    folder = local_folder(source)
    whole = folder is not None and Path(source).expanduser() == folder
    named = '' if whole or ':' not in source else source.rpartition(':')[2]
    return folder, named or split


def _load_hub(name: str, wanted: str) -> Any:
    import datasets

    loaded = datasets.load_dataset(name)
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    (table,) = _one(choose_split(name, wanted, list(loaded.items())), name, wanted, loaded)
    return table


def _load_local(folder: Path, wanted: str, columns: Columns) -> Any:
    import datasets

    folder = utf8_path(folder)
    if (folder / _DICT).is_file():
        return _load_dict(folder, wanted)
    if (folder / _STATE).is_file():
        _check_state(folder, wanted)
        return datasets.load_from_disk(str(folder))
    saved = sorted(file.parent for file in folder.rglob(_STATE))
    if saved:
        named = [(split_of(part.relative_to(folder)), part) for part in saved]
        chosen = choose_split(str(folder), wanted, named)
        (part,) = _one(chosen, str(folder), wanted, [name for name, _ in named])
        return datasets.load_from_disk(str(part))
    for suffix, load in (('parquet', _load_parquet), ('arrow', _load_arrow)):
        files = sorted(folder.rglob(f'*.{suffix}'))
        if files:
            named = [(split_of(file.relative_to(folder)), file) for file in files]
            return load(choose_split(str(folder), wanted, named), columns)
    below = sorted(folder.glob('*/records.jsonl'))
    hint = f'. Give one of its folders: {", ".join(str(f.parent) for f in below)}' if below else ''
    raise DataError(f'{folder} holds neither records.jsonl nor parquet or arrow files{hint}')


def _load_dict(folder: Path, wanted: str) -> Any:
    """Return one split of a folder that ``DatasetDict.save_to_disk`` wrote."""
    import datasets

    loaded = datasets.load_from_disk(str(folder))
    chosen = choose_split(str(folder), wanted, list(loaded.items()))
    (table,) = _one(chosen, str(folder), wanted, loaded)
    return table


def _one(found: Sequence[Any], source: str, wanted: str, there: Any) -> Sequence[Any]:
    if len(found) != 1:
        raise no_split(source, wanted, [name or 'one without a name' for name in there])
    return found


def _check_state(folder: Path, wanted: str) -> None:
    """Refuse a table of another split, unless the folder's own name says that split too."""
    said = json.loads((folder / _STATE).read_text(encoding='utf-8')).get('_split')
    own = split_in(str(said or ''))
    if own and own not in (wanted, split_in(wanted), split_in(folder.name)):
        raise no_split(str(folder), wanted, [own])


def _load_parquet(files: Sequence[Path], columns: Columns) -> Any:
    import datasets
    import pyarrow
    from pyarrow import parquet

    fields: list[Any] = []
    for file in files:
        try:
            schema = parquet.read_schema(file)
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(
                f'cannot read {file} ({first_line(error, 160)}): copy or download it again'
            ) from error
        check_columns(str(file), schema, columns)
        fields = fields or [(name, plain_type(schema.field(name).type)) for name in columns]
    features = datasets.Features.from_arrow_schema(pyarrow.schema(fields))
    names = [str(file) for file in files]
    # Only these columns are read, because datasets cannot load some Arrow types of other columns.
    loaded = datasets.load_dataset(
        'parquet', data_files={'train': names}, columns=list(columns), features=features
    )
    return loaded['train']


def _load_arrow(files: Sequence[Path], columns: Columns) -> Any:
    import datasets
    import pyarrow

    tables = []
    for file in files:
        mapped = pyarrow.memory_map(str(file))
        try:
            table = pyarrow.ipc.open_stream(mapped).read_all()
        except pyarrow.ArrowInvalid:
            table = pyarrow.ipc.open_file(mapped).read_all()
        check_columns(str(file), table.schema, columns)
        table = table.select(list(columns))
        kinds = [(field.name, plain_type(field.type)) for field in table.schema]
        tables.append(table.cast(pyarrow.schema(kinds)))
    return datasets.Dataset(pyarrow.concat_tables(tables, promote_options='permissive'))
