# SPDX-License-Identifier: Apache-2.0
"""CPU threads of two models that run at the same time. Uses torch only where it is imported."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def count_cores() -> int:
    """Return the number of threads that torch's operators use when called from this thread.

    Call it early in a new thread: torch fixes the number at the first computation, to the value
    that any thread set last. That would be half of the cores if another model runs at that time.
    """
    torch = sys.modules.get('torch')
    return int(torch.get_num_threads()) if torch else 1


def take_more_than_half() -> bool:
    """Return whether torch's operators use more than half of the cores from this thread."""
    if hasattr(os, 'sched_getaffinity'):  # Linux: the process may be bound to some cores
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return 2 * count_cores() > cores


@contextlib.contextmanager
def half_the_cores() -> Iterator[None]:
    """Let torch's operators use half of their threads within the block, where cores are scarce.

    Two models that each use a thread per core wait for each other's threads at every operator, and
    take longer together than one after the other.
    """
    with SharedCores() as cores:
        cores.share(True)
        yield


class SharedCores:
    """Switches between all and half of the threads of torch's operators in this thread.

    Where there are enough cores for both models, all threads are used all the time. A context
    manager, which restores the number of threads at its end.
    """

    def __enter__(self) -> SharedCores:
        self._now = self._all = self._half = count_cores()
        if take_more_than_half():
            self._half = max(1, self._all // 2)
        return self

    def share(self, half: bool) -> None:
        """Use half of the threads from now on, or all."""
        wanted = self._half if half else self._all
        if wanted != self._now:
            sys.modules['torch'].set_num_threads(wanted)
            self._now = wanted

    def __exit__(self, *_: object) -> None:
        self.share(False)
