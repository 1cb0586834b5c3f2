# SPDX-License-Identifier: Apache-2.0
"""The progress of an evaluation and its score so far, on one line."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 24  # of the bar, characters
_LOG_INTERVAL = 30.0  # seconds between lines of a log
_TERMINAL_INTERVAL = 0.2  # seconds between updates of the line on a terminal


class ProgressLine:
    """A progress bar: redrawn in place on a terminal, a line from time to time in a log."""

    def __init__(
        self, total: int, done: int, enabled: bool = True, stream: TextIO | None = None
    ) -> None:
        """Start the clock.

        Args:
            total: Rows of this process.
            done: Rows that an earlier start has finished.
            enabled: Whether anything is printed.
            stream: Where to print; standard error if None.
        """
        self._total, self._first = total, done
        self._enabled = enabled
        self._stream = stream or sys.stderr
        self._start = self._printed = time.monotonic()

    def show(self, done: int, score: str) -> None:
        """Print how many rows are done and the score so far, unless it is too soon."""
        now = time.monotonic()
        interval = _TERMINAL_INTERVAL if self._stream.isatty() else _LOG_INTERVAL
        if self._enabled and (now - self._printed >= interval or done == self._total):
            self._printed = now
            self._write(done, score, now - self._start)

    def _write(self, done: int, score: str, seconds: float) -> None:
        speed = (done - self._first) / seconds if seconds > 0 else 0.0
        left = (self._total - done) / speed if speed else 0.0
        bar = '#' * (_WIDTH * done // max(self._total, 1))
        line = (
            f'[{bar:.<{_WIDTH}}] {done}/{self._total}  {score}  {speed:.2g}/s  '
            f'{int(left) // 60}:{int(left) % 60:02d} left'
        )
        end = '\n' if not self._stream.isatty() or done == self._total else ''
        start = '\r\x1b[2K' if self._stream.isatty() else ''
        self._stream.write(start + line + end)
        self._stream.flush()
