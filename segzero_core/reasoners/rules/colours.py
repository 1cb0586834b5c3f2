# SPDX-License-Identifier: Apache-2.0
"""Names the colour of a region in everyday words."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from segzero_core.types import Image, Mask


class _Range(NamedTuple):
    """The range of a colour name: hue in degrees, saturation and brightness from 0 to 1."""

    hue: tuple[float, float] | None
    saturation: tuple[float, float]
    brightness: tuple[float, float]


_RANGES = {
    'black': _Range(None, (0.0, 0.6), (0.0, 0.20)),
    'grey': _Range(None, (0.0, 0.15), (0.26, 0.55)),
    'white': _Range(None, (0.0, 0.18), (0.45, 1.0)),
    'red': _Range((-11, 11), (0.55, 1.0), (0.22, 1.0)),
    'orange': _Range((15, 38), (0.78, 1.0), (0.3, 1.0)),
    'brown': _Range((8, 38), (0.3, 0.74), (0.12, 0.55)),
    'yellow': _Range((42, 66), (0.4, 1.0), (0.3, 1.0)),
    'green': _Range((75, 165), (0.25, 1.0), (0.15, 1.0)),
    'cyan': _Range((172, 198), (0.25, 1.0), (0.2, 1.0)),
    'blue': _Range((205, 248), (0.3, 1.0), (0.2, 1.0)),
    'purple': _Range((256, 306), (0.25, 1.0), (0.2, 1.0)),
    'pink': _Range((314, 352), (0.2, 0.62), (0.35, 1.0)),
}
# Scale of the distance to a range: degrees of hue, saturation, brightness.
_HUE_STEP, _SATURATION_STEP, _BRIGHTNESS_STEP = 5.0, 0.06, 0.05
COLOURS = tuple(_RANGES)


def colour_scores(image: Image, region: Mask) -> dict[str, float]:
    """Return how well each colour name fits a non-empty region; the scores add up to 1.

    Highlights and the darkest pixels are ignored.
    """
    pixels = image[region]
    pixels = pixels[:: max(1, len(pixels) // 2000)].astype(np.float32)
    bright = pixels.max(axis=1)
    low, high = np.percentile(bright, (30, 85))
    typical = np.median(pixels[(bright >= low) & (bright <= high)], axis=0) / 255
    hue, saturation, value = cv2.cvtColor(typical.reshape(1, 1, 3), cv2.COLOR_RGB2HSV)[0, 0]
    steps = {
        name: _outside(saturation, wanted.saturation) / _SATURATION_STEP
        + _outside(value, wanted.brightness) / _BRIGHTNESS_STEP
        + (_hue_outside(hue, wanted.hue) / _HUE_STEP if wanted.hue else 0.0)
        for name, wanted in _RANGES.items()
    }
    scores = {name: float(np.exp(-1.2 * step)) for name, step in steps.items()}
    total = sum(scores.values()) + 1e-6
    return {name: score / total for name, score in scores.items()}


def _outside(value: float, allowed: tuple[float, float]) -> float:
    return max(allowed[0] - value, 0.0, value - allowed[1])


def _hue_outside(hue: float, allowed: tuple[float, float]) -> float:
    middle, half = (allowed[0] + allowed[1]) / 2, (allowed[1] - allowed[0]) / 2
    return max(0.0, abs((hue - middle + 180) % 360 - 180) - half)
