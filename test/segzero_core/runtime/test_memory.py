# SPDX-License-Identifier: Apache-2.0
"""Memory of devices, and what goes back to the system."""

import ctypes
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from segzero_core.runtime.memory import device_memory, return_memory

PIECE, PIECES = 100_000, 600  # bytes; smaller than what glibc gives back by itself


@pytest.mark.parametrize('imported', [[], ['cuda']])
def test_a_torch_that_is_just_being_imported_has_no_devices_yet(monkeypatch, imported):
    torch = ModuleType('torch')
    for name in imported:
        setattr(torch, name, ModuleType(f'torch.{name}'))
    monkeypatch.setitem(sys.modules, 'torch', torch)
    assert device_memory() == {}


def resident():
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'malloc_trim'), reason='needs glibc')
def test_memory_between_what_is_in_use_goes_back():
    pieces = [bytearray(b'x' * PIECE) for _ in range(PIECES)]
    kept = pieces[::10]  # so that the others do not go back by themselves
    del pieces
    before = resident()
    return_memory()
    assert before - resident() > PIECE * PIECES / 2
    assert all(piece[-1] == ord('x') for piece in kept)
