# SPDX-License-Identifier: Apache-2.0
"""Separates the things in an image from the surface under them and labels colours.

The surface may have texture, shadows and uneven light, but it must fill most of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.reasoners.rules.pieces import things
from segzero_core.types import Image, Mask

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]

_WORKING_SIDE = 640  # pixels; larger images are reduced to this side

# Upper ends of the hue sectors in degrees. Brown is dark orange; both are in the second sector.
_HUE_ENDS = (12.0, 37.0, 75.0, 170.0, 250.0, 312.0, 350.0, 360.0)
_NEUTRAL = len(_HUE_ENDS)
_FLOOR = 6.0  # display values below this are noise


@dataclass(frozen=True)
class Detections:
    """The image at working size, and the things found in it.

    Attributes:
        image: (h, w, 3) uint8 RGB, reduced to at most 640 pixels.
        scale: Original pixels per working pixel (x, y).
        regions: Masks (h, w) of the things found, largest first.
    """

    image: Image
    scale: tuple[float, float]
    regions: list[Mask]


def look(image: Image) -> Detections:
    """Find the things in an image of any size."""
    height, width = image.shape[:2]
    factor = min(1.0, _WORKING_SIDE / max(height, width))
    small = image
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    scale = (width / small.shape[1], height / small.shape[0])
    return Detections(small, scale, _regions(small))


def _regions(image: Image) -> list[Mask]:
    side = max(image.shape[:2])
    smooth = cv2.bilateralFilter(image, 5, 25, 2) if side >= 200 else image
    colour = smooth.astype(np.float32)
    table = _table(colour)
    front = _foreground(colour, table)
    labels = _vote(front, _hue_sectors(colour))
    return things(image, front, labels)


def _table(colour: Floats) -> Floats:
    """Estimate the surface's (h, w, 3) colour as a smooth field around the most common colour."""
    height, width = colour.shape[:2]
    step = max(1, max(height, width) // 160)
    sample = colour[::step, ::step]
    y, x = np.mgrid[0 : sample.shape[0], 0 : sample.shape[1]]
    y, x = 2 * y / max(1, sample.shape[0] - 1) - 1, 2 * x / max(1, sample.shape[1] - 1) - 1
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    values = sample.reshape(-1, 3).astype(np.float64)
    inside = _commonest(values)
    for _ in range(4):
        if inside.sum() < 20:
            break
        fit, *_ = np.linalg.lstsq(basis[inside], values[inside], rcond=None)
        gap = np.abs(values - basis @ fit).max(axis=1)
        spread = max(4.0, 1.5 * float(np.median(gap[inside])))
        inside = gap < 2.5 * spread
    else:
        return _evaluate(fit, height, width)
    centre = np.median(values[_commonest(values)], axis=0)
    return np.broadcast_to(centre, colour.shape).astype(np.float32)


def _evaluate(fit: npt.NDArray[np.float64], height: int, width: int) -> Floats:
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    one, a, b, aa, ab, bb = fit.astype(np.float32)
    channels = [
        one[k] + b[k] * y + bb[k] * y * y + (a[k] + ab[k] * y) * x + aa[k] * x * x
        for k in range(3)
    ]
    return np.clip(cv2.merge(channels), 1, 255)


def _commonest(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which of (N, 3) display values are near the most common one."""
    bins = (values // 16).astype(np.int64) + 1
    count = np.zeros((18, 18, 18))
    np.add.at(count, tuple(bins.T), 1)
    for axis in range(3):  # a colour on the edge of a bin counts in both bins
        count = count + np.roll(count, 1, axis) + np.roll(count, -1, axis)
    commonest = bins[count[tuple(bins.T)].argmax()]
    peak = (commonest - 0.5) * 16
    return np.asarray(np.abs(values - peak).max(axis=1) < 30)


def _foreground(colour: Floats, table: Floats) -> Mask:
    """Return the foreground: pixels that are neither the surface nor a shadow on it.

    A shadow scales all channels of the surface equally. A thing changes the proportions of the
    channels, or is brighter than the surface, or darker than any shadow.
    """
    ratio = cv2.log((colour + _FLOOR) / (table + _FLOOR))
    red, green, blue = cv2.split(ratio)
    level = (red + green + blue) / 3
    high, low = _extremes(ratio)
    tint = np.maximum(high - level, level - low)
    noise = float(np.median(np.abs(level - np.median(level)))) * 1.5
    tint_noise = float(np.median(tint))
    tinted = tint > max(0.12, 4.0 * tint_noise)
    bright = level > max(0.22, 4.5 * noise)
    dark = level < -max(1.0, 5.0 * noise)
    front = (tinted | bright | dark).astype(np.uint8)
    side = max(colour.shape[:2])
    if side >= 200:
        front = cv2.medianBlur(front, 5)
    return front.astype(bool)


def _extremes(image: Floats) -> tuple[Floats, Floats]:
    """Return the largest and the smallest channel of each pixel."""
    red, green, blue = cv2.split(image)
    return cv2.max(red, cv2.max(green, blue)), cv2.min(red, cv2.min(green, blue))


def _hue_sectors(colour: Floats) -> Labels:
    """Label each pixel with the number of its hue sector, or as neutral."""
    high, low = _extremes(colour)
    hue = cv2.cvtColor(colour / 255, cv2.COLOR_RGB2HSV)[..., 0]
    labels = np.searchsorted(_HUE_ENDS, hue, side='right').astype(np.int32)
    labels[labels >= len(_HUE_ENDS) - 1] = 0  # the last sector continues the first
    labels[high - low < np.maximum(18.0, 0.12 * high)] = _NEUTRAL
    return labels


def _vote(front: Mask, labels: Labels) -> Labels:
    """Give every foreground pixel the most common label of its neighbourhood."""
    side = 2 * round(max(front.shape) / 180) + 1
    best, winner = np.zeros(front.shape, np.float32), np.full(front.shape, _NEUTRAL, np.int32)
    for label in np.unique(labels[front]):
        votes = cv2.boxFilter((front & (labels == label)).astype(np.float32), -1, (side, side))
        winner[votes > best] = label
        best = np.maximum(best, votes)
    return winner
