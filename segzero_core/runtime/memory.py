# SPDX-License-Identifier: Apache-2.0
"""Memory: our own, and of the devices models run on. Imports no torch, but looks at one there."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device ran out of memory: torch's error, or one of a CUDA library."""
    torch = sys.modules.get('torch')
    if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    told = ('out of memory', 'CUBLAS_STATUS_ALLOC_FAILED')
    return isinstance(error, RuntimeError) and any(words in str(error) for words in told)


def free_memory() -> None:
    """Give back what nothing uses any more. Call it outside of ``except``.

    There the traceback still holds the tensors.
    """
    gc.collect()
    if (cuda := _cuda()) is not None:
        cuda.empty_cache()


def return_memory() -> None:
    """Give the system back what freed images have left; it takes about a millisecond.

    glibc keeps the pieces between what is in use (malloc_trim(3)): without this, resident memory
    tells how many images were ever held at once. Other C libraries do not need it.
    """
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)


def device_memory() -> dict[str, tuple[int, int]]:
    """Return the bytes that this process's tensors take, and those there are, per CUDA device."""
    if (cuda := _cuda()) is None:
        return {}
    return {
        f'cuda:{index}': (cuda.memory_allocated(index), cuda.mem_get_info(index)[1])
        for index in range(cuda.device_count())
    }


def _cuda() -> Any:
    """Return ``torch.cuda`` where it is in use: to ask it anything else would start CUDA."""
    # Another thread may be importing torch just now.
    cuda: Any = getattr(sys.modules.get('torch'), 'cuda', None)
    return cuda if hasattr(cuda, 'is_initialized') and cuda.is_initialized() else None
