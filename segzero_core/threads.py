# SPDX-License-Identifier: Apache-2.0
"""CPU threads of models that run side by side. Imports no torch: uses the one that is there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def half_the_cores() -> Iterator[None]:
    """Let torch's operators take half of the threads they would otherwise take.

    Two models that each start a thread per core wait for each other's at every operator, and take
    longer together than one after the other.
    """
    torch = sys.modules.get('torch')
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
