# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL checkpoints on this machine, through transformers."""

from __future__ import annotations

import copy
import dataclasses
import gc
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage

from segzero_core.checkpoints import (
    check_checkpoint,
    choose_device,
    explained,
    find_checkpoint,
    load_weights,
    read_json,
    transformers,
)
from segzero_core.errors import (
    CancelledError,
    EngineOptionError,
    ModelLoadError,
    UnknownNameError,
)
from segzero_core.prompts import FAMILIES, PromptFamily, get_family
from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.task import Task
from segzero_core.types import Image, Size, image_size

# The family of a checkpoint that does not say it itself. Qwen2-VL and Qwen3-VL name positions in
# thousandths of the image, Qwen2.5-VL in pixels.
FAMILY_OF_MODEL_TYPE = {
    'qwen2_vl': 'thousandths',
    'qwen2_5_vl': 'seg_zero',
    'qwen3_vl': 'thousandths',
}


class TransformersReasoner:
    """A Qwen-VL checkpoint that writes greedily, one token at a time, until ``</answer>``.

    In bfloat16 on CUDA, with FlashAttention 2 where it is installed and PyTorch's own fused
    attention (SDPA) where not; in float32 on the CPU.

    Attributes:
        family: Prompt, image size and coordinate space of the checkpoint.
        task: What the checkpoint was trained to answer.
        device: Where the model is.
    """

    def __init__(
        self,
        model: str = 'Ricky06662/Seg-Zero-7B',
        device: str = '',
        family: str = '',
        max_new_tokens: int = 1024,
    ) -> None:
        """Load a checkpoint.

        Args:
            model: A folder, or a hub id.
            device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ...; '' = CUDA when there is one.
            family: Prompt family; '' = what the checkpoint's ``segzero.json`` says, else the one
                of its model type.
            max_new_tokens: Longest reply; the paper's models write about 150 tokens.

        Raises:
            EngineOptionError: An option has a value that cannot be used.
            UnknownNameError: There is no such family.
            ModelLoadError: The model cannot be loaded, or the device is absent.
        """
        if max_new_tokens < 1:
            raise EngineOptionError(f'max_new_tokens must be at least 1, got {max_new_tokens}')
        self.device = choose_device(device)
        folder = find_checkpoint(model)
        model_type = check_checkpoint(folder, FAMILY_OF_MODEL_TYPE)
        self.task = checkpoint_task(folder)
        self.family = self.task.family(choose_family(folder, model_type, family))
        with explained(folder):
            self._processor = QwenProcessor.from_pretrained(folder, padding_side='left')
        check_image_size(self.family, self._processor, folder)
        self._model: Any = load_weights(
            transformers.AutoModelForImageTextToText,
            folder,
            self.device,
            dtype=torch.bfloat16 if self.device.type == 'cuda' else torch.float32,
            attn_implementation=_best_attention(self.device),
        )
        self._generation = _greedy(self._model.generation_config, max_new_tokens)

    def reason(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> str:
        """Write the answer to ``query`` about ``image``; see ``Reasoner.reason``.

        ``cancel`` is looked at after every token.
        """
        inputs = self._encode([image], [query]).to(self.device)
        reply = _Reply(self._processor.tokenizer, inputs['input_ids'].shape[1], on_text, cancel)
        reply.check_cancel()
        self._generate(inputs, [reply])
        return reply.finish()

    def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[str]:
        """Write several answers side by side; see ``BatchReasoner.reason_batch``."""
        inputs = self._encode(images, queries).to(self.device)
        start = inputs['input_ids'].shape[1]
        replies = [_Reply(self._processor.tokenizer, start) for _ in queries]
        self._generate(inputs, replies)
        return [reply.finish() for reply in replies]

    def close(self) -> None:
        """Free the model's memory."""
        self._model = None
        gc.collect()
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _generate(self, inputs: Any, replies: list[_Reply]) -> None:
        """Let the model write until every reply is complete."""
        with torch.inference_mode():
            self._model.generate(
                **inputs,
                generation_config=self._generation,
                stopping_criteria=transformers.StoppingCriteriaList([_Follower(replies)]),
            )

    def _encode(self, images: Sequence[Image], queries: Sequence[str]) -> Any:
        """Return prompts and images as the model's input, on the CPU, padded on the left."""
        prompts = [
            self._processor.apply_chat_template(
                self.family.conversation(query), add_generation_prompt=True
            )
            for query in queries
        ]
        pictures = [self._picture(image) for image in images]
        return self._processor(text=prompts, images=pictures, padding=True, return_tensors='pt')

    def _picture(self, image: Image) -> PilImage.Image:
        """Return the image at the size the model sees it."""
        size = self.family.input_size(image_size(image))
        picture = PilImage.fromarray(np.ascontiguousarray(image))
        if picture.size != size:
            # Stretched with Pillow's bilinear filter, as in the released inference code.
            picture = picture.resize(size, PilImage.Resampling.BILINEAR)
        return picture


def choose_family(folder: Path, model_type: str, asked: str = '') -> PromptFamily:
    """Return the prompt family of the checkpoint in ``folder``.

    A checkpoint can say in ``segzero.json`` what it was trained with: ``family``, and
    ``image_size`` where that differs from the family's own (a side in pixels).

    Args:
        folder: A checkpoint folder.
        model_type: From its config.json.
        asked: The family the user wants; '' = the checkpoint's own.

    Raises:
        UnknownNameError: There is no family called ``asked``.
        ModelLoadError: ``segzero.json`` names no family, or no usable size.
    """
    file = folder / 'segzero.json'
    says = read_json(file) if file.is_file() else {}
    own = says.get('family', FAMILY_OF_MODEL_TYPE[model_type])
    side = says.get('image_size')
    if own not in FAMILIES or not (side is None or (isinstance(side, int) and side > 0)):
        raise ModelLoadError(
            f'{file} says {says}: family must be one of {", ".join(FAMILIES)} and image_size, '
            'if given, a side in pixels'
        )
    family = get_family(asked or own)
    return family if side is None else dataclasses.replace(family, image_size=side)


def checkpoint_task(folder: Path) -> Task:
    """Return what the checkpoint in ``folder`` was trained to answer, by its ``segzero.json``.

    ``answer`` and ``think`` there are those of ``Task``; without them it is the whole of it.

    Raises:
        ModelLoadError: They are none a task can have.
    """
    file = folder / 'segzero.json'
    says = read_json(file) if file.is_file() else {}
    answer, think = says.get('answer', Task().answer), says.get('think', True)
    try:
        if not isinstance(think, bool):
            raise UnknownNameError(f'think must be true or false, got {think!r}')
        return Task(answer, think)
    except UnknownNameError as error:
        raise ModelLoadError(f'{file}: {error}') from error


def answer_end(text: str) -> int:
    """Return where the reply is complete: just after ``</answer>``, or -1 if it is not yet.

    A ``</answer>`` inside ``<think>`` is only talked about.
    """
    thinking = text.find('</think>') if '<think>' in text else 0
    closed = -1 if thinking < 0 else text.find('</answer>', thinking)
    return closed if closed < 0 else closed + len('</answer>')


class _Follower(transformers.StoppingCriteria):
    """Follows the replies of a batch as they are written, and stops each where it is complete."""

    def __init__(self, replies: Sequence[_Reply]) -> None:
        self._replies = replies

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Take in the newest token of (rows, n) ``input_ids``; return (rows,) which to stop."""
        done = [reply.take(ids) for reply, ids in zip(self._replies, input_ids, strict=True)]
        return torch.tensor(done, device=input_ids.device)


class _Reply:
    """One reply as it is written: decodes, streams, stops and cancels."""

    def __init__(
        self,
        tokenizer: Any,
        prompt_tokens: int,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._decoded = prompt_tokens  # tokens whose text is in self._text, or before the reply
        self._on_text = on_text
        self._cancel = cancel
        self._text = ''
        self._pending = ''

    def take(self, ids: torch.Tensor) -> bool:
        """Take in the newest of (n,) prompt and reply tokens; return whether that was the end."""
        self.check_cancel()
        if answer_end(self._text) >= 0:
            return True
        self._pending = self._tokenizer.decode(
            ids[self._decoded :],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        # A replacement character at the end is mostly the first half of a character: wait.
        if self._pending and not self._pending.endswith('\ufffd'):
            self._decoded = len(ids)
            self._add()
        return answer_end(self._text) >= 0

    def check_cancel(self) -> None:
        """Raise ``CancelledError`` if that was asked for."""
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError('cancelled while the reasoner was writing')

    def finish(self) -> str:
        """Return the whole reply, with what was still waiting."""
        self._add()
        return self._text

    def _add(self) -> None:
        text = self._text + self._pending
        end = answer_end(text)
        text = text if end < 0 else text[:end]
        piece, self._text, self._pending = text[len(self._text) :], text, ''
        if piece and self._on_text is not None:
            self._on_text(piece)


def _best_attention(device: torch.device) -> str:
    if (
        device.type == 'cuda'
        and transformers.utils.is_flash_attn_2_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere, the oldest it runs on
    ):
        return 'flash_attention_2'
    return 'sdpa'


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
