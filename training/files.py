# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, and what to say when the system refuses one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a file in one step: it is there with all its text, or as it was before.

    Raises:
        OSError: It cannot be written.
    """
    unfinished = file.with_suffix('.unfinished')
    with naming(file), unfinished.open('w', encoding='utf-8') as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    unfinished.replace(file)


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Let the error of a write name ``file``: of a full disk, the system's does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def refused(error: OSError) -> str:
    """Return in words what the system refuses, and what to do about it."""
    what = f' {error.filename}' if error.filename else ''
    return (
        f'cannot read or write{what} ({error.strerror or error}): free some space there, or look '
        'at who may use it, and start the same command again; what is finished is kept'
    )
