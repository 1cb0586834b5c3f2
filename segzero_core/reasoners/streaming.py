# SPDX-License-Identifier: Apache-2.0
"""A reply during generation, shared by all engines that stream their text."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from segzero_core.answers.tags import TAGS, thinking_is_over
from segzero_core.errors import CancelledError
from segzero_core.reasoners.base import FinishReason, Reply

if TYPE_CHECKING:
    from segzero_core.task import Task

THINK = '<think>'


def opens_thought(prompt: str) -> bool:
    """Return whether a prompt, rendered by a chat template, ends with a thought that it opens."""
    return prompt.rstrip().endswith(THINK)


def answer_end(
    text: str, opened: bool | None = False, is_answer: Callable[[str], bool] | None = None
) -> int:
    """Return where a reply is complete: just after ``</answer>``, or -1 if it is not yet.

    A ``</answer>`` counts only where the thoughts are known to be over, because thoughts quote the
    format that was asked for.

    Args:
        text: The reply so far, without the part that the chat template wrote.
        opened: Whether the chat template opened a thought; ``None`` = unknown.
        is_answer: Whether the text before a ``</answer>`` is an answer, and not a quotation of
            the format; ``None`` = always.
    """
    for tag in TAGS['/answer'].finditer(text):
        before = text[: tag.start()]
        if thinking_is_over(before, opened) and (is_answer is None or is_answer(before)):
            return tag.end()
    return -1


class StreamedReply:
    """Collects and forwards pieces of text, and detects the end and a cancellation.

    Attributes:
        text: The text so far. It begins with ``<think>`` if the chat template opened a thought,
            and never continues after the ``</answer>`` that completes the reply.
        opened: Whether the chat template opened a thought; ``None`` = unknown.
        task: The task that the reply is about; ``None`` = unknown.
        finish_reason: Why the engine stopped; '' while it writes.
        tokens: Number of tokens written so far.
    """

    def __init__(
        self,
        on_text: Callable[[str], None] | None,
        cancel: threading.Event | None,
        task: Task | None = None,
        opened: bool | None = False,
    ) -> None:
        """Begin a reply.

        Args:
            on_text: Called with every piece.
            cancel: Checked before each piece.
            task: The task. Text between answer tags that is not an answer to the task, or
                is the example of its prompt, does not complete the reply.
            opened: Whether the chat template opens a thought (see ``opens_thought``); ``None``
                if a server applies its own template.
        """
        self._on_text = on_text
        self._cancel = cancel
        self._written = ''
        self._end = -1
        self.task, self.opened = task, opened
        self.finish_reason: FinishReason = ''
        self.tokens = 0

    @property
    def text(self) -> str:
        """The text so far; see the class."""
        return self._prefix + self._written

    @property
    def written(self) -> str:
        """The text so far without the part that the chat template wrote."""
        return self._written

    @property
    def complete(self) -> bool:
        """Whether the answer has ended; later text of the model is not used."""
        return self._end >= 0

    @property
    def _prefix(self) -> str:
        return THINK if self.opened else ''

    def end_of(self, written: str) -> int:
        """Return where ``written`` completes this reply, or -1; see ``answer_end``."""
        is_answer = None if self.task is None else self.task.is_answer
        return answer_end(written, self.opened, is_answer)

    def check_cancel(self) -> None:
        """Raise ``CancelledError`` if ``cancel`` is set."""
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
        if self._end >= 0:
            return True
        before = len(self.text) if self._written else 0
        self._written += piece
        # Only a piece that holds the last letter of the tag can complete it.
        end = self.end_of(self._written) if '>' in piece else -1
        if end >= 0:
            self._written, self._end = self._written[:end], end
        self.finish_reason = finish_reason
        self.tokens += tokens
        fresh = self.text[before:] if self._written else ''
        if fresh and self._on_text is not None:
            self._on_text(fresh)
        return end >= 0

    def result(self) -> Reply:
        """Return the reply, its thoughts between tags."""
        text = self.text
        unknown = self.opened is None and not text.lstrip().lower().startswith(THINK)
        if unknown and thinking_is_over(text, None):
            text = THINK + text  # a ``</think>`` of its own says that the template opened it
        return Reply(text, 'stop' if self.complete else self.finish_reason, self.tokens)
