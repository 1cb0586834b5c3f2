# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL checkpoints through vLLM's engine in this process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from PIL import Image as PilImage
from vllm import AsyncEngineArgs, SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from segzero_core.errors import EngineOptionError, ModelLoadError, ServerError
from segzero_core.reasoners.answer_regex import pattern_after
from segzero_core.reasoners.base import FinishReason, Reply
from segzero_core.reasoners.image_input import frame_key, model_picture
from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.reasoners.streaming import StreamedReply, answer_end
from segzero_core.reasoners.thinking import Thinking
from segzero_core.reasoners.transformers import check_image_size
from segzero_core.reasoners.vllm_drafts import speculation
from segzero_core.runtime.checkpoint_metadata import (
    FAMILY_OF_MODEL_TYPE,
    checkpoint_task,
    synthetic_only,
)
from segzero_core.runtime.checkpoints import check_checkpoint, explained, find_checkpoint
from segzero_core.types import Image, Size, image_size

_T = TypeVar('_T')
_POLL_S = 0.01  # how late a cancellation is noticed at most
_PIXELS_PER_TOKEN = 28  # the side of an image token; Qwen3-VL's has 32
_LONGEST_SENTENCE = 2048  # tokens: prompt and sentence without the image


class VllmReasoner:
    """A checkpoint in vLLM's asynchronous engine: paged, batched, greedy, streaming.

    Sentences of several threads are decoded together. The image comes before the question, so the
    second sentence about a frame begins where its own words do (prefix caching). In bfloat16 with
    CUDA graphs on a GPU; in float32 on the CPU, with vLLM's CPU build.

    Attributes:
        task: What the checkpoint is asked and how it answers.
    """

    needs_warm_up = True

    def __init__(
        self,
        model: str = 'Ricky06662/Seg-Zero-7B',
        device: str = '',
        family: str = '',
        answer: str = '',
        think: bool | None = None,
        max_new_tokens: int = 1024,
        thinking: str = 'free',
        max_think_tokens: int = 0,
        structured_output: bool = False,
        gpu_memory_utilization: float = 0.8,
        eager: bool = False,
        num_draft_tokens: int = 0,
    ) -> None:
        """Load a checkpoint and start the engine's process.

        Args:
            model: A folder, or a hub id.
            device: ``'cuda'``, ``'cpu'``, or '' = what this vLLM was built for.
            family: Prompt family; '' = the checkpoint's own.
            answer: ``box_points``, ``box`` or ``points``; '' = the checkpoint's own.
            think: Whether the model thinks first; ``None`` = the checkpoint's own choice.
            max_new_tokens: Longest reply.
            thinking: See ``Thinking.mode``.
            max_think_tokens: See ``Thinking.limit``.
            structured_output: Let the model write nothing but the contract's format.
            gpu_memory_utilization: Share of the GPU's memory for weights and cache; the segmenter
                needs the rest.
            eager: No CUDA graphs and no compilation: starts sooner, answers later.
            num_draft_tokens: Most tokens guessed from earlier replies and then checked at once,
                which changes no reply; 0 = one token at a time.

        Raises:
            EngineOptionError: An option has a value that cannot be used.
            UnknownNameError: There is no such family or way of thinking.
            ModelLoadError: The model cannot be loaded.
        """
        here = _check_options(device, max_new_tokens, gpu_memory_utilization, num_draft_tokens)
        self._thinking = Thinking(thinking, max_think_tokens)
        self._max_new_tokens, self._structured_output = max_new_tokens, structured_output
        folder = find_checkpoint(model)
        model_type = check_checkpoint(folder, FAMILY_OF_MODEL_TYPE)
        self.task = checkpoint_task(folder, model_type, family, answer, think)
        self.synthetic_only = synthetic_only(folder)
        with explained(folder):
            self._processor = QwenProcessor.from_pretrained(folder)
        check_image_size(self.task.family, self._processor, folder)
        self._showing = threading.Lock()
        self._shown: tuple[bytes, PilImage.Image | None] = (b'', None)  # key of the newest frame
        self._numbers = itertools.count()
        self._engine: Any = None
        self._start(
            folder,
            # 'auto' would make a float32 checkpoint bfloat16 on a CPU too.
            dtype='bfloat16' if here == 'cuda' else 'float32',
            gpu_memory_utilization=gpu_memory_utilization,
            enforce_eager=eager,
            speculative_config=speculation(num_draft_tokens),
            **_room(self.task.input_size(Size(1, 1)), max_new_tokens),
        )

    def reason(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reply:
        """Write the answer to ``query`` about ``image``; see ``Reasoner.reason``.

        ``cancel`` ends the request in the engine within a token.

        Raises:
            CancelledError: ``cancel`` was set.
            ServerError: The engine died.
        """
        reply = StreamedReply(on_text, cancel)
        reply.check_cancel()

        def ask(written: str, tokens: int) -> Iterator[Reply]:
            inputs = self._inputs(image, query, written)
            return self._pieces(inputs, self._sampling(written, tokens), reply)

        self._thinking.write(reply, ask, self._max_new_tokens)
        return reply.result()

    def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
        """Write several answers side by side; see ``BatchReasoner.reason_batch``.

        Raises:
            ServerError: The engine died.
        """
        replies = [StreamedReply(None, None) for _ in queries]
        asked = {
            id(reply): (image, query)
            for reply, image, query in zip(replies, images, queries, strict=True)
        }

        def ask(some: list[StreamedReply], tokens: int) -> list[Reply]:
            # Nobody waits for single tokens: the engine's thread puts whole texts together. It
            # begins with the first ones while the next one's picture is prepared.
            texts = []
            try:
                for reply in some:
                    inputs = self._inputs(*asked[id(reply)], reply.text)
                    sampling = self._sampling(reply.text, tokens)
                    texts.append(self._begin(self._rest(reply.text, inputs, sampling)))
                return [text.result() for text in texts]
            finally:
                for text in texts:
                    text.cancel()

        self._thinking.write_all(replies, ask, self._max_new_tokens)
        return [reply.result() for reply in replies]

    def close(self) -> None:
        """End the engine's process and free its memory."""
        self._begin(_stop(self._engine)).result()
        self._engine = None
        self._stop_loop()

    def _start(self, folder: Path, **settings: Any) -> None:
        """Start the engine of the checkpoint in ``folder``, and the thread that talks to it."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        arguments = AsyncEngineArgs(
            model=str(folder),
            enable_prefix_caching=True,
            generation_config='vllm',
            disable_log_stats=True,
            **settings,
        )
        try:
            with explained(folder):
                self._engine = self._begin(_engine_of(arguments)).result()
        except ModelLoadError:
            self._stop_loop()
            raise

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _inputs(self, image: Image, query: str, written: str) -> dict[str, Any]:
        """Return what vLLM is to go on with after ``written``, the beginning of a reply."""
        prompt = self._processor.apply_chat_template(
            self.task.conversation(query), add_generation_prompt=True
        )
        return {'prompt': prompt + written, 'multi_modal_data': {'image': self._picture(image)}}

    def _picture(self, image: Image) -> PilImage.Image:
        size = self.task.input_size(image_size(image))
        key = frame_key(image, size)
        # Sentences about one frame that come at the same time wait for the first one's.
        with self._showing:
            known, picture = self._shown
            if picture is None or key != known:
                picture = model_picture(image, size)
                self._shown = key, picture
        return picture

    def _begin(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Let the engine's thread run it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _sampling(self, written: str, tokens: int) -> SamplingParams:
        guide = None
        if self._structured_output:
            guide = StructuredOutputsParams(regex=pattern_after(written))
        return SamplingParams(
            temperature=0,
            max_tokens=tokens,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=guide,
        )

    def _pieces(
        self, inputs: dict[str, Any], sampling: SamplingParams, reply: StreamedReply
    ) -> Iterator[Reply]:
        """Yield what the engine writes; closing the iterator ends the request."""
        received: queue.SimpleQueue[Reply | ServerError | None] = queue.SimpleQueue()
        task = self._begin(self._hand_over(inputs, sampling, received))
        try:
            while True:
                reply.check_cancel()
                with contextlib.suppress(queue.Empty):
                    item = received.get(timeout=_POLL_S)
                    if item is None:
                        return
                    if isinstance(item, ServerError):
                        raise item
                    yield item
        finally:
            task.cancel()

    async def _hand_over(
        self,
        inputs: dict[str, Any],
        sampling: SamplingParams,
        received: queue.SimpleQueue[Reply | ServerError | None],
    ) -> None:
        """Put each piece, and then the error or ``None``, where another thread waits for it."""
        try:
            async for piece in self._write(inputs, sampling):
                received.put(piece)
            received.put(None)
        except ServerError as error:
            received.put(error)

    async def _rest(self, written: str, inputs: dict[str, Any], sampling: SamplingParams) -> Reply:
        """Return what follows on ``written``, up to the end of the answer."""
        text, reason, tokens = written, '', 0
        async with contextlib.aclosing(self._write(inputs, sampling)) as pieces:
            async for piece in pieces:
                text += piece.text
                reason, tokens = piece.finish_reason, tokens + piece.tokens
                if answer_end(text) >= 0:
                    break
        return Reply(text[len(written) :], cast('FinishReason', reason), tokens)

    async def _write(
        self, inputs: dict[str, Any], sampling: SamplingParams
    ) -> AsyncGenerator[Reply, None]:
        """Yield what the engine writes, in its thread.

        Being cancelled or closed takes the request out of the engine.

        Raises:
            ServerError: The engine died.
        """
        name = f'segzero-{next(self._numbers)}'
        try:
            async with contextlib.aclosing(
                self._engine.generate(inputs, sampling, name)
            ) as outputs:
                async for output in outputs:
                    written = output.outputs[0]
                    reason = written.finish_reason or ''
                    yield Reply(
                        written.text,
                        'length' if reason == 'length' else 'stop' if reason == 'stop' else '',
                        len(written.token_ids),
                    )
        except Exception as error:
            raise ServerError(
                'server_broken',
                f'the vLLM engine failed: {type(error).__name__}: {error}. See its log; '
                'load the reasoner anew (the node: cleanup, then configure).',
            ) from error


def _check_options(
    device: str, max_new_tokens: int, gpu_memory_utilization: float, num_draft_tokens: int
) -> str:
    """Return where the engine runs.

    Raises:
        EngineOptionError: An option has a value that cannot be used.
    """
    if max_new_tokens < 1:
        raise EngineOptionError(f'max_new_tokens must be at least 1, got {max_new_tokens}')
    if num_draft_tokens < 0:
        raise EngineOptionError(f'num_draft_tokens must be at least 0, got {num_draft_tokens}')
    here = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device not in ('', here):
        raise EngineOptionError(
            f'this vLLM runs on {here!r}, not on {device!r}; which of several GPUs it takes '
            'is said by the environment variable CUDA_VISIBLE_DEVICES'
        )
    if not 0 < gpu_memory_utilization <= 1:
        raise EngineOptionError(
            f'gpu_memory_utilization must be in 0 to 1, got {gpu_memory_utilization}'
        )
    return here


def _room(size: Size, max_new_tokens: int) -> dict[str, Any]:
    """Return the settings that set memory aside for one image of ``size`` and its reply."""
    image_tokens = size.width * size.height // _PIXELS_PER_TOKEN**2
    return {
        # One image of the size that really comes: otherwise memory for the largest possible one
        # is set aside.
        'limit_mm_per_prompt': {
            'image': {'count': 1, 'width': size.width, 'height': size.height},
            'video': 0,
        },
        'max_model_len': image_tokens + _LONGEST_SENTENCE + max_new_tokens,
    }


async def _engine_of(settings: AsyncEngineArgs) -> AsyncLLM:
    return AsyncLLM.from_engine_args(settings)


async def _stop(engine: AsyncLLM) -> None:
    engine.shutdown()
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
