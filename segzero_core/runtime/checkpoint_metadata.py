# SPDX-License-Identifier: Apache-2.0
"""Reads the JSON files of a checkpoint folder, without a model library."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from segzero_core.errors import ModelLoadError, UnknownNameError, first_line
from segzero_core.prompts import FAMILIES, PromptFamily, get_family
from segzero_core.runtime.text_files import read_text
from segzero_core.task import Task

# The family of a checkpoint that does not say it itself. Qwen2-VL and Qwen3-VL name positions in
# thousandths of the image, Qwen2.5-VL in pixels.
FAMILY_OF_MODEL_TYPE = {
    'qwen2_vl': 'thousandths',
    'qwen2_5_vl': 'seg_zero',
    'qwen3_vl': 'thousandths',
}


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``.

    Raises:
        ModelLoadError: The file is missing or holds no JSON object.
    """
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError) as error:
        line = first_line(error).rstrip('.')
        raise ModelLoadError(
            f'cannot read {file} ({line}): is {file.parent} a whole checkpoint '
            'folder, as save_pretrained writes it? Copy or download it again'
        ) from error
    if not isinstance(content, dict):
        raise ModelLoadError(f'{file} holds no JSON object: copy or download it again')
    return content


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
    family = _with_image_limits(get_family(asked or own), folder)
    return family if side is None else dataclasses.replace(family, image_size=side)


def _with_image_limits(family: PromptFamily, folder: Path) -> PromptFamily:
    """Return ``family`` with ``patch`` and ``min_side`` of the checkpoint's image processor.

    A checkpoint that does not say leaves them as they are; loading it reports what is missing.
    """
    file = folder / 'preprocessor_config.json'
    says = read_json(file) if file.is_file() else {}
    patch, merge = says.get('patch_size'), says.get('merge_size')
    if not (isinstance(patch, int) and isinstance(merge, int) and patch > 0 and merge > 0):
        return family
    size = says.get('size')
    pixels = says.get('min_pixels', size.get('shortest_edge') if isinstance(size, dict) else None)
    side = math.ceil(math.sqrt(pixels)) if isinstance(pixels, (int, float)) and pixels > 0 else 0
    side = max(side, patch * merge)
    return dataclasses.replace(family, patch=patch * merge, min_side=side)


def checkpoint_task(
    folder: Path, model_type: str, family: str = '', answer: str = '', think: bool | None = None
) -> Task:
    """Return what the checkpoint in ``folder`` is asked and answers.

    ``segzero.json`` there may set ``answer`` and ``think`` (those of ``Task``), in addition to the
    keys that ``choose_family`` reads. The defaults are those of ``Task``.

    Args:
        folder: A checkpoint folder.
        model_type: From its config.json.
        family: The prompt family the user wants; '' = the checkpoint's own.
        answer: The answer the user wants; '' = the checkpoint's own.
        think: Whether the user wants thoughts; ``None`` = the checkpoint's own choice.

    Raises:
        UnknownNameError: There is no such family or answer.
        EngineOptionError: ``family`` cannot be asked for this answer.
        ModelLoadError: ``segzero.json`` says something a task cannot have.
    """
    chosen = choose_family(folder, model_type, family)
    file = folder / 'segzero.json'
    says = read_json(file) if file.is_file() else {}
    own_answer, own_think = says.get('answer', Task().answer), says.get('think', True)
    try:
        if not isinstance(own_think, bool):
            raise UnknownNameError(f'think must be true or false, got {own_think!r}')
        own = Task(own_answer, own_think, chosen)
    except UnknownNameError as error:
        raise ModelLoadError(f'{file}: {error}') from error
    return own.reworked(answer, think)


def synthetic_only(folder: Path) -> bool:
    """Return whether a checkpoint knows synthetic scenes only, by ``segzero.json``.

    Args:
        folder: A checkpoint folder. Its ``segzero.json`` may hold ``"synthetic_only": true``, as
            those of the embedded tiny models do.

    Raises:
        ModelLoadError: ``synthetic_only`` there is neither true nor false.
    """
    file = folder / 'segzero.json'
    value = read_json(file).get('synthetic_only', False) if file.is_file() else False
    if not isinstance(value, bool):
        raise ModelLoadError(f'{file}: synthetic_only must be true or false, got {value!r}')
    return value
