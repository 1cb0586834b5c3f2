# SPDX-License-Identifier: Apache-2.0
"""Read annotation files: JSON, and pickles restricted to plain containers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, NoReturn, cast

from segzero_core.errors import DataError, first_line, quoted
from segzero_core.runtime.text_files import decode_text

_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    MemoryError,
)


def load_json(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8 or UTF-16, or in cp1252 as in some of ReasonSeg.

    Raises:
        DataError: The file cannot be read, is damaged, or is cut off.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f'cannot read {path} ({error.strerror})') from error
    try:
        try:
            return json.loads(decode_text(content))
        except UnicodeDecodeError:
            return json.loads(content.decode('cp1252', 'replace'))
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5000 digits, too
        raise DataError(
            f'{path} is not complete JSON ({first_line(error)}): restore it or download it again'
        ) from error


def load_plain_pickle(path: Path) -> Any:
    """Return the content of a pickle of lists, dictionaries, numbers and text.

    A pickle can run any program while it is loaded. This unpickler refuses every global, so
    nothing can be called.

    Raises:
        DataError: The file cannot be read, is damaged, or holds anything but plain containers.
    """
    try:
        with path.open('rb') as file:
            return _PlainUnpickler(file, encoding='utf-8', errors='surrogateescape').load()
    except OSError as error:
        raise DataError(f'cannot read {path} ({error.strerror})') from error
    except _BROKEN_PICKLE as error:
        raise DataError(
            f'{path} is no pickle of plain containers ({first_line(error)}): it is damaged, or '
            'not the file that was published'
        ) from error


def text_of(value: Any) -> str:
    """Return the text of an annotation; pickles of Python 2 may hold it as cp1252 bytes.

    Raises:
        DataError: ``value`` is not text.
    """
    if isinstance(value, bytes):
        value = value.decode('utf-8', 'surrogateescape')
    if not isinstance(value, str):
        raise DataError(f'a sentence must be text, got {quoted(value)}')
    if any('\udc80' <= character <= '\udcff' for character in value):
        return value.encode('utf-8', 'surrogateescape').decode('cp1252', 'replace')
    return value


def rows_of(content: Any, path: Path) -> list[dict[str, Any]]:
    """Return ``content`` if it is a list of JSON objects.

    Raises:
        DataError: It is anything else.
    """
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f'{path} holds no list of objects: it is not the file that was published')
    return cast('list[dict[str, Any]]', content)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f'it asks for {module}.{name}, which is refused')

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f'it asks for the object {pid!r} from elsewhere')
