# SPDX-License-Identifier: Apache-2.0
"""Sentences asked together, in smaller parts where that is too many or one of them fails."""

from __future__ import annotations

from collections.abc import Sequence

from segzero_core.errors import AnswerError, OutOfMemoryError, SegZeroError, ServerError
from segzero_core.reasoners import BatchReasoner, Reasoner, Reply
from segzero_core.runtime.memory import free_memory, is_out_of_memory
from segzero_core.types import Image

_OF_ONE_SENTENCE = ('server_refused', 'server_broken')  # the others are the server's own


class BatchSplitter:
    """Asks one reasoner; remembers how many sentences fit into its memory at a time."""

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner
        # As many as there are, until that was too many.
        self._most = None if isinstance(reasoner, BatchReasoner) else 1

    def ask(
        self, images: Sequence[Image], queries: Sequence[str]
    ) -> list[Reply | AnswerError | ServerError]:
        """Return what is written to each sentence, or why that one was not answered.

        Args:
            images: One for each sentence.
            queries: The sentences; asked all at once if the reasoner can be and they fit.

        Raises:
            ServerError: The server cannot be reached, takes too long, or refuses every sentence.
            SegZeroError: The memory is too small even for one sentence.
        """
        size = self._most or max(len(queries), 1)
        found: list[Reply | AnswerError | ServerError] = []
        for start in range(0, len(queries), size):
            found += self._part(images[start : start + size], queries[start : start + size])
        errors = [text for text in found if isinstance(text, ServerError)]
        if len(errors) == len(found) > 1:
            raise errors[0]
        return found

    def _part(
        self, images: Sequence[Image], queries: Sequence[str]
    ) -> list[Reply | AnswerError | ServerError]:
        count = len(queries)
        try:
            if isinstance(self._reasoner, BatchReasoner) and count > 1:
                return list(self._reasoner.reason_batch(images, queries))
            return [self._reasoner.reason(images[0], queries[0])]
        except ServerError as error:
            if error.kind not in _OF_ONE_SENTENCE:
                raise
            if count == 1:
                return [error]
        except AnswerError as error:  # ``rules`` refuses sentences with words it does not know
            if count > 1:
                raise
            return [error]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if count == 1:
                raise _too_small() from error
            self._most = count // 2
        free_memory()
        half = count // 2
        return [
            *self._part(images[:half], queries[:half]),
            *self._part(images[half:], queries[half:]),
        ]


def _too_small() -> SegZeroError:
    return OutOfMemoryError(
        'the memory of the device is too small for the reasoner and one image: use smaller '
        'weights or images (--reasoner-option quantization=8bit or image_side=448) or a server'
    )
