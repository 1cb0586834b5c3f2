# SPDX-License-Identifier: Apache-2.0
"""Memory of this process and of its devices. Uses torch only where it is already imported."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

# Of a GPU, of a CUDA library, and of torch's allocator on a CPU.
_MESSAGES = ('out of memory', 'CUBLAS_STATUS_ALLOC_FAILED', "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: Python's, torch's error, or that of a CUDA library."""
    torch = sys.modules.get('torch')
    if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in _MESSAGES)
    return isinstance(error, MemoryError)


def free_memory() -> None:
    """Free what nothing refers to, and the GPU memory that torch has cached.

    Call it outside of the ``except`` clause, in which the traceback still refers to the tensors.
    """
    gc.collect()
    if (cuda := _cuda()) is not None:
        cuda.empty_cache()


def return_memory() -> None:
    """Return freed memory to the system, which takes about a millisecond.

    glibc keeps free pieces that lie between pieces in use (malloc_trim(3)), so that without this
    call the resident memory stays at its peak. Other C libraries do not need it.
    """
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)


def device_memory() -> dict[str, tuple[int, int]]:
    """Return the bytes allocated by this process's tensors, and the total, per CUDA device.

    Only devices that hold tensors of this process are listed. The others are not even asked:
    ``mem_get_info`` would create a CUDA context, some hundred megabytes, on a GPU that somebody
    else may be using.
    """
    if (cuda := _cuda()) is None:
        return {}
    return {
        f'cuda:{index}': (
            cuda.memory_allocated(index),
            cuda.get_device_properties(index).total_memory,
        )
        for index in range(cuda.device_count())
        if cuda.memory_reserved(index)
    }


def _cuda() -> Any:
    """Return ``torch.cuda`` if this process uses CUDA; other calls would initialise it."""
    # Another thread may be in the middle of importing torch.
    cuda: Any = getattr(sys.modules.get('torch'), 'cuda', None)
    return cuda if hasattr(cuda, 'is_initialized') and cuda.is_initialized() else None
