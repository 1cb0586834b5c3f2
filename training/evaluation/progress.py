# SPDX-License-Identifier: Apache-2.0
"""How far an evaluation is, and its score so far, on one line."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 24
_PAUSE = 30.0  # seconds between lines where they cannot be written over
_BLINK = 0.2  # and where they can


class Progress:
    """A bar that is drawn anew on a terminal, and a line now and then anywhere else."""

    def __init__(self, total: int, done: int, aloud: bool, stream: TextIO | None = None) -> None:
        """Start.

        Args:
            total: Rows of this process.
            done: Those that were there before.
            aloud: Whether to say anything.
            stream: Where to; standard error if None.
        """
        self._total, self._first = total, done
        self._aloud = aloud
        self._stream = stream or sys.stderr
        self._start = self._said = time.monotonic()

    def show(self, done: int, score: str) -> None:
        """Say how many rows are done, and the score so far."""
        now = time.monotonic()
        pause = _BLINK if self._stream.isatty() else _PAUSE
        if self._aloud and (now - self._said >= pause or done == self._total):
            self._said = now
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
