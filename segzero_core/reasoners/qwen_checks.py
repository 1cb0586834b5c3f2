# SPDX-License-Identifier: Apache-2.0
"""Everything of a Qwen-VL checkpoint that the first sentence needs, checked when it is loaded.

A fine-tuned folder often lacks a piece that nothing but a sentence uses: its chat template, a
special token, the settings of the image processor. Each is an error that names file and remedy,
from every engine and program that loads the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from segzero_core.errors import ModelLoadError, first_line
from segzero_core.runtime.checkpoint_metadata import read_json

_BASE = 'the model it was trained from'
_SENTENCE = 'the red mug'


def check_files(folder: Path) -> None:
    """Check that the files are there which tokenizer and image processor are made of.

    Raises:
        ModelLoadError: One is missing, or generation_config.json cannot be read.
    """
    # Without a vocabulary, transformers makes an empty tokenizer and says nothing.
    if not any((folder / name).is_file() for name in ('tokenizer.json', 'vocab.json')):
        raise ModelLoadError(
            f"{folder} has no tokenizer.json: copy the tokenizer's files there from {_BASE}"
        )
    if not (folder / 'tokenizer.json').is_file() and not (folder / 'merges.txt').is_file():
        raise ModelLoadError(
            f'{folder} has vocab.json but no merges.txt: copy it there from {_BASE}'
        )
    if not (folder / 'preprocessor_config.json').is_file():
        raise ModelLoadError(
            f'{folder} has no preprocessor_config.json, the settings of the image processor: copy '
            f'it there from {_BASE}'
        )
    # transformers continues without a file that it cannot read: without end tokens and penalty.
    if (folder / 'generation_config.json').is_file():
        read_json(folder / 'generation_config.json')


def check_processor(folder: Path, processor: Any) -> None:
    """Check that ``processor`` can prepare a sentence about an image for the model in ``folder``.

    Args:
        folder: A checkpoint folder; without config.json, nothing is compared with the model.
        processor: A ``QwenProcessor``.

    Raises:
        ModelLoadError: It cannot. The message names the file and the remedy.
    """
    prompt = _check_template(folder, processor)
    config = read_json(folder / 'config.json') if (folder / 'config.json').is_file() else {}
    _check_tokens(folder, processor, config)
    _check_patches(folder, processor, config)
    side = 4 * processor.image_processor.patch_size * processor.image_processor.merge_size
    picture = PilImage.fromarray(np.zeros((side, side, 3), np.uint8))
    try:
        processor.encode_still(prompt, picture)
    except Exception as error:
        raise ModelLoadError(
            f'the image processor of {folder} cannot prepare an image ({type(error).__name__}: '
            f'{first_line(error)}): copy preprocessor_config.json there from {_BASE}'
        ) from error


def _check_template(folder: Path, processor: Any) -> str:
    """Return the prompt of a sentence about an image."""
    if not processor.chat_template:
        raise ModelLoadError(
            f'{folder} has no chat template, without which the model cannot be asked: copy '
            f'chat_template.jinja (or chat_template.json) there from {_BASE}'
        )
    content = [{'type': 'image'}, {'type': 'text', 'text': _SENTENCE}]
    try:
        prompt: str = processor.apply_chat_template(
            [{'role': 'user', 'content': content}], add_generation_prompt=True
        )
    except Exception as error:
        raise ModelLoadError(
            f'the chat template of {folder} cannot be used ({type(error).__name__}: '
            f'{first_line(error)}): copy chat_template.jinja there from {_BASE}'
        ) from error
    if prompt.count(processor.image_token) != 1 or prompt.count(_SENTENCE) != 1:
        raise ModelLoadError(
            f'the chat template of {folder} is not one of a vision-language model: of an image '
            f'and a sentence it makes {first_line(prompt)!r:.80}. Copy chat_template.jinja '
            f'there from {_BASE}'
        )
    return prompt


def _check_tokens(folder: Path, processor: Any, config: dict[str, Any]) -> None:
    tokenizer = processor.tokenizer
    vocabulary = tokenizer.get_vocab()
    for name, token in (
        ('vision_start', '<|vision_start|>'),
        ('image', processor.image_token),
        ('vision_end', '<|vision_end|>'),
    ):
        if token not in vocabulary or tokenizer(token).input_ids != [vocabulary[token]]:
            raise ModelLoadError(
                f'the tokenizer of {folder} does not have the token {token}: copy tokenizer.json '
                f'and tokenizer_config.json there from {_BASE}'
            )
        wanted = config.get(f'{name}_token_id')
        if wanted is not None and wanted != vocabulary[token]:
            raise ModelLoadError(
                f'{folder}: config.json says {name}_token_id {wanted}, but in tokenizer.json '
                f'{token} is {vocabulary[token]}: one of the two files is of another model'
            )
    size = (config.get('text_config') or config).get('vocab_size')
    if isinstance(size, int) and max(vocabulary.values()) >= size:
        raise ModelLoadError(
            f'the tokenizer of {folder} has tokens up to {max(vocabulary.values())}, but the '
            f'model only {size} (vocab_size in config.json): one of the two files is of '
            'another model'
        )


def _check_patches(folder: Path, processor: Any, config: dict[str, Any]) -> None:
    vision = config.get('vision_config') or {}
    images = processor.image_processor
    for ours, theirs in (
        ('patch_size', 'patch_size'),
        ('merge_size', 'spatial_merge_size'),
        ('temporal_patch_size', 'temporal_patch_size'),
    ):
        found, wanted = getattr(images, ours, None), vision.get(theirs)
        if wanted is not None and found != wanted:
            raise ModelLoadError(
                f'{folder}: preprocessor_config.json says {ours} {found}, but config.json '
                f'{theirs} {wanted}: copy preprocessor_config.json there from {_BASE}'
            )
