# SPDX-License-Identifier: Apache-2.0
"""A reply while it is being written, the same for every engine that writes piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Callable

from segzero_core.errors import CancelledError
from segzero_core.reasoners.base import FinishReason, Reply


def answer_end(text: str) -> int:
    """Return where the reply is complete: just after ``</answer>``, or -1 if it is not yet.

    A ``</answer>`` inside ``<think>`` is only talked about.
    """
    thinking = text.find('</think>') if '<think>' in text else 0
    closed = -1 if thinking < 0 else text.find('</answer>', thinking)
    return closed if closed < 0 else closed + len('</answer>')


class StreamedReply:
    """Gathers pieces of text, passes them on, and notices the end and a cancellation.

    Attributes:
        text: Everything so far; never goes beyond ``</answer>``.
        finish_reason: Why the engine stopped; '' while it writes.
        tokens: Number of tokens written so far.
    """

    def __init__(
        self, on_text: Callable[[str], None] | None, cancel: threading.Event | None
    ) -> None:
        """Pass every piece on to ``on_text``; look at ``cancel`` before each."""
        self._on_text = on_text
        self._cancel = cancel
        self.text = ''
        self.finish_reason: FinishReason = ''
        self.tokens = 0

    @property
    def complete(self) -> bool:
        """Whether the answer has ended: whatever the model still writes is of no use."""
        return answer_end(self.text) >= 0

    def check_cancel(self) -> None:
        """Raise ``CancelledError`` if that was asked for."""
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError('cancelled while the reasoner was writing')

    def add(self, piece: str, finish_reason: FinishReason = '', tokens: int = 0) -> bool:
        """Take the next piece of whole characters; return whether the reply is complete.

        Args:
            piece: May be empty.
            finish_reason: Why the engine stopped after it; '' = it goes on.
            tokens: Number of tokens that the model wrote for it.

        Raises:
            CancelledError: ``cancel`` was set.
        """
        self.check_cancel()
        self.finish_reason = finish_reason
        self.tokens += tokens
        text = self.text + piece
        end = answer_end(text)
        text = text if end < 0 else text[:end]
        fresh, self.text = text[len(self.text) :], text
        if fresh and self._on_text is not None:
            self._on_text(fresh)
        return end >= 0

    def result(self) -> Reply:
        """Return what was written."""
        return Reply(self.text, 'stop' if self.complete else self.finish_reason, self.tokens)
