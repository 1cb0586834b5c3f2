# SPDX-License-Identifier: Apache-2.0
"""The model in training: loaded whole, adapters added, what is frozen frozen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segzero_core.errors import ModelLoadError
from segzero_core.prompts import PromptFamily
from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.reasoners.transformers import check_image_size
from segzero_core.runtime.checkpoint_metadata import FAMILY_OF_MODEL_TYPE, choose_family
from segzero_core.runtime.checkpoints import (
    check_checkpoint,
    explained,
    find_checkpoint,
    transformers,
)
from segzero_core.runtime.text_files import without_marks
from training.config import TrainConfig

# Every linear layer of the language model; the vision tower's are called otherwise.
LORA_TARGETS = r'.*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)'


class Trainee(NamedTuple):
    """A model about to be trained, and what belongs to it.

    Attributes:
        model: The transformers model, on the CPU.
        processor: Its tokenizer and image processor.
        family: How it is asked, already reduced to the task.
        adapters: ``peft.LoraConfig``, or ``None`` for full fine-tuning.
    """

    model: Any
    processor: Any
    family: PromptFamily
    adapters: Any


def load_trainee(config: TrainConfig) -> Trainee:
    """Load what ``config`` starts from.

    Raises:
        ModelLoadError: The checkpoint cannot be used, or peft is needed and absent.
        UnknownNameError: There is no such prompt family.
    """
    folder = find_checkpoint(config.model)
    model_type = check_checkpoint(folder, FAMILY_OF_MODEL_TYPE)
    family = choose_family(folder, model_type, config.family)
    if config.image_size:
        family = dataclasses.replace(family, image_size=config.image_size)
    with explained(folder):
        processor = QwenProcessor.from_pretrained(folder, padding_side='left')
    check_image_size(family, processor, folder)
    # Adapters train beside frozen bfloat16 weights; a full fine-tune needs float32 ones, because
    # a step of 1e-6 is lost in bfloat16.
    dtype = torch.bfloat16 if config.lora_rank and use_bf16(config) else torch.float32
    model = load_model(folder, dtype)
    if config.freeze_vision:
        model.model.visual.requires_grad_(False)
    return Trainee(model, processor, config.task.with_family(family).prompt, _adapters(config))


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """Return the complete model in ``folder``, trainable.

    Raises:
        ModelLoadError: Something does not fit or is missing.
    """
    with explained(folder), without_marks(folder) as plain:
        model, report = transformers.AutoModelForImageTextToText.from_pretrained(
            plain, local_files_only=True, output_loading_info=True, dtype=dtype
        )
    absent = sorted(report['missing_keys'])
    if absent:
        raise ModelLoadError(
            f'the weights in {folder} lack {len(absent)} tensors, {absent[0]!r} for one: copy or '
            'download the checkpoint again'
        )
    return model


def use_bf16(config: TrainConfig) -> bool:
    """Whether to compute in bfloat16."""
    if config.precision == 'auto':
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return config.precision == 'bf16'


def describe_family(config: TrainConfig, family: PromptFamily) -> dict[str, Any]:
    """Return what ``segzero.json`` says, so that the reasoner asks as training did."""
    return {
        'family': family.name,
        'image_size': family.image_size,
        'answer': config.answer,
        'think': config.think,
    }


def save_model(model: Any, processor: Any, notes: dict[str, Any], folder: Path) -> None:
    """Write an ordinary checkpoint folder; adapters are merged into the weights."""
    if hasattr(model, 'merge_and_unload'):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    save_beside(processor, notes, folder)


def save_beside(processor: Any, notes: dict[str, Any], folder: Path) -> None:
    """Write what belongs beside the weights: tokenizer, image processor, ``segzero.json``."""
    processor.save_pretrained(folder)
    text = json.dumps(notes, indent=2) + '\n'
    (folder / 'segzero.json').write_text(text, encoding='utf-8')


def _adapters(config: TrainConfig) -> Any:
    if not config.lora_rank:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ModelLoadError('LoRA needs peft: pip install -r requirements/train.txt') from error
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=LORA_TARGETS,
        task_type='CAUSAL_LM',
    )
