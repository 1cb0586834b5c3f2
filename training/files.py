# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: one process at a time, one set of settings, clear errors of the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from segzero_core.errors import ConfigError
from segzero_core.runtime.atomic import remove_drafts
from segzero_core.runtime.program import OutputError

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def lock(file: Path, shared: bool = False) -> TextIO | None:
    """Lock ``file`` until the returned handle is closed; None if another process holds the lock.

    A file system without locks, as some clusters have, keeps no process out.

    Args:
        file: The lock file; created if it does not exist.
        shared: Other processes may hold the lock too if they also ask for a shared one.
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
    """Reserve the folder of a run for this process; the folder is created if it does not exist.

    Raises:
        ConfigError: Another process works in the folder, or it cannot be written to.
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
        remove_drafts(folder)
        yield


@contextlib.contextmanager
def explained_os_errors() -> Iterator[None]:
    """Add to the message of an ``OSError`` what to do about it."""
    try:
        yield
    except OutputError:  # the reader of the program's output is gone
        raise
    except OSError as error:
        raise OSError(error.errno, explain_os_error(error)) from error


def explain_os_error(error: OSError) -> str:
    """Return one sentence that says which file could not be read or written and what to do."""
    what = f' {error.filename}' if error.filename else ''
    return (
        f'cannot read or write{what} ({error.strerror or error}): free some space there or check '
        'its permissions, and start the same command again; finished work is kept'
    )


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each setting that differs, with both values.

    Args:
        before: The settings a folder's work was begun with.
        now: The settings asked for.
    """
    return [
        f'{key} ({before.get(key)!r}, now {now.get(key)!r})'
        for key in dict.fromkeys((*now, *before))
        if before.get(key) != now.get(key)
    ]
