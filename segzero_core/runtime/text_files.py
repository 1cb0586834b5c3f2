# SPDX-License-Identifier: Apache-2.0
"""Text files that people write: read with the byte order mark that their editor may have added.

Editors and shells on Windows save text as UTF-8 or UTF-16 with a byte order mark. YAML, JSON and
the standard library treat the mark as a character of the text, and then refuse the file.
"""

from __future__ import annotations

import codecs
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

# UTF-32 comes first because its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF8, 'utf-8-sig'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)


def text_encoding(content: bytes) -> str:
    """Return the encoding that the byte order mark of ``content`` names; UTF-8 without a mark."""
    return next((name for mark, name in _MARKS if content.startswith(mark)), 'utf-8')


def decode_text(content: bytes) -> str:
    """Return the text in ``content`` without its byte order mark.

    Raises:
        UnicodeDecodeError: ``content`` is not text in the encoding that its mark names, or in
            UTF-8 where there is no mark.
    """
    return content.decode(text_encoding(content))


def read_text(path: Path) -> str:
    """Return the text of a file without its byte order mark.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: See ``decode_text``.
    """
    return decode_text(path.read_bytes())


@contextlib.contextmanager
def without_marks(folder: Path) -> Iterator[Path]:
    """Yield a folder with the same files, none of whose text files has a byte order mark.

    It is ``folder`` itself where no file has one, else a temporary folder with links and copies.
    For libraries that read the files of a checkpoint by themselves.
    """
    marked = [
        file
        for pattern in ('*.json', '*.jinja', '*.txt')
        for file in folder.glob(pattern)
        if file.is_file() and _has_mark(file)
    ]
    if not marked:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix='segzero-') as name:
        plain = Path(name)
        for file in folder.iterdir():
            if file in marked:
                (plain / file.name).write_text(read_text(file), encoding='utf-8')
            else:
                (plain / file.name).symlink_to(file.resolve())
        yield plain


def _has_mark(path: Path) -> bool:
    with path.open('rb') as file:
        return text_encoding(file.read(4)) != 'utf-8'
