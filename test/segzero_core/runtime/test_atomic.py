# SPDX-License-Identifier: Apache-2.0
"""A file or folder holds all of its new content, or is as it was before."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segzero_core.runtime.atomic import (
    atomic_file,
    atomic_folder,
    atomic_text,
    create_once,
    remove_drafts,
)

FAILURES = [
    MemoryError(),
    RuntimeError('CUDA error: out of memory'),
    KeyboardInterrupt(),
    OSError(errno.ENOSPC, 'No space left on device'),
]


def write_file(target: Path, text: str, fail: BaseException | None = None) -> None:
    with atomic_file(target) as draft:
        draft.write_text(text[: len(text) // 2] if fail else text)
        if fail:
            raise fail


def write_folder(target: Path, text: str, fail: BaseException | None = None) -> None:
    with atomic_folder(target) as draft:
        (draft / 'first').write_text(text)
        if fail:
            raise fail
        (draft / 'second').write_text(text)


def content(target: Path) -> Any:
    if target.is_dir():
        return {path.name: path.read_text() for path in target.iterdir()}
    return target.read_text() if target.exists() else None


@pytest.mark.parametrize('write', [write_file, write_folder])
@pytest.mark.parametrize('failure', FAILURES, ids=lambda error: type(error).__name__)
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, write: Callable[..., None], failure: BaseException
) -> None:
    target = tmp_path / 'target'
    with pytest.raises(type(failure)):
        write(target, 'first', failure)
    assert list(tmp_path.iterdir()) == []
    write(target, 'before')
    before = content(target)
    with pytest.raises(type(failure)):
        write(target, 'after', failure)
    assert content(target) == before
    assert list(tmp_path.iterdir()) == [target]
    write(target, 'after')
    assert content(target) != before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ('write', 'step'),
    [
        (write_file, 'fsync'),
        (write_file, 'replace'),
        (write_folder, 'fsync'),
        (write_folder, 'rename'),
    ],
)
def test_a_failed_flush_or_rename_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None], step: str
) -> None:
    target = tmp_path / 'target'
    write(target, 'before')
    before = content(target)
    with monkeypatch.context() as patch:
        calls: list[Any] = []

        def fail_once(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == (2 if step == 'rename' else 1):  # the second renames the draft
                raise OSError(errno.ENOSPC, 'No space left on device')
            return real(*arguments)

        real = getattr(os, step)
        patch.setattr(os, step, fail_once)
        with pytest.raises(OSError, match='No space left'):
            write(target, 'after')
    assert content(target) == before
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_of_the_disk_names_the_target(tmp_path: Path) -> None:
    target = tmp_path / 'missing' / 'file.json'
    with pytest.raises(OSError, match='No such file') as caught:
        atomic_text(target, 'text')
    assert caught.value.filename == str(target)


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    other = tmp_path / 'source'
    with pytest.raises(FileNotFoundError) as caught, atomic_file(tmp_path / 'target'):
        other.read_text()
    assert caught.value.filename == str(other)


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    code = (
        'import os, signal, sys; from pathlib import Path\n'
        'from segzero_core.runtime.atomic import atomic_file, atomic_folder\n'
        'paths = [Path(name) for name in sys.argv[1:]]\n'
        'with atomic_file(paths[0]) as file, atomic_folder(paths[1]) as folder:\n'
        '    file.write_text("half"); (folder / "half").touch()\n'
        '    os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    file, folder = tmp_path / 'file', tmp_path / 'folder'
    ended = subprocess.run([sys.executable, '-c', code, file, folder], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not file.exists()
    assert not folder.exists()
    assert len(list(tmp_path.iterdir())) == 2
    remove_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == []
    ended = subprocess.run([sys.executable, '-c', code, file, folder], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    write_file(file, 'whole')
    write_folder(folder, 'whole')
    assert sorted(tmp_path.iterdir()) == [file, folder]
    assert content(folder) == {'first': 'whole', 'second': 'whole'}


def test_the_first_of_several_processes_creates_a_file(tmp_path: Path) -> None:
    target = tmp_path / 'run.json'
    create_once(target, 'first')
    create_once(target, 'second')
    assert target.read_text() == 'first'
    assert list(tmp_path.iterdir()) == [target]
