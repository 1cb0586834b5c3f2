# SPDX-License-Identifier: Apache-2.0
"""The identity of a run: settings, dataset rows and weights that all its parts must share."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

from segzero_core.data import Samples
from training.evaluation.options import EvalConfig

# Settings and engine options that say where and how fast a run computes, not what.
_FREE_SETTINGS = ('device', 'batch_size', 'output', 'root')
_FREE_OPTIONS = (
    # where the model server is, and how patiently it is asked
    'url',
    'timeout',
    'startup_timeout',
    'retries',
    'api_key_variable',
    # memory and speed
    'gpu_memory_utilization',
    'torch_compile',
    'num_draft_tokens',
    'eager',
)
_WEIGHTS = ('.safetensors', '.bin', '.pt', '.pth', '.json')
_PIECE = 2**16  # bytes


def run_settings(config: EvalConfig, samples: Samples) -> dict[str, Any]:
    """Return everything that the processes of a run share, and that it keeps when it continues.

    A run may continue on another device, with another batch size, or with its model server at
    another address.
    """
    ids = '\n'.join(samples.ids).encode()
    values = dataclasses.asdict(config)
    options = [
        option
        for option in config.reasoner_options
        if option.partition('=')[0].strip() not in _FREE_OPTIONS
    ]
    return {key: value for key, value in values.items() if key not in _FREE_SETTINGS} | {
        'reasoner_options': sorted(options),
        'level': samples.level,
        'rows': len(samples),
        'ids': hashlib.sha256(ids).hexdigest()[:16],
        'model_digest': fingerprint(config.model),
        'segmenter_digest': fingerprint(config.segmenter_model),
    }


def fingerprint(model: str) -> str:
    """Return a digest of the files of a local model; further training changes it.

    The digest covers name, size and three pieces of each file. Reading all of a large model would
    take longer than many evaluations, and training changes weights everywhere.

    Args:
        model: A folder, a file, or a hub id ('' is the digest of an id).
    """
    path = Path(model).expanduser()
    if not model or not path.exists():
        return ''
    files = [path] if path.is_file() else sorted(path.iterdir())
    digest = hashlib.sha256()
    for file in files:
        if file.suffix in _WEIGHTS and file.is_file():
            size = file.stat().st_size
            digest.update(f'{file.name} {size}\n'.encode())
            with file.open('rb') as opened:
                for start in (0, size // 2, max(0, size - _PIECE)):
                    opened.seek(start, os.SEEK_SET)
                    digest.update(opened.read(_PIECE))
    return digest.hexdigest()[:16]
