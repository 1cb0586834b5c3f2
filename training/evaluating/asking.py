# SPDX-License-Identifier: Apache-2.0
"""Sentences asked together, in smaller parts where that is too many or one of them fails."""

from __future__ import annotations

from collections.abc import Sequence

from segzero_core.errors import SegZeroError, ServerError
from segzero_core.memory import OutOfMemoryError, free_memory, is_out_of_memory
from segzero_core.reasoners import BatchReasoner, Reasoner
from segzero_core.types import Image

_OF_ONE_SENTENCE = ('server_refused', 'server_broken')  # the others are the server's own


def ask(
    reasoner: Reasoner, images: Sequence[Image], queries: Sequence[str]
) -> list[str | ServerError]:
    """Return what the reasoner writes to each sentence, or why a server did not answer that one.

    Args:
        reasoner: Asked all at once if it can be.
        images: One for each sentence.
        queries: The sentences.

    Raises:
        ServerError: The server cannot be reached, takes too long, or refuses every sentence.
        SegZeroError: The memory is too small even for one sentence.
    """
    found = _ask(reasoner, images, queries)
    errors = [text for text in found if isinstance(text, ServerError)]
    if len(errors) == len(found) > 1:
        raise errors[0]
    return found


def _ask(
    reasoner: Reasoner, images: Sequence[Image], queries: Sequence[str]
) -> list[str | ServerError]:
    try:
        if isinstance(reasoner, BatchReasoner) and len(queries) > 1:
            return list(reasoner.reason_batch(images, queries))
        if len(queries) < 2:
            return [reasoner.reason(*pair) for pair in zip(images, queries, strict=True)]
    except ServerError as error:
        if error.kind not in _OF_ONE_SENTENCE:
            raise
        if len(queries) == 1:
            return [error]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(queries) == 1:
            raise _too_small() from error
    free_memory()
    half = len(queries) // 2
    return [
        *_ask(reasoner, images[:half], queries[:half]),
        *_ask(reasoner, images[half:], queries[half:]),
    ]


def _too_small() -> SegZeroError:
    return OutOfMemoryError(
        'the memory of the device is too small for the reasoner and one image: use smaller '
        'weights or images (--reasoner-option quantization=8bit or image_side=448) or a server'
    )
