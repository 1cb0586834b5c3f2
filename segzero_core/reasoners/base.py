# SPDX-License-Identifier: Apache-2.0
"""The role of a reasoner: it looks at an image and writes the answer text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from segzero_core.types import Image

if TYPE_CHECKING:
    from segzero_core.task import Task

FinishReason = Literal['stop', 'length', '']


class Reply(NamedTuple):
    """The text of a reasoner, and why it ended.

    Attributes:
        text: The whole reply, tags included. Thoughts stand between ``<think>`` and ``</think>``,
            also where the chat template opened them or a server sent them separately.
        finish_reason: ``'stop'``: the answer is complete, or the model ended it. ``'length'``:
            the limit of tokens was reached. ``''``: unknown.
        tokens: Number of tokens written; 0 where the engine does not count them.
    """

    text: str
    finish_reason: FinishReason = ''
    tokens: int = 0


class Reasoner(Protocol):
    """Turns an image and a sentence into ``<think>..</think><answer>..</answer>`` text.

    Attributes:
        task: Prompt family, coordinate space, image size, box or points, thinking or not.

    An engine or checkpoint that knows this project's synthetic scenes only says so with an
    attribute ``synthetic_only = True``; results then carry a warning of that kind.
    """

    task: Task

    def reason(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reply:
        """Write the answer to ``query`` about ``image``.

        Called from one thread at a time.

        Args:
            image: (H, W, 3) uint8 RGB, at its original size; the engine resizes it to
                ``task.input_size``.
            query: The sentence, already checked by ``prompts.check_query``.
            on_text: Called with each new piece of text as it is written.
            cancel: Checked between steps; once set, the engine stops.

        Returns:
            The reply; its coordinates are in the space ``task.answer_size``.

        Raises:
            CancelledError: ``cancel`` was set.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. The reasoner cannot be used afterwards."""
        ...


@runtime_checkable
class BatchReasoner(Reasoner, Protocol):
    """A reasoner that answers several sentences faster than one after the other."""

    def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
        """Write the answer to each query about the image with the same index.

        Args:
            images: (H, W, 3) uint8 RGB each, at their original sizes.
            queries: As many sentences, already checked by ``prompts.check_query``.

        Returns:
            For each sentence the reply that ``reason`` would have returned.
        """
        ...
