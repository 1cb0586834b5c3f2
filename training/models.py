# SPDX-License-Identifier: Apache-2.0
"""The model of a training: loading, adapters, frozen parts, saving."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segzero_core.errors import ConfigError, ModelLoadError
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
from segzero_core.task import Task
from training.config import TrainConfig

# All linear layers of the language model; those of the vision tower have other names.
LORA_TARGETS = r'.*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)'


class Trainee(NamedTuple):
    """A model to be trained, and what belongs to it.

    Attributes:
        model: The transformers model, on the CPU.
        processor: Its tokenizer and image processor.
        task: Task of the model: prompt, image size, coordinate space and form of the answer.
        adapters: ``peft.LoraConfig``, or ``None`` for full fine-tuning.
    """

    model: Any
    processor: Any
    task: Task
    adapters: Any


def load_trainee(config: TrainConfig) -> Trainee:
    """Load the checkpoint that ``config`` starts from.

    Raises:
        ModelLoadError: The checkpoint cannot be used, or peft is needed and not installed.
        UnknownNameError: There is no such prompt family.
        ConfigError: The prompt family cannot be trained with.
    """
    folder = find_checkpoint(config.model)
    model_type = check_checkpoint(folder, FAMILY_OF_MODEL_TYPE)
    family = choose_family(folder, model_type, config.family)
    if not family.tagged:
        raise ConfigError(
            f'the prompt family {family.name!r} asks for no <answer> tags, which rewards and '
            'imitation need: choose another one, such as family=seg_zero'
        )
    if config.image_size:
        family = dataclasses.replace(family, image_size=config.image_size)
    with explained(folder):
        processor = QwenProcessor.from_pretrained(folder, padding_side='left')
    check_image_size(family, processor, folder)
    # Adapters train on top of frozen bfloat16 weights. Full fine-tuning needs float32 weights,
    # because an update of 1e-6 is lost in bfloat16.
    dtype = torch.bfloat16 if config.lora_rank and use_bf16(config) else torch.float32
    model = load_model(folder, dtype)
    if config.freeze_vision:
        model.model.visual.requires_grad_(False)
    return Trainee(model, processor, config.task.with_family(family), _adapters(config))


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """Return the trainable model in ``folder``.

    Raises:
        ModelLoadError: A tensor is missing or has the wrong shape.
    """
    with explained(folder), without_marks(folder) as plain:
        model, report = transformers.AutoModelForImageTextToText.from_pretrained(
            plain, local_files_only=True, output_loading_info=True, dtype=dtype
        )
    absent = sorted(report['missing_keys'])
    if absent:
        raise ModelLoadError(
            f'the weights in {folder} lack {len(absent)} tensors, for example {absent[0]!r}: '
            'copy or download the checkpoint again'
        )
    return model


def use_bf16(config: TrainConfig) -> bool:
    """Return whether to compute in bfloat16."""
    if config.precision == 'auto':
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return config.precision == 'bf16'


def checkpoint_notes(task: Task) -> dict[str, Any]:
    """Return the content of ``segzero.json``: the reasoner will use the prompt of training."""
    return {
        'family': task.family.name,
        'image_size': task.family.image_size,
        'answer': task.answer,
        'think': task.think,
    }


def save_model(model: Any, processor: Any, notes: dict[str, Any], folder: Path) -> None:
    """Write an ordinary checkpoint folder, with adapters merged into the weights."""
    if hasattr(model, 'merge_and_unload'):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    save_processor(processor, notes, folder)


def save_processor(processor: Any, notes: dict[str, Any], folder: Path) -> None:
    """Write tokenizer, image processor and ``segzero.json`` to a checkpoint folder."""
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
