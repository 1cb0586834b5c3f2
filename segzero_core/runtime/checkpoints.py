# SPDX-License-Identifier: Apache-2.0
"""Finds, checks and loads Hugging Face checkpoints; every failure is one clear error.

A hub id is downloaded to the local cache first, so that from there on everything is a folder:
safetensors weights, JSON settings, no pickles and no code from the hub.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, StrictDataclassError  # type: ignore[attr-defined]
from safetensors import SafetensorError, safe_open

from segzero_core.errors import EngineOptionError, ModelLoadError, first_line
from segzero_core.runtime.checkpoint_kinds import describe_file, describe_folder, lfs_pointers
from segzero_core.runtime.checkpoint_metadata import read_json
from segzero_core.runtime.text_files import without_marks
from segzero_core.runtime.utf8_path import utf8_path

# Pickled weights (.bin, .pt) and Python files are never even downloaded: both can run code.
_WANTED_FILES = ('*.safetensors', '*.json', '*.jinja', 'merges.txt')

# Checkpoints that come with the package: a reasoner and a segmenter for synthetic scenes.
EMBEDDED = ('tiny', 'tiny_base', 'tiny_sam2')
_MODELS = Path(__file__).parents[1] / 'models'

# Raised by transformers, safetensors and torch for a checkpoint they cannot use. torch's
# out-of-memory error is a RuntimeError.
_LOAD_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)


def _import_transformers() -> Any:
    """Import transformers, after hiding a torchvision that is installed but cannot be imported.

    transformers only checks that torchvision is installed, and fails when it imports it. A
    torchvision built for another torch is common where wheels come from different places (CPU
    builds, Jetson). segzero does not need it.
    """
    if importlib.util.find_spec('torchvision') is not None:
        try:
            importlib.import_module('torchvision')
        except (ImportError, RuntimeError, OSError, AttributeError):
            sys.modules['torchvision'] = None  # type: ignore[assignment]
    return importlib.import_module('transformers')


transformers = _import_transformers()


def choose_device(device: str) -> torch.device:
    """Return the device called ``device``; for ``''``, CUDA when there is one, else the CPU.

    Raises:
        EngineOptionError: There is no device of that name in torch.
        ModelLoadError: A CUDA device is asked for that this machine does not have.
    """
    if not device:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise EngineOptionError(
            f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:1'"
        ) from error
    if chosen.type == 'cuda' and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(
            f'device {device!r} is not here: torch {torch.__version__} sees '
            f'{torch.cuda.device_count()} CUDA devices. Check nvidia-smi and that torch is a CUDA '
            "build, or use device 'cpu'"
        )
    return chosen


def find_checkpoint(model: str) -> Path:
    """Return the folder of ``model``.

    Args:
        model: A local folder, the name of an embedded model (``EMBEDDED``), or a hub id, whose
            files are downloaded unless they are in the local cache.

    Raises:
        ModelLoadError: There is no such folder, the hub has no such model, or it cannot be reached
            and the files are not in the cache.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return utf8_path(folder)
    if model in EMBEDDED:
        return _MODELS / model
    if folder.exists():
        raise ModelLoadError(describe_file(folder))
    if model.startswith(('.', '/', '~')) or model.count('/') != 1:
        raise ModelLoadError(
            f'no such model folder: {model!r}. Give an existing folder or a hub id such as '
            "'Ricky06662/Seg-Zero-7B'"
        )
    try:
        name, _, revision = model.partition('@')
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=list(_WANTED_FILES))
        )
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise ModelLoadError(
            f'model {model!r} is no folder here and cannot be downloaded from the hub '
            f'({first_line(error)}). Check the spelling and the network; without a network, copy '
            'the model to this machine and give its folder'
        ) from error


def check_checkpoint(folder: Path, model_types: Collection[str]) -> str:
    """Return the model type of the checkpoint in ``folder`` after checking its files.

    Only the headers of the weights are read, so that this is quick for a model of any size.

    Args:
        folder: As ``find_checkpoint`` returns it.
        model_types: The values of ``model_type`` in config.json that can be used.

    Raises:
        ModelLoadError: The folder is no checkpoint (the message says what it is instead), its
            model type is not one of ``model_types``, or weights are missing, pickled, truncated or
            corrupt.
    """
    if not (folder / 'config.json').is_file() and (says := describe_folder(folder)):
        raise ModelLoadError(says)
    model_type = str(read_json(folder / 'config.json').get('model_type') or '')
    if not model_type:
        raise ModelLoadError(
            f'{folder}/config.json names no model_type: copy config.json there from the model '
            'it was trained from'
        )
    if model_type not in model_types:
        raise ModelLoadError(
            f'{folder} holds a model of type {model_type!r}, which this engine cannot use: it '
            f'takes {", ".join(sorted(model_types))}'
        )
    shards = _weight_files(folder)
    for shard in shards:
        try:
            with safe_open(shard, framework='pt'):
                pass
        except (SafetensorError, OSError) as error:
            if says := lfs_pointers(folder):
                raise ModelLoadError(f'{folder} {says}') from error
            raise ModelLoadError(
                f'cannot read the weights in {shard} ({first_line(error)}): copy or download '
                'that file again'
            ) from error
    return model_type


def _weight_files(folder: Path) -> list[Path]:
    index = folder / 'model.safetensors.index.json'
    if index.is_file():
        names = set(read_json(index).get('weight_map', {}).values())
        return [folder / name for name in sorted(names)]
    if (folder / 'model.safetensors').is_file():
        return [folder / 'model.safetensors']
    raise ModelLoadError(
        describe_folder(folder)
        or f'{folder} has no safetensors weights (model.safetensors): use a checkpoint as '
        'save_pretrained writes it'
    )


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype of the weights in ``folder`` if all have the same 16-bit one, else float32.

    Args:
        folder: A folder that ``check_checkpoint`` has passed.
    """
    kinds = set()
    for shard in _weight_files(folder):
        with safe_open(shard, framework='pt') as weights:
            kinds |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    kind = kinds.pop() if len(kinds) == 1 else ''
    return {'BF16': torch.bfloat16, 'F16': torch.float16}.get(kind, torch.float32)


def load_weights(model_class: Any, folder: Path, device: torch.device, **options: Any) -> Any:
    """Return the model in ``folder``, complete, on ``device`` and ready for inference.

    Args:
        model_class: A transformers class with ``from_pretrained``.
        folder: A folder that ``check_checkpoint`` has passed.
        device: Where the model goes.
        **options: Passed on, for instance ``dtype`` or ``quantization_config``.

    Raises:
        ModelLoadError: Something in the checkpoint does not fit, tensors are missing, or the
            device has not enough memory.
    """
    if 'quantization_config' in options:
        options['device_map'] = {'': device}
    with explained(folder), without_marks(folder) as plain, _bars_on_terminals():
        model, report = model_class.from_pretrained(
            plain,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        # from_pretrained only warns and initialises such tensors randomly.
        absent = sorted(report['missing_keys'])
        if absent:
            raise ModelLoadError(
                f'the weights in {folder} lack {len(absent)} tensors, {absent[0]!r} for one: this '
                'is no complete checkpoint. Copy or download it again'
            )
        model = model.eval().requires_grad_(False)
        # Quantized weights cannot be moved: device_map has put them on the device.
        return model if 'quantization_config' in options else model.to(device)


@contextlib.contextmanager
def _bars_on_terminals() -> Iterator[None]:
    """Let transformers draw progress bars on a terminal only, not into the log of a node."""
    bars = transformers.utils.logging
    hide = bars.is_progress_bar_enabled() and not (sys.stderr and sys.stderr.isatty())
    if hide:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            bars.enable_progress_bar()


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the exceptions of libraries that load ``folder`` into a ``ModelLoadError``."""
    try:
        yield
    except _LOAD_ERRORS as error:
        raise ModelLoadError(
            f'cannot load the model in {folder}: {type(error).__name__}: {first_line(error)}. '
            f'The folder must be one that transformers {transformers.__version__} can read, with '
            'memory for it on the device'
        ) from error
