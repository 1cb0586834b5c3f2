# SPDX-License-Identifier: Apache-2.0
"""CPU threads of models that run side by side. Imports no torch: uses the one that is there."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def count_cores() -> int:
    """Have torch settle how many threads its operators take in this thread, and return it.

    A thread that has not computed yet takes over what any other thread has set last, for good:
    half of them, if that is when it computes first.
    """
    torch = sys.modules.get('torch')
    return int(torch.get_num_threads()) if torch else 1


def take_more_than_half() -> bool:
    """Return whether torch's operators in this thread take more than half of the cores."""
    if hasattr(os, 'sched_getaffinity'):  # Linux: the process may be bound to some of them
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return 2 * count_cores() > cores


@contextlib.contextmanager
def half_the_cores() -> Iterator[None]:
    """Let torch's operators take half of the threads they would otherwise take, if need be.

    Two models that each start a thread per core wait for each other's at every operator, and take
    longer together than one after the other.
    """
    with SharedCores() as cores:
        cores.share(True)
        yield


class SharedCores:
    """How many threads torch's operators take in this thread: all, or half of them for a while.

    Where there are cores enough for twice as many threads, it remains all of them. A context
    manager; it has no effect beyond its end.
    """

    def __enter__(self) -> SharedCores:
        self._now = self._all = self._half = count_cores()
        if take_more_than_half():
            self._half = max(1, self._all // 2)
        return self

    def share(self, half: bool) -> None:
        """From now on take half of the threads, or all."""
        wanted = self._half if half else self._all
        if wanted != self._now:
            sys.modules['torch'].set_num_threads(wanted)
            self._now = wanted

    def __exit__(self, *_: object) -> None:
        self.share(False)
