# SPDX-License-Identifier: Apache-2.0
"""Folders that hold a model in another form than the one that can be loaded.

Trainers, quantizers and exporters leave folders that look like a checkpoint. ``describe_folder``
goes by the files that are there: it says which tool's output the folder is, and which step is
left. Nothing in the folder is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from segzero_core.runtime.text_files import read_text

_LFS = b'version https://git-lfs'
_SHARD = re.compile(r'(.+)-(\d{5})-of-(\d{5})\.safetensors')
_DEPTH = 3  # levels of folders in which whole checkpoints are looked for


class FolderKind(NamedTuple):
    """A form of a model that cannot be loaded.

    Attributes:
        files: Glob patterns; one file that matches is enough.
        says: Message about the folder: its kind, and the missing step.
    """

    files: tuple[str, ...]
    says: str


_GGUF = (
    "is quantized for llama.cpp: serve it with llama-server and use reasoner 'openai', or give "
    'the folder of the original safetensors'
)
# In the order in which they are looked for: the more telling files first.
_KINDS = (
    FolderKind(
        ('zero_to_fp32.py', 'global_step*/*_optim_states.pt', 'global_step*/*model_states.pt'),
        'holds the shards of a DeepSpeed training: join them with "python zero_to_fp32.py . '
        'OUTPUT --safe_serialization" there, and add config.json, the tokenizer and '
        'preprocessor_config.json of the base model',
    ),
    FolderKind(
        ('*.distcp', 'pytorch_model_fsdp_*/*.distcp', 'model_dist/*.distcp', 'model/*.distcp'),
        'holds the shards of an FSDP training (torch.distributed.checkpoint): join them with '
        '"accelerate merge-weights FOLDER OUTPUT", and add config.json, the tokenizer and '
        'preprocessor_config.json of the base model',
    ),
    FolderKind(
        ('model_world_size_*_rank_*.pt', 'actor/model_world_size_*_rank_*.pt'),
        'holds the FSDP shards of a veRL training: join them with veRL\'s "model_merger.py '
        '--local_dir FOLDER", which writes a folder "huggingface" that can be loaded',
    ),
    FolderKind(
        ('latest_checkpointed_iteration.txt', 'iter_*/mp_rank_*', 'mp_rank_*'),
        'holds a Megatron checkpoint: convert it to the Hugging Face format with the tool of the '
        'framework that wrote it',
    ),
    FolderKind(('*.gguf',), f'holds a GGUF file, which {_GGUF}'),
    FolderKind(
        ('*.onnx', 'onnx/*.onnx'),
        'holds an ONNX export, which cannot be turned back: give the folder of the model it was '
        'exported from',
    ),
    FolderKind(
        ('openvino_model.xml', '*.engine', '*.plan', '*.mlpackage', '*.mlmodelc', '*.tflite'),
        'holds an export for one inference runtime, which cannot be turned back: give the folder '
        'of the model it was exported from',
    ),
    FolderKind(
        ('tf_model.h5', 'flax_model.msgpack', '*.npz', '*.pdparams', 'saved_model.pb'),
        'holds weights of another framework than PyTorch: convert them to safetensors, or give '
        'the folder of the PyTorch model',
    ),
    FolderKind(
        ('model_index.json',),
        'holds a diffusers pipeline, not a vision-language model or a SAM 2',
    ),
)
_PICKLED = ('*.bin', '*.pt', '*.pth', '*.ckpt')
_TRAINER_STATE = (
    'optimizer.pt', 'optimizer.bin', 'scheduler.pt', 'scheduler.bin', 'rng_state*',
    'training_args.bin', 'trainer_state.json',
)  # fmt: skip


def describe_folder(folder: Path) -> str | None:
    """Return what a folder is that is no loadable checkpoint, and the step that is left.

    Returns:
        One line that begins with the folder's name; ``None`` if nothing is known about it.
    """
    checks: tuple[Callable[[Path], str | None], ...] = (
        _empty, _adapter, lfs_pointers, _unfinished_download, _shards_without_index, _known_kind,
        _checkpoints_inside, _trainer_state, _pickles, _other_safetensors, _no_weights,
    )  # fmt: skip
    for check in checks:
        if (says := check(folder)) is not None:
            return f'{folder} {says}'
    return None


def describe_file(file: Path) -> str:
    """Return what to do about a file that was given where a folder belongs."""
    if file.suffix == '.gguf':
        return f'{str(file)!r} {_GGUF}'
    if file.suffix in ('.pt', '.pth', '.ckpt', '.bin'):
        return (
            f'{str(file)!r} is a pickle file, which can run code: give a folder with '
            "model.safetensors; for a SAM 2 of Meta's use segmenter 'sam2_official'"
        )
    return f'{str(file)!r} is a file: give the folder that config.json is in'


def _names(folder: Path, *patterns: str) -> list[str]:
    """Return the names of the folder's files that match one of the patterns, sorted."""
    return sorted({file.name for pattern in patterns for file in folder.glob(pattern)})


def _some(names: list[str]) -> str:
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _empty(folder: Path) -> str | None:
    return None if any(folder.iterdir()) else 'is empty: copy or download the model again'


def _adapter(folder: Path) -> str | None:
    file = folder / 'adapter_config.json'
    if not file.is_file() and not _names(folder, 'adapter_model.*'):
        return None
    try:
        settings = json.loads(read_text(file))
        base = settings.get('base_model_name_or_path') or 'its base model'
        kind = settings.get('peft_type') or 'PEFT'
    except (OSError, ValueError, AttributeError):
        base, kind = 'its base model', 'PEFT'
    return (
        f'holds a {kind} adapter for {base}, not a whole model: merge it into that model with '
        "peft's PeftModel.from_pretrained(base, folder).merge_and_unload() and save_pretrained, "
        "and add the base model's tokenizer and preprocessor_config.json"
    )


def lfs_pointers(folder: Path) -> str | None:
    """Return what to do about files that are only pointers to large files (Git LFS)."""
    for name in _names(folder, '*.safetensors', '*.json', '*.bin'):
        file = folder / name
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_LFS):
            return f'was cloned without its large files ({name} is a pointer): run "git lfs pull"'
    return None


def _unfinished_download(folder: Path) -> str | None:
    names = _names(folder, '*.incomplete', '*.part', '*.aria2', '*.crdownload', '*.download')
    if not names:
        return None
    return f'was not downloaded to the end ({_some(names)}): go on with the download'


def _shards_without_index(folder: Path) -> str | None:
    shards = [match for name in _names(folder, '*.safetensors') if (match := _SHARD.match(name))]
    if not shards or (folder / 'model.safetensors.index.json').is_file():
        return None
    total, here = int(shards[0][3]), len(shards)
    missing = f', and only {here} of {total} shards are there' if here < total else ''
    return (
        f'has shards of weights ({shards[0][0]} ...) but no model.safetensors.index.json, which '
        f'says what is in which{missing}: copy it from where the shards come from'
    )


def _known_kind(folder: Path) -> str | None:
    for kind in _KINDS:
        if any(next(folder.glob(pattern), None) for pattern in kind.files):
            return kind.says
    return None


def _checkpoints_inside(folder: Path) -> str | None:
    patterns = ('/'.join(['*'] * depth + ['config.json']) for depth in range(1, _DEPTH + 1))
    for pattern in patterns:
        inside = [str(file.parent.relative_to(folder)) for file in sorted(folder.glob(pattern))]
        if inside:
            return f'holds checkpoints in its folders: give one of them ({_some(inside[::-1])})'
    return None


def _trainer_state(folder: Path) -> str | None:
    names = _names(folder, *_TRAINER_STATE)
    weights = _names(folder, '*.safetensors', *_PICKLED)
    if not names or set(weights) - set(names):
        return None
    return (
        f"holds a trainer's state without the model ({_some(names)}): give the folder with "
        'config.json and model.safetensors'
    )


def _pickles(folder: Path) -> str | None:
    names = _names(folder, *_PICKLED)
    if not names or _names(folder, '*.safetensors'):
        return None
    return (
        f'has no safetensors weights. Found only {_some(names)}: pickle files can run code. '
        'Convert them where you trust their source (from_pretrained and save_pretrained write '
        "model.safetensors); for a SAM 2 of Meta's use segmenter 'sam2_official'"
    )


def _other_safetensors(folder: Path) -> str | None:
    names = _names(folder, '*.safetensors')
    if not names or (folder / 'model.safetensors').is_file():
        return None
    return (
        f'has weights under another name than transformers reads ({_some(names)}): if they are in '
        'its format, rename the file to model.safetensors; else convert them'
    )


def _no_weights(folder: Path) -> str | None:
    if _names(folder, '*.safetensors'):
        return None
    for name, what in (('config.json', 'a configuration'), ('tokenizer.json', 'a tokenizer')):
        if (folder / name).is_file():
            return f'holds {what} but no weights (model.safetensors): copy or download them, too'
    return None
