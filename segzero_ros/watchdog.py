# SPDX-License-Identifier: Apache-2.0
"""One thread that acts where something takes too long. Knows no ROS."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable

log = logging.getLogger(__name__)


class Watchdog:
    """Waits for deadlines.

    Its thread is woken only for a deadline that comes before all it knew of. So with the same
    timeout each time to watch a job costs microseconds; a thread for each (``threading.Timer``)
    would cost 0.2 ms.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._changed = threading.Condition()
        self._deadlines: dict[Hashable, tuple[float, Callable[[], None]]] = {}
        self._wakes = math.inf  # when the thread looks again by itself
        self._closed = False
        threading.Thread(target=self._loop, name='segzero-watchdog', daemon=True).start()

    def watch(self, what: Hashable, seconds: float, act: Callable[[], None]) -> None:
        """Call ``act`` in ``seconds``, unless ``what`` is forgotten, or watched anew, by then."""
        with self._changed:
            due = time.monotonic() + seconds
            self._deadlines[what] = due, act
            if due < self._wakes:
                self._changed.notify()

    def forget(self, what: Hashable) -> None:
        """Do not act for ``what``, if it is watched."""
        with self._changed:
            self._deadlines.pop(what, None)

    def close(self) -> None:
        """Forget everything and end the thread, after what it is just doing."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _loop(self) -> None:
        while (act := self._next()) is not None:
            try:
                act()
            except Exception:
                log.exception('the watchdog could not act')
            del act

    def _next(self) -> Callable[[], None] | None:
        """Wait for the first deadline; return what to do then, ``None`` at the end."""
        with self._changed:
            while not self._closed:
                # What is watched holds an image: keep no name of it while waiting.
                due = min((due for due, _ in self._deadlines.values()), default=math.inf)
                left = due - time.monotonic()
                if left <= 0:
                    what = next(key for key, (when, _) in self._deadlines.items() if when == due)
                    return self._deadlines.pop(what)[1]
                self._wakes = due
                self._changed.wait(left if math.isfinite(left) else None)
                self._wakes = -math.inf  # awake, it looks at all deadlines anyway
            return None
