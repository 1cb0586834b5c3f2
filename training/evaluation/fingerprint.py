# SPDX-License-Identifier: Apache-2.0
"""What makes two commands parts of one run: their settings, the dataset's rows, the weights."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from segzero_core.data import Samples
from training.evaluation.options import EvalConfig

_WEIGHTS = ('.safetensors', '.bin', '.pt', '.pth', '.json')
_PIECE = 2**16  # bytes


def run_settings(config: EvalConfig, samples: Samples) -> dict[str, Any]:
    """Return all that the processes of a run, and its parts before and after a stop, share."""
    ids = '\n'.join(samples.ids).encode()
    return config.identity() | {
        'level': samples.level,
        'rows': len(samples),
        'ids': hashlib.sha256(ids).hexdigest()[:16],
        'model_digest': fingerprint(config.model),
        'segmenter_digest': fingerprint(config.segmenter_model),
    }


def fingerprint(model: str) -> str:
    """Return a digest of the files of a local model, which another training changes.

    Of each file its name, its size and three pieces are taken: reading many gigabytes whole would
    take longer than many an evaluation, and training changes weights everywhere.

    Args:
        model: A folder, a file, or a name that is neither ('' is the digest of those).
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
