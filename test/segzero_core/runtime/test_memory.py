# SPDX-License-Identifier: Apache-2.0
"""Memory of devices, and memory returned to the system."""

import ctypes
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from segzero_core.runtime.memory import device_memory, is_out_of_memory, return_memory

PIECE, PIECES = 100_000, 600  # bytes; smaller than what glibc gives back by itself


@pytest.mark.parametrize('imported', [[], ['cuda']])
def test_a_torch_that_is_just_being_imported_has_no_devices_yet(monkeypatch, imported):
    torch = ModuleType('torch')
    for name in imported:
        setattr(torch, name, ModuleType(f'torch.{name}'))
    monkeypatch.setitem(sys.modules, 'torch', torch)
    assert device_memory() == {}


class EightGpus(ModuleType):
    """A ``torch.cuda`` of eight GPUs, where this process has tensors on two.

    ``mem_get_info`` and ``synchronize``, which create a context, are not there.
    """

    def __init__(self):
        super().__init__('torch.cuda')
        self.reserved = {3: 2 << 20, 5: 8 << 30}
        self.asked = []

    def is_initialized(self):
        return True

    def device_count(self):
        return 8

    def memory_reserved(self, index):
        return self.reserved.get(index, 0)

    def memory_allocated(self, index):
        return self.reserved.get(index, 0) // 2

    def get_device_properties(self, index):
        self.asked.append(index)
        return SimpleNamespace(total_memory=80 << 30)


def test_only_devices_that_hold_tensors_of_ours_are_asked(monkeypatch):
    torch = ModuleType('torch')
    torch.cuda = EightGpus()
    monkeypatch.setitem(sys.modules, 'torch', torch)
    assert device_memory() == {
        'cuda:3': (1 << 20, 80 << 30),
        'cuda:5': (4 << 30, 80 << 30),
    }
    assert torch.cuda.asked == [3, 5]


@pytest.mark.gpu
def test_the_memory_of_a_real_gpu():
    torch = pytest.importorskip('torch')
    if not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    kept = torch.zeros(1 << 20, device='cuda')
    used, total = device_memory()['cuda:0']
    assert kept.nbytes <= used < total == torch.cuda.mem_get_info(0)[1]
    others = [f'cuda:{index}' for index in range(1, torch.cuda.device_count())]
    assert not set(others) & set(device_memory())


def test_what_counts_as_out_of_memory():
    torch = pytest.importorskip('torch')
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.cuda.OutOfMemoryError('CUDA out of memory'))
    assert is_out_of_memory(RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED'))
    assert not is_out_of_memory(RuntimeError('shapes do not match'))
    assert not is_out_of_memory(ValueError('out of memory'))


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
