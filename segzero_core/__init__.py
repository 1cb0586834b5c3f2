# SPDX-License-Identifier: Apache-2.0
"""segzero: a sentence and a camera image in; reasoning, a pixel mask and target points out.

The names below are imported when they are first used, so that a program can set its signal
handlers before the libraries behind them are loaded.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in typing, whose import takes time
if TYPE_CHECKING:
    from typing import Any

    from segzero_core.errors import AnswerError, CancelledError, SegZeroError
    from segzero_core.pipeline import SegZero
    from segzero_core.reasoners import load_reasoner
    from segzero_core.segmenters import load_segmenter
    from segzero_core.types import Box, Image, Mask, Point, Segmentation, Size

_MODULES = {
    'AnswerError': 'errors',
    'Box': 'types',
    'CancelledError': 'errors',
    'Image': 'types',
    'Mask': 'types',
    'Point': 'types',
    'SegZero': 'pipeline',
    'SegZeroError': 'errors',
    'Segmentation': 'types',
    'Size': 'types',
    'load_reasoner': 'reasoners',
    'load_segmenter': 'segmenters',
}
__all__ = [
    'AnswerError',
    'Box',
    'CancelledError',
    'Image',
    'Mask',
    'Point',
    'SegZero',
    'SegZeroError',
    'Segmentation',
    'Size',
    'load_reasoner',
    'load_segmenter',
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, those not imported yet included."""
    return sorted({*globals(), *__all__})
