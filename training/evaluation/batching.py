# SPDX-License-Identifier: Apache-2.0
"""Batches of sentences for one reasoner, split when a batch is too large or a sentence fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from segzero_core.errors import AnswerError, OutOfMemoryError, SegZeroError, ServerError
from segzero_core.reasoners import BatchReasoner, Reasoner, Reply
from segzero_core.runtime.memory import free_memory, is_out_of_memory
from segzero_core.types import Image

_OF_ONE_SENTENCE = ('server_refused', 'server_broken')  # other kinds concern the whole server
_Result: TypeAlias = Reply | AnswerError | ServerError


class BatchSplitter:
    """Asks a reasoner in batches and remembers how many sentences fit into its memory."""

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner
        # None: no limit is known yet.
        self._max_batch = None if isinstance(reasoner, BatchReasoner) else 1

    def ask(self, images: Sequence[Image], queries: Sequence[str]) -> list[_Result]:
        """Return the reply to each sentence, or the error of that sentence alone.

        Args:
            images: (H, W, 3) uint8 RGB, one for each sentence.
            queries: The sentences. They are asked together if the reasoner takes batches.

        Raises:
            ServerError: The server cannot be reached, times out, or refuses every sentence.
            SegZeroError: The memory is too small even for one sentence.
        """
        size = self._max_batch or max(len(queries), 1)
        found: list[_Result] = []
        for start in range(0, len(queries), size):
            found += self._ask_part(images[start : start + size], queries[start : start + size])
        errors = [result for result in found if isinstance(result, ServerError)]
        if len(errors) == len(found) > 1:
            raise errors[0]
        return found

    def _ask_part(self, images: Sequence[Image], queries: Sequence[str]) -> list[_Result]:
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
        except AnswerError as error:
            if count == 1:
                return [error]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if count == 1:
                raise _too_small() from error
            self._max_batch = count // 2
        free_memory()
        half = count // 2
        return [
            *self._ask_part(images[:half], queries[:half]),
            *self._ask_part(images[half:], queries[half:]),
        ]


def _too_small() -> SegZeroError:
    return OutOfMemoryError(
        'the memory of the device is too small for the reasoner and one image: use smaller '
        'weights or images (--reasoner-option quantization=8bit or image_side=448) or a server'
    )
