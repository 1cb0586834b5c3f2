# SPDX-License-Identifier: Apache-2.0
"""What is done in a second thread while the reasoner writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from segzero_core.runtime.cpu_threads import SharedCores
from segzero_core.segmenters.base import MaskResult
from segzero_core.types import MaskPrompt


@dataclass(frozen=True)
class EarlyMask:
    """A mask that was begun before the answer ended."""

    prompt: MaskPrompt
    result: Future[tuple[list[MaskResult], float]]


class EmbeddingOverlap:
    """Work in a second thread beside the reasoner's; a context manager around the latter.

    Reading an image and a question takes all cores, writing hardly more than one: where both need
    the same cores that is the time to begin, and to share them until it is done. Unless the work
    takes longer than the writing: then they are shared from the start.
    """

    def __init__(
        self, begin: Callable[[], Future[Any]], same_cores: bool, longer: bool = False
    ) -> None:
        """Do nothing yet.

        Args:
            begin: Begins.
            same_cores: Whether both need the same cores.
            longer: Whether the work is likely to take longer than the writing.
        """
        self._begin, self._same_cores = begin, same_cores
        self._at_once = longer or not same_cores
        self._work: Future[Any] | None = None
        self._cores = SharedCores()

    def __enter__(self) -> EmbeddingOverlap:
        self._cores.__enter__()
        if self._at_once:
            self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._cores.__exit__()

    def begin(self) -> Future[Any]:
        """Begin, unless that has been done, and return what will be its result."""
        if self._work is None:
            self._work = self._begin()
        return self._work

    def go_on(self) -> None:
        """Called by the reasoner's thread while it writes."""
        work = self.begin()
        if self._same_cores:
            self._cores.share(not work.done())

    def stop(self) -> None:
        """Let work that nobody has begun on be."""
        if self._work is not None:
            self._work.cancel()


class StreamWatcher:
    """Passes the reasoner's text on, and calls ``ready`` where an object in it is complete.

    Attributes:
        first: When the first text came.
    """

    def __init__(
        self,
        on_text: Callable[[str], None] | None,
        beside: EmbeddingOverlap,
        ready: Callable[[str], EarlyMask | None],
    ) -> None:
        """Tell ``on_text``, ``beside`` and ``ready``, which begins a mask if it can."""
        self._on_text, self._beside, self._ready = on_text, beside, ready
        self._text = ''
        self._early: EarlyMask | None = None
        self.first: float | None = None

    def __call__(self, piece: str) -> None:
        """Take the next piece of text."""
        self.first = self.first or time.perf_counter()
        self._beside.go_on()
        self._text += piece
        if self._on_text is not None:
            self._on_text(piece)
        # The whole answer in one piece leaves nothing to be done beside.
        if self._early is None and '}' in piece and not self._text.endswith('</answer>'):
            self._early = self._ready(self._text)

    def decoded(self, prompt: MaskPrompt) -> tuple[list[MaskResult], float] | None:
        """Return the mask if it was begun for just this prompt."""
        if self._early is None or self._early.prompt != prompt:
            return None
        return self._early.result.result()

    def stop(self) -> None:
        """Let a mask that nobody has begun on be."""
        if self._early is not None:
            self._early.result.cancel()
