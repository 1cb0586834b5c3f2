# SPDX-License-Identifier: Apache-2.0
"""segzero: a sentence and a camera image in; reasoning, a pixel mask and target points out."""

from segzero_core.errors import AnswerError, CancelledError, SegZeroError
from segzero_core.pipeline import SegZero
from segzero_core.reasoners import load_reasoner
from segzero_core.segmenters import load_segmenter
from segzero_core.types import Box, Image, Mask, Point, Segmentation, Size

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
