# SPDX-License-Identifier: Apache-2.0
"""Columns of a table: which Arrow types can be used, and the pictures in their cells."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from segzero_core.errors import DataError, quoted

_DATA_URL = re.compile(r'data:[\w.+/-]*;base64,')
_LONGEST_PATH = 4096
_LONGEST_NAME = 80


class Column(NamedTuple):
    """The Arrow types that a column may have.

    Attributes:
        fits: Return whether a type, as ``plain_type`` returns it, can be used.
        wanted: The usable types in words, for messages.
    """

    fits: Callable[[Any], bool]
    wanted: str


Columns: TypeAlias = Mapping[str, Column]


def check_columns(source: str, schema: Any, columns: Columns) -> None:
    """Check names and types of the columns that are needed; others may be of any type.

    Args:
        source: Name of the dataset or file in the message.
        schema: A ``pyarrow.Schema``.
        columns: The needed columns.

    Raises:
        DataError: A column is missing or of a type that cannot be used.
    """
    for name, column in columns.items():
        if name not in schema.names:
            raise DataError(
                f'{source} has no column {name!r}: it needs {", ".join(columns)} and has '
                f'{quoted(", ".join(schema.names), 200)[1:-1]}. Rename its columns'
            )
        if schema.names.count(name) > 1:
            raise DataError(f'{source} has several columns {name!r}: give each its own name')
        kind = schema.field(name).type
        if not column.fits(plain_type(kind)):
            raise DataError(
                f'the column {name!r} of {source} has the type '
                f'{quoted(str(kind), 120)[1:-1]}: it must be {column.wanted}'
            )


def plain_type(kind: Any) -> Any:
    """Return an Arrow type without dictionaries, run ends, views, extensions and list sizes."""
    import pyarrow
    from pyarrow import types

    if isinstance(kind, pyarrow.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if is_list(kind):
        # Large lists stay large: their offsets do not fit into 32 bits.
        make = pyarrow.large_list if types.is_large_list(kind) else pyarrow.list_
        return make(plain_type(kind.value_type))
    if types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return pyarrow.struct([(field.name, plain_type(field.type)) for field in fields])
    if types.is_string_view(kind):
        return pyarrow.large_string()
    if types.is_binary_view(kind):
        return pyarrow.large_binary()
    return kind


def is_list(kind: Any) -> bool:
    """Return whether an Arrow type is a list of any sort (a map is not)."""
    from pyarrow import types

    tests = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    views = (types.is_list_view, types.is_large_list_view)
    return any(test(kind) for test in (*tests, *views))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _is_name(kind: Any) -> bool:
    from pyarrow import types

    return bool(_is_text(kind) or types.is_integer(kind) or types.is_null(kind))


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    if not types.is_struct(kind):
        return _is_text(kind) or _is_bytes(kind)
    fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    content, path = fields.get('bytes'), fields.get('path')
    if content is None and path is None:
        return False
    usable = content is None or _is_bytes(content) or _is_text(content) or types.is_null(content)
    return usable and (path is None or _is_text(path) or types.is_null(path))


def _is_solution(kind: Any) -> bool:
    from pyarrow import types

    return _is_text(kind) or (is_list(kind) and types.is_struct(kind.value_type))


def _is_mask(kind: Any) -> bool:
    from pyarrow import types

    if not is_list(kind) or not is_list(kind.value_type):
        return False
    value = kind.value_type.value_type
    tests = (types.is_boolean, types.is_integer, types.is_floating)
    return any(test(value) for test in tests)


NAME = Column(_is_name, 'text or whole numbers')
TEXT = Column(_is_text, 'text')
IMAGE = Column(
    _is_image, "a struct of 'bytes' and 'path' (the type Image of datasets), binary, or text"
)
SOLUTION = Column(_is_solution, 'text, or lists of structs')
MASK = Column(_is_mask, 'lists of lists of booleans, one list for each row of pixels')


def row_name(value: Any, index: int) -> str:
    """Return the id of a row for people, on one line."""
    name = f'row {index}' if value is None else ' '.join(str(value).split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + '...'


def image_source(cell: Any, folder: Path | None = None) -> bytes | Path:
    """Return the encoded picture in a cell of a column ``image``, or the file it lies in.

    Args:
        cell: A struct of ``bytes`` and ``path``, bytes, a path, or a picture as base64 text or as
            a ``data:`` address.
        folder: Where relative paths begin, if the file is there.

    Raises:
        DataError: There is no picture, or it is nothing of that.
    """
    if isinstance(cell, dict):
        content = cell.get('bytes')
        cell = content if content else cell.get('path')
    if not cell:
        raise DataError('the row has no image')
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str):
        raise DataError(f'the image must be bytes, a path or base64, got {quoted(cell)}')
    prefix = _DATA_URL.match(cell)
    if prefix is None and len(cell) < _LONGEST_PATH and (file := _file(cell, folder)):
        return file
    try:
        return base64.b64decode(
            ''.join(cell[prefix.end() if prefix else 0 :].split()), validate=True
        )
    except (binascii.Error, ValueError) as error:
        raise DataError(
            f'the image {quoted(cell)} is neither a file that is there nor base64'
        ) from error


def _file(name: str, folder: Path | None) -> Path | None:
    for file in (folder / name if folder else None, Path(name)):
        try:
            if file is not None and file.is_file():
                return file
        except (OSError, ValueError):
            continue
    # A name with a suffix is meant as a path, even if the file is missing.
    return Path(name) if re.search(r'\.\w{2,5}$', name) else None
