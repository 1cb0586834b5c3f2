# SPDX-License-Identifier: Apache-2.0
"""vLLM's asynchronous engine behind plain functions: start, stream, stop."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vllm import AsyncEngineArgs, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from segzero_core.errors import ServerError
from segzero_core.reasoners.base import FinishReason, Reply
from segzero_core.reasoners.event_loop import EventLoopThread
from segzero_core.runtime.checkpoint_metadata import read_json
from segzero_core.runtime.checkpoints import explained
from segzero_core.types import Size

_T = TypeVar('_T')

# A sentence has at most 1000 characters of at most 4 tokens each; the rest is the prompt's words.
_QUERY_TOKENS = 4608
_SHORTEST_PROMPT = 256  # tokens that stay free where the image takes all of a small context
_LONGEST_NGRAM, _SHORTEST_NGRAM = 4, 2  # tokens that must agree before a continuation is guessed


class VllmRoom(NamedTuple):
    """The sizes that vLLM sets memory aside for.

    Attributes:
        context: Tokens of prompt, image and reply together.
        image_tokens: Tokens of the largest image.
        image_side: Side in pixels of a square image of that size, or its width.
        image_height: Its height in pixels.
    """

    context: int
    image_tokens: int
    image_side: int
    image_height: int

    @property
    def arguments(self) -> dict[str, Any]:
        """The same for ``AsyncEngineArgs``."""
        image = {'count': 1, 'width': self.image_side, 'height': self.image_height}
        return {
            'limit_mm_per_prompt': {'image': image, 'video': 0},
            'max_model_len': self.context,
        }


def room_for(folder: Path, images: Any, fixed: Size | None, max_new_tokens: int) -> VllmRoom:
    """Return the room that one image, any sentence and its reply need.

    Args:
        folder: The checkpoint, whose config.json limits the context.
        images: Its image processor.
        fixed: Size of every image in pixels; ``None`` = images keep their own size,
            up to the largest that the image processor lets through.
        max_new_tokens: Of a reply.
    """
    side = images.patch_size * images.merge_size  # of an image token, in pixels
    rest = _QUERY_TOKENS + max_new_tokens
    limit = _context_of(folder)
    if fixed is not None:
        width, height = fixed
        tokens = images.get_number_of_image_patches(height, width) // images.merge_size**2
        return VllmRoom(min(tokens + rest, limit), tokens, width, height)
    largest = images.size['longest_edge'] // side**2
    edge = math.isqrt(min(largest, limit - _SHORTEST_PROMPT))
    return VllmRoom(min(edge**2 + rest, limit), edge**2, edge * side, edge * side)


def _context_of(folder: Path) -> int:
    """Return the tokens that a model can read, by its config.json."""
    config = read_json(folder / 'config.json')
    length = {**config, **config.get('text_config', {})}.get('max_position_embeddings')
    return length if isinstance(length, int) and length > 0 else 1 << 17


def ngram_speculation(num_draft_tokens: int) -> dict[str, Any] | None:
    """Return vLLM's ``speculative_config`` for its own n-gram drafts; 0 = none."""
    if not num_draft_tokens:
        return None
    return {
        'method': 'ngram',
        'num_speculative_tokens': num_draft_tokens,
        'prompt_lookup_max': _LONGEST_NGRAM,
        'prompt_lookup_min': _SHORTEST_NGRAM,
    }


class VllmEngine:
    """A running engine. Any number of threads may ask at the same time.

    Attributes:
        llm: vLLM's own object.
        repetition_penalty: Of the checkpoint's generation_config.json; 1 = none.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        """Start the engine's process.

        Args:
            folder: The checkpoint.
            **settings: Further arguments of ``AsyncEngineArgs``.

        Raises:
            ModelLoadError: The engine cannot load the checkpoint.
        """
        self._loop = EventLoopThread('segzero-vllm')
        self._numbers = itertools.count()
        arguments = AsyncEngineArgs(
            model=str(folder), enable_prefix_caching=True, disable_log_stats=True, **settings
        )
        try:
            with explained(folder):
                self.llm: Any = self._loop.submit(_start(arguments)).result()
                own = self.llm.model_config.try_get_generation_config()
                self.repetition_penalty = float(own.get('repetition_penalty') or 1.0)
        except BaseException:
            self._loop.close()
            raise

    def close(self) -> None:
        """End the engine's process and free its memory; calling it again does nothing."""
        if not self._loop.closed:
            self._loop.submit(_stop(self.llm)).result()
            self._loop.close()
            self.llm = None

    @property
    def unfinished(self) -> int:
        """Number of requests that the engine still works on."""
        return int(self.llm.output_processor.get_num_unfinished_requests())

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run ``coroutine`` in the engine's thread.

        Raises:
            ServerError: The engine is closed.
        """
        try:
            return self._loop.submit(coroutine)
        except RuntimeError as error:
            coroutine.close()
            raise _failed('it has been closed') from error

    def iterate(
        self, pieces: AsyncGenerator[Reply, None], check: Callable[[], None]
    ) -> Generator[Reply, None, None]:
        """Yield ``pieces`` in the caller's thread; see ``EventLoopThread.iterate``.

        Raises:
            ServerError: The engine is closed, or died.
        """
        if self._loop.closed:
            raise _failed('it has been closed')
        yield from self._loop.iterate(pieces, check)

    async def write(
        self, inputs: dict[str, Any], sampling: SamplingParams
    ) -> AsyncGenerator[Reply, None]:
        """Yield the pieces of a reply; runs in the engine's thread.

        Cancelling or closing it takes the request out of the engine.

        Raises:
            ServerError: The engine died.
        """
        name = f'segzero-{next(self._numbers)}'
        try:
            async with contextlib.aclosing(self.llm.generate(inputs, sampling, name)) as outputs:
                async for output in outputs:
                    written = output.outputs[0]
                    yield Reply(written.text, _reason(written), len(written.token_ids))
        except Exception as error:
            raise _failed(f'{type(error).__name__}: {error}') from error


def _reason(written: Any) -> FinishReason:
    if written.finish_reason == 'length':
        return 'length'
    return 'stop' if written.finish_reason == 'stop' else ''


def _failed(why: str) -> ServerError:
    return ServerError(
        'server_broken',
        f'the vLLM engine failed: {why}. See its log; load the reasoner again (the node: cleanup, '
        'then configure).',
    )


async def _start(arguments: AsyncEngineArgs) -> AsyncLLM:
    return AsyncLLM.from_engine_args(arguments)


async def _stop(engine: AsyncLLM) -> None:
    engine.shutdown()
