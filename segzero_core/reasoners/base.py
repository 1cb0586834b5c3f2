# SPDX-License-Identifier: Apache-2.0
"""What a reasoner is: something that looks at an image and writes the answer text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from segzero_core.prompts import PromptFamily
from segzero_core.types import Image


class Reasoner(Protocol):
    """Turns an image and a sentence into ``<think>..</think><answer>..</answer>`` text.

    Attributes:
        family: Prompt, image size and coordinate space its answers are written in.

    An engine or checkpoint that knows this project's synthetic scenes only says so with an
    attribute ``synthetic_only = True``; results then carry a warning of that kind.
    """

    family: PromptFamily

    def reason(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> str:
        """Write the answer to ``query`` about ``image``.

        Called from one thread at a time.

        Args:
            image: (H, W, 3) uint8 RGB, at its original size; the engine resizes it as its
                family says.
            query: The sentence, already checked by ``prompts.check_query``.
            on_text: Called with each new piece of text as it is written.
            cancel: Looked at between steps; once set, the engine stops.

        Returns:
            The whole text, tags included. Coordinates are in ``family``'s space.

        Raises:
            CancelledError: ``cancel`` was set.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. The reasoner cannot be used afterwards."""
        ...


@runtime_checkable
class BatchReasoner(Reasoner, Protocol):
    """A reasoner that answers several sentences in less time than one after the other."""

    def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[str]:
        """Write the answer to each query about the image beside it.

        Args:
            images: (H, W, 3) uint8 RGB each, at their original sizes.
            queries: As many sentences, already checked by ``prompts.check_query``.

        Returns:
            What ``reason`` would have written for each.
        """
        ...
