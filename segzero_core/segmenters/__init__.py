# SPDX-License-Identifier: Apache-2.0
"""Segmenters: one file per engine, one line here per engine."""

from __future__ import annotations

from typing import Any, cast

from segzero_core.registry import EngineEntry, create_engine
from segzero_core.segmenters.base import BatchSegmenter, MaskResult, Segmenter

SEGMENTERS = {
    'grabcut': EngineEntry('segzero_core.segmenters.grabcut:GrabCutSegmenter', 'core'),
    'sam2': EngineEntry('segzero_core.segmenters.sam2:Sam2Segmenter', 'models', has_device=True),
    'sam2_official': EngineEntry(
        'segzero_core.segmenters.sam2_official:OfficialSam2Segmenter', 'sam2', has_device=True
    ),
}


def load_segmenter(engine: str, **options: Any) -> Segmenter:
    """Construct the segmenter called ``engine``; see ``registry.create_engine`` for errors."""
    return cast(Segmenter, create_engine('segmenter', SEGMENTERS, engine, options))


__all__ = ['SEGMENTERS', 'BatchSegmenter', 'MaskResult', 'Segmenter', 'load_segmenter']
