# SPDX-License-Identifier: Apache-2.0
"""Segmenter work that runs in a second thread while the reasoner writes."""

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
    """A mask whose decoding started before the reply ended.

    Attributes:
        prompt: The segmenter prompt of the mask.
        result: The mask and the seconds it took.
    """

    prompt: MaskPrompt
    result: Future[tuple[list[MaskResult], float]]


class EmbeddingOverlap:
    """Decides when the embedding starts; a context manager around the reasoner's work.

    Prefill (reading image and question) uses all CPU cores, and decoding uses little more than
    one. If both models run on the same cores, the embedding starts with the first decoded token
    and shares the cores until the embedding is complete. If the embedding is likely to take longer
    than decoding, the cores are shared from the start.
    """

    def __init__(
        self, begin: Callable[[], Future[Any]], same_cores: bool, longer: bool = False
    ) -> None:
        """Start nothing yet.

        Args:
            begin: Starts the embedding in the second thread.
            same_cores: Whether reasoner and segmenter need the same cores.
            longer: Whether the embedding is likely to take longer than the writing.
        """
        self._begin, self._same_cores = begin, same_cores
        self._at_once = longer or not same_cores
        self._work: Future[Any] | None = None
        self._cores = SharedCores()

    def __enter__(self) -> EmbeddingOverlap:
        self._cores.__enter__()
        if self._at_once:
            self.on_decode_step()
        return self

    def __exit__(self, *_: object) -> None:
        self._cores.__exit__()

    def begin(self) -> Future[Any]:
        """Start the embedding unless it has started, and return its future."""
        if self._work is None:
            self._work = self._begin()
        return self._work

    def on_decode_step(self) -> None:
        """Start or continue to share the cores; called by the reasoner's thread."""
        work = self.begin()
        if self._same_cores:
            self._cores.share(not work.done())

    def stop(self) -> None:
        """Cancel the embedding if it has not started."""
        if self._work is not None:
            self._work.cancel()


class StreamWatcher:
    """Passes the reasoner's text on, and starts the mask as soon as an object is complete.

    Attributes:
        first: Time of the first text (``time.perf_counter``); ``None`` before.
    """

    def __init__(
        self,
        on_text: Callable[[str], None] | None,
        overlap: EmbeddingOverlap,
        ready: Callable[[str], EarlyMask | None],
    ) -> None:
        """Watch a reply.

        Args:
            on_text: Called with every piece of text.
            overlap: Notified of every piece of text.
            ready: Called with the text so far whenever a JSON object closes. Starts decoding the
                mask if the text contains the complete answer.
        """
        self._on_text, self._overlap, self._ready = on_text, overlap, ready
        self._text = ''
        self._early: EarlyMask | None = None
        self.first: float | None = None

    def __call__(self, piece: str) -> None:
        """Take the next piece of text."""
        self.first = self.first or time.perf_counter()
        self._overlap.on_decode_step()
        self._text += piece
        if self._on_text is not None:
            self._on_text(piece)
        # If the reply arrives as one piece, there is no time left for an early mask.
        if self._early is None and '}' in piece and not self._text.endswith('</answer>'):
            self._early = self._ready(self._text)

    def decoded(self, prompt: MaskPrompt) -> tuple[list[MaskResult], float] | None:
        """Return the mask and its seconds if it was started for exactly this prompt."""
        if self._early is None or self._early.prompt != prompt:
            return None
        return self._early.result.result()

    def stop(self) -> None:
        """Cancel the mask if it has not started."""
        if self._early is not None:
            self._early.result.cancel()
