# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL checkpoints in this process, loaded by transformers."""

from __future__ import annotations

import copy
import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PilImage
from torch.nn import functional

from segzero_core.errors import EngineOptionError, ModelLoadError
from segzero_core.prompts import PromptFamily
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.decode import DecodeEngine, EncodedPrompt
from segzero_core.reasoners.image_input import frame_key, model_picture
from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.reasoners.streaming import StreamedReply, opens_thought
from segzero_core.reasoners.thinking import Thinking
from segzero_core.registry import look_up
from segzero_core.runtime.checkpoint_metadata import (
    FAMILY_OF_MODEL_TYPE,
    checkpoint_task,
    synthetic_only,
)
from segzero_core.runtime.checkpoints import (
    check_checkpoint,
    choose_device,
    explained,
    find_checkpoint,
    load_weights,
    stored_dtype,
    transformers,
)
from segzero_core.types import Image, Size, image_size


class TransformersReasoner:
    """A Qwen-VL checkpoint that generates greedily, until ``</answer>``.

    On CUDA in bfloat16, with FlashAttention 2 where it is installed and PyTorch's own fused
    attention (SDPA) where not; on the CPU in float32, with 16-bit weights if the checkpoint has
    such. A second sentence about the same image computes its own words only; see ``DecodeEngine``.

    Attributes:
        task: Content and form of the prompts and answers.
        device: Device of the model.
        processor: Tokenizer and image processor.
        model: The transformers model. On a CPU its language model is left without weights.
        generation: Its ``GenerationConfig`` without sampling.
        engine: The ``DecodeEngine``; ``None`` once closed.
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
        image_side: int = 0,
        quantization: str = '',
        torch_compile: bool = False,
        num_draft_tokens: int = 8,
    ) -> None:
        """Load a checkpoint.

        Args:
            model: A folder, or a hub id.
            device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ...; '' = CUDA if there is a GPU.
            family: Prompt family; '' = what the checkpoint's ``segzero.json`` says, else the one
                of its model type.
            answer: ``box_points``, ``box`` or ``points``; '' = what ``segzero.json`` says.
            think: Whether the model thinks first; ``None`` = what ``segzero.json`` says.
            max_new_tokens: Maximum number of tokens of a reply; the paper's models need about 150.
            thinking: See ``Thinking.mode``.
            max_think_tokens: See ``Thinking.limit``.
            image_side: Side in pixels of the square the model sees; 0 = the family's. Fewer
                pixels are fewer tokens: 448 pixels are 256 tokens, 840 are 900.
            quantization: ``8bit`` or ``4bit`` weights, for small GPUs, with the bitsandbytes
                package; '' = the checkpoint's own.
            torch_compile: Compile the decoding step of single sentences, at the first one; on CUDA
                as a CUDA graph. If compiling fails, the model runs uncompiled.
            num_draft_tokens: Maximum draft tokens per step (speculative decoding with n-grams).
                Output is unchanged except for rounding ties; 0 = one token per step.

        Raises:
            EngineOptionError: An option has a value that cannot be used.
            UnknownNameError: There is no such family, way of thinking or quantization.
            ModelLoadError: The model cannot be loaded, or the device is absent.
        """
        _check_at_least(1, max_new_tokens=max_new_tokens)
        _check_at_least(0, num_draft_tokens=num_draft_tokens, image_side=image_side)
        self._thinking = Thinking(thinking, max_think_tokens)
        weights = _quantized(quantization)
        self.device = choose_device(device)
        folder = find_checkpoint(model)
        model_type = check_checkpoint(folder, FAMILY_OF_MODEL_TYPE)
        self.task = checkpoint_task(folder, model_type, family, answer, think)
        self.synthetic_only = synthetic_only(folder)
        if image_side:
            side = dataclasses.replace(self.task.family, image_size=image_side)
            self.task = self.task.with_family(side)
        with explained(folder):
            self.processor = QwenProcessor.from_pretrained(folder)
        check_image_size(self.task.family, self.processor, folder)
        self.model: Any = _load_model(folder, self.device, weights)
        self.generation = _greedy(self.model.generation_config, max_new_tokens)
        if self.generation.eos_token_id is None:
            self.generation.eos_token_id = self.processor.tokenizer.eos_token_id
        with explained(folder):
            self.engine: Any = DecodeEngine(
                self.model,
                self.processor.tokenizer,
                self.generation,
                'inductor' if torch_compile else '',
                num_draft_tokens,
            )
            self._rehearse()

    def reason(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reply:
        """Write the answer to ``query`` about ``image``; see ``Reasoner.reason``.

        ``cancel`` is checked after every token.
        """
        asked = self.prompt(query)
        reply = self._reply(asked, on_text, cancel)
        reply.check_cancel()
        prompt = self._prompter(image, self._frame(image), asked, reply)

        def ask(written: str, tokens: int) -> Iterator[Reply]:
            return self.engine.generate(prompt(written), tokens)

        self._thinking.write(reply, ask, self.generation.max_new_tokens)
        return reply.result()

    def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
        """Write several answers in one batch; see ``BatchReasoner.reason_batch``."""
        # Several sentences may be about one image: its key is made only once.
        frames = {key: self._frame(image) for key, image in {id(i): i for i in images}.items()}
        asked = [self.prompt(query) for query in queries]
        replies = [self._reply(prompt) for prompt in asked]
        prompts = {
            id(reply): self._prompter(image, frames[id(image)], prompt, reply)
            for reply, image, prompt in zip(replies, images, asked, strict=True)
        }

        def ask(some: list[StreamedReply], tokens: int) -> list[Reply]:
            begun = [prompts[id(reply)](reply.written) for reply in some]
            return self.engine.generate_batch(begun, tokens)

        self._thinking.write_all(replies, ask, self.generation.max_new_tokens)
        return [reply.result() for reply in replies]

    def close(self) -> None:
        """Free the model's memory."""
        self.model = self.engine = None
        gc.collect()
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def prompt(self, query: str) -> str:
        """Return the prompt for ``query``, with one image token."""
        return self.processor.apply_chat_template(
            self.task.conversation(query), add_generation_prompt=True
        )

    def encode(self, image: Image, prompt: str) -> Any:
        """Return image and prompt as the model's inputs, on the CPU.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompt: With one image token.
        """
        picture = model_picture(image, self.task.input_size(image_size(image)))
        return self.processor.encode_still(prompt, picture)

    def _rehearse(self) -> None:
        """Generate one token about a small image.

        Whatever of the checkpoint does not fit together is found now, not at the first sentence.
        """
        images = self.processor.image_processor
        side = 4 * images.patch_size * images.merge_size
        picture = PilImage.new('RGB', (side, side))
        text = self.prompt('the red mug')
        prompt = EncodedPrompt(
            b'rehearsal',
            text,
            '',
            lambda: self.processor.encode_still(text, picture).to(self.device),
        )
        for _ in self.engine.generate(prompt, 1):
            pass
        self.engine.cache.clear()

    def _reply(
        self,
        prompt: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> StreamedReply:
        return StreamedReply(on_text, cancel, self.task, opens_thought(prompt))

    def _frame(self, image: Image) -> bytes:
        return frame_key(image, self.task.input_size(image_size(image)))

    def _prompter(
        self, image: Image, frame: bytes, asked: str, reply: StreamedReply
    ) -> Callable[[str], EncodedPrompt]:
        """Return a function from the beginning of a reply to the prompt that continues it."""

        def prompt(written: str) -> EncodedPrompt:
            def encode() -> Any:
                return self.encode(image, asked + written).to(self.device)

            return EncodedPrompt(frame, asked + written, written, encode, reply.end_of)

        return prompt


def _check_at_least(least: int, **options: int) -> None:
    for name, value in options.items():
        if value < least:
            raise EngineOptionError(f'{name} must be at least {least}, got {value}')


def _load_model(folder: Path, device: torch.device, options: dict[str, Any]) -> Any:
    """Return the model; ``options`` are further arguments of ``from_pretrained``."""
    model = load_weights(
        transformers.AutoModelForImageTextToText,
        folder,
        device,
        dtype=torch.bfloat16 if device.type == 'cuda' else stored_dtype(folder),
        attn_implementation=best_attention(device),
        **options,
    )
    if device.type == 'cpu':  # the language model follows layer by layer, see TextModel
        model.model.visual.float()
    _embed_patches_by_product(model.model.visual.patch_embed)
    return model


def _embed_patches_by_product(embedding: Any) -> None:
    """Embed the patches (n, 3 * side * side) of still images by one matrix product.

    The checkpoint has a convolution over two equal frames whose stride is its kernel's size, which
    takes five times as long on a CPU. Sums differ by rounding.
    """
    weight, bias = embedding.proj.weight.data, embedding.proj.bias
    matrix = weight.sum(dim=2, dtype=torch.float32).to(weight.dtype).flatten(1)  # of both frames
    embedding.forward = lambda patches: functional.linear(patches.to(weight.dtype), matrix, bias)


def best_attention(device: torch.device) -> str:
    """Return the fastest attention implementation of transformers on ``device``."""
    if (
        device.type == 'cuda'
        and transformers.utils.is_flash_attn_2_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere, the oldest it runs on
    ):
        return 'flash_attention_2'
    return 'sdpa'


def _quantized(kind: str) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` for 4 or 8-bit weights."""
    if not kind:
        return {}
    bits = look_up('quantization', kind, ('4bit', '8bit'))
    settings = transformers.BitsAndBytesConfig(
        **{f'load_in_{bits}': True}, bnb_4bit_compute_dtype=torch.bfloat16
    )
    return {'quantization_config': settings}


def _greedy(published: Any, max_new_tokens: int) -> Any:
    """Return the checkpoint's own generation settings without sampling."""
    settings = copy.deepcopy(published)
    settings.do_sample = False
    settings.temperature = settings.top_p = settings.top_k = None  # else transformers warns
    settings.max_new_tokens = max_new_tokens
    settings.max_length = None
    return settings


def check_image_size(family: PromptFamily, processor: Any, folder: Path) -> None:
    """Make sure the checkpoint's image processor keeps the size that answers are measured in.

    Raises:
        ModelLoadError: It would shrink, enlarge or round it.
    """
    if family.space != 'pixels' or family.image_size is None:
        return
    size = family.input_size(Size(1, 1))
    images = processor.image_processor
    patches = images.get_number_of_image_patches(size.height, size.width)
    if patches * images.patch_size**2 != size.width * size.height:
        raise ModelLoadError(
            f'family {family.name!r} shows images at {size.width} x {size.height} and reads '
            f'answers in those pixels, but the image processor of {folder} would resize them. '
            'Choose another family, or correct "size" in preprocessor_config.json'
        )
