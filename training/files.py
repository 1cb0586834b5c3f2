# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all and belong to one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from segzero_core.errors import ConfigError

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


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


def lock(file: Path, shared: bool = False) -> TextIO | None:
    """Hold ``file`` until what is returned is closed; None if another process holds it.

    On a file system without locks, as some of clusters are, nobody is kept out.

    Args:
        file: Made if it is not there.
        shared: Let others hold it too who say so.
    """
    held = file.open('w')
    try:
        fcntl.flock(held, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            held.close()
            raise
    return held


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the folder of a run, made if it is not there, for this process.

    Raises:
        ConfigError: Another process is at work there, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder / '.lock')
    except OSError as error:
        raise ConfigError(f'cannot write to {folder} ({error}): choose another output') from error
    if held is None:
        raise ConfigError(
            f'another process is at work in {folder}: wait for it, or choose another output'
        )
    with held:
        yield


def refused(error: OSError) -> str:
    """Return in words what the system refuses, and what to do about it."""
    what = f' {error.filename}' if error.filename else ''
    return (
        f'cannot read or write{what} ({error.strerror or error}): free some space there, or look '
        'at who may use it, and start the same command again; what is finished is kept'
    )
