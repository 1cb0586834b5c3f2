# SPDX-License-Identifier: Apache-2.0
"""The picture a person looks at: mask, box and points on the image, the words below it."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image as PilImage

from segzero_core.text_layout import draw_line, wrap
from segzero_core.types import Image, Mask, Segmentation

ACCENT = (255, 64, 129)  # RGB; a pink no table and few things on one are painted in
DIMMED = 0.7  # brightness of what is not the object
PANEL = (18, 22, 28)
SENTENCE = (255, 255, 255)
REASONING = (176, 186, 197)
MAX_SENTENCE_LINES = 5
MAX_REASONING_LINES = 8


def draw_overlay(image: Image, segmentation: Segmentation, query: str) -> Image:
    """Draw ``segmentation`` over ``image`` and write the sentence and the reasoning below.

    The object keeps its colours, everything else is dimmed. Letters that no font of the machine
    has are written as code points (``U+6771``), see ``fonts``.

    Args:
        image: (H, W, 3) uint8 RGB, the image that was asked about; left unchanged.
        segmentation: The answer; its mask is (H, W).
        query: The sentence.

    Returns:
        (H + panel, W, 3) uint8 RGB; the panel's height depends on the words. An image too narrow
        for letters gets a panel without words.
    """
    unit = max(1, round(image.shape[1] / 400))  # line width that looks the same at every size
    canvas = _dim_around(image, segmentation.mask)
    contours, _ = cv2.findContours(
        segmentation.mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(canvas, contours, -1, (255, 255, 255), unit + 3, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, ACCENT, unit, cv2.LINE_AA)
    if segmentation.box is not None:
        x1, y1, x2, y2 = (round(value) for value in segmentation.box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (255, 255, 255), unit, cv2.LINE_AA)
    for point in segmentation.points:
        centre = (round(point.x), round(point.y))
        cv2.circle(canvas, centre, 4 * unit, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(canvas, centre, 3 * unit, ACCENT, -1, cv2.LINE_AA)
    return np.vstack([canvas, _panel(image.shape[1], query, segmentation.reasoning)])


def _dim_around(image: Image, mask: Mask) -> Image:
    # The object is not tinted, because the sentence is often about its colour.
    canvas = cv2.convertScaleAbs(image, alpha=DIMMED)
    canvas[mask] = image[mask]
    return canvas


def _panel(width: int, query: str, reasoning: str) -> Image:
    size = min(max(width / 36, 11), 120)
    margin = round(size * 0.8)
    room = width - 2 * margin
    if room < 2 * size:  # no letter would fit
        return np.full((margin, width, 3), PANEL, np.uint8)
    large, small = size * 1.15, size * 0.9
    lines = [
        *((line, large, SENTENCE) for line in wrap(query, large, room, MAX_SENTENCE_LINES)),
        *((line, small, REASONING) for line in wrap(reasoning, small, room, MAX_REASONING_LINES)),
    ]
    step = round(size * 1.5)
    panel = PilImage.new('RGB', (width, 2 * margin + step * len(lines)), PANEL)
    for row, (line, height, colour) in enumerate(lines):
        baseline = margin + row * step + round(size)
        draw_line(panel, line, height, (margin, baseline), width - margin, colour)
    return np.asarray(panel)
