# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL checkpoints through vLLM's engine, in this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image as PilImage
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from segzero_core.errors import EngineOptionError, ImageError, QueryError
from segzero_core.reasoners.answer_regex import pattern_after
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.image_input import frame_key, model_picture
from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.reasoners.streaming import StreamedReply, opens_thought
from segzero_core.reasoners.thinking import Thinking
from segzero_core.reasoners.transformers import check_image_size
from segzero_core.reasoners.vllm_engine import VllmEngine, ngram_speculation, room_for
from segzero_core.runtime.checkpoint_metadata import (
    FAMILY_OF_MODEL_TYPE,
    checkpoint_task,
    synthetic_only,
)
from segzero_core.runtime.checkpoints import check_checkpoint, explained, find_checkpoint
from segzero_core.types import Image, Size, image_size


class VllmReasoner:
    """A checkpoint in vLLM's asynchronous engine: paged, batched, greedy, streaming.

    Sentences of several threads are decoded together. The image comes before the question, so
    that the second sentence about a frame computes only its own words (prefix caching). Runs in
    bfloat16 with CUDA graphs on a GPU, and in float32 on the CPU with vLLM's CPU build.

    Replies are those of the engine ``transformers`` but for ties within rounding: the repetition
    penalty of the checkpoint's generation_config.json applies to both.

    Attributes:
        task: Content and form of the prompts and answers.
        synthetic_only: Whether the checkpoint knows synthetic scenes only.
        engine: The running engine.
        processor: Chat template, tokenizer and image processor of the checkpoint.
        thinking: How much the model thinks; may be set between two sentences.
        structured_output: Whether decoding is constrained; may be set between two sentences.
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
            device: ``'cuda'``, ``'cpu'``, or '' = the one this vLLM was built for.
            family: Prompt family; '' = the checkpoint's own.
            answer: ``box_points``, ``box`` or ``points``; '' = the checkpoint's own.
            think: Whether the model thinks first; ``None`` = the checkpoint's own choice.
            max_new_tokens: Maximum length of a reply.
            thinking: See ``Thinking.mode``.
            max_think_tokens: See ``Thinking.limit``.
            structured_output: Constrain decoding to the answer format.
            gpu_memory_utilization: Share of the GPU's memory for weights and cache; the segmenter
                needs the rest.
            eager: No CUDA graphs and no compilation: starts sooner, answers later.
            num_draft_tokens: Maximum draft tokens per step, from earlier text of the same request
                (n-gram speculative decoding). Output is unchanged except for rounding ties; 0 =
                one token at a time.

        Raises:
            EngineOptionError: An option has a value that cannot be used.
            UnknownNameError: There is no such family, answer or way of thinking.
            ModelLoadError: The model cannot be loaded.
        """
        here = _check_options(device, max_new_tokens, gpu_memory_utilization, num_draft_tokens)
        self.thinking = Thinking(thinking, max_think_tokens)
        self._max_new_tokens, self.structured_output = max_new_tokens, structured_output
        folder = find_checkpoint(model)
        model_type = check_checkpoint(folder, FAMILY_OF_MODEL_TYPE)
        self.task = checkpoint_task(folder, model_type, family, answer, think)
        self.synthetic_only = synthetic_only(folder)
        with explained(folder):
            self.processor = QwenProcessor.from_pretrained(folder)
        check_image_size(self.task.family, self.processor, folder)
        self._images = self.processor.image_processor
        fixed = self.task.input_size(Size(1, 1)) if self.task.family.image_size else None
        self._room = room_for(folder, self._images, fixed, max_new_tokens)
        self._showing = threading.Lock()
        self._shown: tuple[bytes, PilImage.Image | None] = (b'', None)  # key of the newest frame
        self.engine = VllmEngine(
            folder,
            # 'auto' would make a float32 checkpoint bfloat16 on a CPU too.
            dtype='bfloat16' if here == 'cuda' else 'float32',
            gpu_memory_utilization=gpu_memory_utilization,
            enforce_eager=eager,
            speculative_config=ngram_speculation(num_draft_tokens),
            **self._room.arguments,
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
            QueryError: Prompt, image and sentence are longer than the model's context.
            ImageError: The image alone is.
            ServerError: The engine died, or is closed.
        """
        reply = self._reply(query, on_text, cancel)
        reply.check_cancel()

        def ask(written: str, tokens: int) -> Iterator[Reply]:
            inputs = self.inputs(image, query, written)
            pieces = self.engine.write(inputs, self.sampling(reply, tokens))
            with contextlib.closing(self.engine.iterate(pieces, reply.check_cancel)) as steps:
                yield from steps

        self.thinking.write(reply, ask, self._max_new_tokens)
        return reply.result()

    def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
        """Write several answers in one batch; see ``BatchReasoner.reason_batch``.

        Raises:
            QueryError, ImageError, ServerError: See ``reason``; no answer is returned then.
        """
        replies = [self._reply(query) for query in queries]
        asked = {
            id(reply): (image, query)
            for reply, image, query in zip(replies, images, queries, strict=True)
        }

        def ask(some: list[StreamedReply], tokens: int) -> list[Reply]:
            # Single tokens are of no interest here, so the engine's thread joins them. It begins
            # with the first sentences while the next one's picture is prepared.
            rests = []
            try:
                for reply in some:
                    inputs = self.inputs(*asked[id(reply)], reply.written)
                    sampling = self.sampling(reply, tokens)
                    rests.append(self.engine.submit(self._rest(reply, inputs, sampling)))
                return [rest.result() for rest in rests]
            finally:
                for rest in rests:
                    rest.cancel()

        self.thinking.write_all(replies, ask, self._max_new_tokens)
        return [reply.result() for reply in replies]

    def close(self) -> None:
        """End the engine's process and free its memory; calling it again does nothing."""
        self.engine.close()

    def prompt(self, query: str) -> str:
        """Return the prompt for ``query``, with one image token."""
        return self.processor.apply_chat_template(
            self.task.conversation(query), add_generation_prompt=True
        )

    def _reply(
        self,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> StreamedReply:
        return StreamedReply(on_text, cancel, self.task, opens_thought(self.prompt(query)))

    def inputs(self, image: Image, query: str, written: str) -> dict[str, Any]:
        """Return vLLM's input for the rest of a reply that begins with ``written``."""
        prompt = self.prompt(query)
        size = self.task.input_size(image_size(image))
        self._check_length(prompt + written, size)
        picture = self._picture(image, size)
        return {'prompt': prompt + written, 'multi_modal_data': {'image': picture}}

    def _check_length(self, prompt: str, size: Size) -> None:
        """Make sure that prompt and image leave room for at least one token."""
        patches = self._images.get_number_of_image_patches(size.height, size.width)
        image_tokens = patches // self._images.merge_size**2
        context = self._room.context
        if image_tokens > self._room.image_tokens:
            raise ImageError(
                f'the image takes {image_tokens} tokens at {size.width} x {size.height}; this '
                f'model reads at most {self._room.image_tokens} of its context of {context}: '
                'give a smaller image, or choose a family with a fixed image size'
            )
        tokens = len(self.processor.tokenizer(prompt).input_ids) - 1 + image_tokens
        if tokens >= context:
            raise QueryError(
                f'the sentence takes {tokens} tokens together with prompt and image; the context '
                f'of this model has {context}: shorten the sentence'
            )

    def _picture(self, image: Image, size: Size) -> PilImage.Image:
        """Return ``image`` at ``size``, the same object for the same frame."""
        key = frame_key(image, size)
        # Sentences about one frame that come at the same time wait for the first one's.
        with self._showing:
            known, picture = self._shown
            if picture is None or key != known:
                picture = model_picture(image, size)
                self._shown = key, picture
        return picture

    def sampling(self, reply: StreamedReply, tokens: int) -> SamplingParams:
        """Return how vLLM chooses at most ``tokens`` tokens after the beginning of ``reply``."""
        constraint = None
        if self.structured_output and (pattern := pattern_after(reply, self.task)):
            constraint = StructuredOutputsParams(regex=pattern)
        return SamplingParams(
            temperature=0,
            repetition_penalty=self.engine.repetition_penalty,
            max_tokens=tokens,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=constraint,
        )

    async def _rest(
        self, reply: StreamedReply, inputs: dict[str, Any], sampling: SamplingParams
    ) -> Reply:
        """Return the rest of ``reply``, up to the end of its answer."""
        written = reply.written
        text, tokens, last = written, 0, Reply('')
        async with contextlib.aclosing(self.engine.write(inputs, sampling)) as pieces:
            async for last in pieces:
                text += last.text
                tokens += last.tokens
                if '>' in last.text and reply.end_of(text) >= 0:
                    break
        return Reply(text[len(written) :], last.finish_reason, tokens)


def _check_options(
    device: str, max_new_tokens: int, gpu_memory_utilization: float, num_draft_tokens: int
) -> str:
    """Return the device that the engine runs on.

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
            f'this vLLM runs on {here!r}, not on {device!r}; the environment variable '
            'CUDA_VISIBLE_DEVICES chooses among several GPUs'
        )
    if not 0 < gpu_memory_utilization <= 1:
        raise EngineOptionError(
            f'gpu_memory_utilization must be in 0 to 1, got {gpu_memory_utilization}'
        )
    return here
