# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a file or folder holds all of its new content, or is as it was before.

The content goes into a draft next to the target, which is flushed to the disk and then renamed.
A full disk, an exception or Ctrl-C removes the draft. A killed process leaves it under a name that
starts with a dot, and the next attempt overwrites it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = '.partial'


@contextlib.contextmanager
def atomic_file(file: Path, shared: bool = False) -> Iterator[Path]:
    """Yield the path of a draft that becomes ``file`` when the block ends without an exception.

    Args:
        file: The target; replaced if it exists. Its folder must exist.
        shared: Several processes may write ``file`` at the same time: each has a separate draft,
            and the last one to finish wins.

    Raises:
        OSError: The file cannot be written; ``filename`` is ``file``.
    """
    draft = draft_of(file, shared)
    try:
        with naming(file):
            yield draft
            _flush(draft)
            os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def atomic_text(file: Path, text: str, shared: bool = False, errors: str = 'strict') -> None:
    """Write ``text`` as UTF-8; see ``atomic_file``.

    Args:
        file: The target.
        text: Its new content.
        shared: Several processes may write it at the same time.
        errors: What happens to a character that cannot be encoded, as in ``str.encode``.
    """
    with atomic_file(file, shared) as draft:
        draft.write_text(text, encoding='utf-8', errors=errors)


def create_once(file: Path, text: str) -> None:
    """Write ``text`` as UTF-8 unless ``file`` exists; of several processes the first one wins.

    Raises:
        OSError: The file cannot be written; ``filename`` is ``file``.
    """
    draft = draft_of(file, shared=True)
    try:
        with naming(file):
            draft.write_text(text, encoding='utf-8')
            _flush(draft)
            with contextlib.suppress(FileExistsError):
                os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``folder`` when the block ends without an exception.

    Args:
        folder: The target; replaced if it exists. One process writes it at a time.

    Raises:
        OSError: The folder cannot be written.
    """
    draft = draft_of(folder)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        replace_folder(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def replace_folder(draft: Path, folder: Path) -> None:
    """Flush ``draft`` to the disk and rename it to ``folder``, which is replaced if it exists."""
    for file in draft.rglob('*'):
        if file.is_file():
            _flush(file)
    # A folder that is not empty cannot be renamed over, so the old one steps aside first.
    old = folder.with_name(f'.{folder.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        draft.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def draft_of(target: Path, shared: bool = False) -> Path:
    """Return where the draft of a file or folder is; one per process if ``shared``."""
    owner = f'.{os.uname().nodename}-{os.getpid()}' if shared else ''
    return target.with_name(f'.{target.name}{owner}{_SUFFIX}')


def remove_drafts(folder: Path) -> None:
    """Remove what killed processes left in ``folder``; no other process may write there."""
    for draft in folder.glob(f'.*{_SUFFIX}'):
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink()


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Let an ``OSError`` of the block name ``file``: on a full disk the system's names nothing."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).endswith(_SUFFIX):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error


def _flush(file: Path) -> None:
    """Wait until the content of ``file`` is on the disk: a rename may reach it earlier."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
