# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all and belong to one process at a time."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest

from segzero_core.errors import ConfigError
from segzero_core.runtime.atomic import atomic_text
from training.files import claimed, explain_os_error, lock


def test_one_holds_a_file_or_several_who_share_it(tmp_path: Path) -> None:
    file = tmp_path / 'lock'
    first, second = lock(file, shared=True), lock(file, shared=True)
    assert first
    assert second
    assert lock(file) is None
    first.close()
    second.close()
    alone = lock(file)
    assert alone
    assert lock(file, shared=True) is None
    alone.close()


def test_file_systems_without_locks_keep_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with claimed(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match=r'cannot write to .*file/run.*: choose another output'):
        claimed(tmp_path / 'file' / 'run').__enter__()


def test_what_cannot_be_written_is_named_and_left_as_it_was(
    tmp_path: Path, limited_files: Any
) -> None:
    file = tmp_path / 'a.json'
    atomic_text(file, 'before')
    with limited_files(9), pytest.raises(OSError, match=r'a\.json') as caught:
        atomic_text(file, 'x' * 99)
    assert file.read_text() == 'before'
    assert explain_os_error(caught.value).startswith(f'cannot read or write {file} (')
