# SPDX-License-Identifier: Apache-2.0
"""Finds separate things on a plain surface: background, then colour, then connected pieces.

The surface may be textured, unevenly lit and shadowed, but it must fill most of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.types import Image, Mask

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]

_WORKING_SIDE = 640  # pixels; larger images are looked at reduced to this
_MIN_AREA = 0.0006  # of the picture; anything smaller is dirt

# Upper ends of the hue sectors in degrees. Brown is a dark orange; both lie in the second.
_HUE_ENDS = (12.0, 37.0, 75.0, 170.0, 250.0, 312.0, 350.0, 360.0)
_NEUTRAL = len(_HUE_ENDS)
_WAIST = 0.75  # a waist narrower than this share of a part's radius separates it
_SOLID = 0.95  # convex enough to be one thing
_SMALLEST_PART = 0.15  # of a piece; a bottle's neck is less
_FLOOR = 6.0  # display values below this are noise


@dataclass(frozen=True)
class View:
    """The picture as the later steps look at it.

    Attributes:
        image: (h, w, 3) uint8 RGB, reduced to at most 640 pixels.
        scale: Original pixels per working pixel (x, y).
        regions: Masks (h, w) of the things found, largest first.
    """

    image: Image
    scale: tuple[float, float]
    regions: list[Mask]


def look(image: Image) -> View:
    """Find the things in a picture of any size."""
    height, width = image.shape[:2]
    factor = min(1.0, _WORKING_SIDE / max(height, width))
    small = image
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    scale = (width / small.shape[1], height / small.shape[0])
    return View(small, scale, _regions(small))


def _regions(image: Image) -> list[Mask]:
    side = max(image.shape[:2])
    smooth = cv2.bilateralFilter(image, 5, 25, 2) if side >= 200 else image
    colour = smooth.astype(np.float32)
    table = _table(colour)
    front = _foreground(colour, table)
    labels = _vote(front, _hue_sectors(colour))
    pieces = [_without_gaps(piece) for piece in _pieces(front, labels)]
    found = [part for piece in pieces for part in _split(piece)]
    found.sort(key=lambda region: -int(region.sum()))
    return found


def _table(colour: Floats) -> Floats:
    """Estimate the surface's (h, w, 3) colour: a smooth field fitted to its commonest colour."""
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
    """Which (N, 3) display values lie near the commonest one."""
    bins = (values // 16).astype(np.int64)
    count = np.zeros((16, 16, 16), np.float32)
    np.add.at(count, tuple(bins.T), 1)
    wide = cv2.GaussianBlur(count.reshape(16, 256), (1, 3), 0).reshape(16, 16, 16)
    wide = wide + np.roll(wide, 1, 1) + np.roll(wide, -1, 1)
    wide = wide + np.roll(wide, 1, 2) + np.roll(wide, -1, 2)
    peak = (np.array(np.unravel_index(wide.argmax(), wide.shape)) + 0.5) * 16
    return np.abs(values - peak).max(axis=1) < 30


def _foreground(colour: Floats, table: Floats) -> Mask:
    """What is neither the surface nor a shadow on it.

    A shadow scales all channels of the surface alike; a thing changes their proportions, or is
    brighter than the surface or darker than any shadow.
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
    """Largest and smallest channel of each pixel."""
    red, green, blue = cv2.split(image)
    return cv2.max(red, cv2.max(green, blue)), cv2.min(red, cv2.min(green, blue))


def _hue_sectors(colour: Floats) -> Labels:
    """Label each pixel with its hue sector, or as neutral."""
    high, low = _extremes(colour)
    hue = cv2.cvtColor(colour / 255, cv2.COLOR_RGB2HSV)[..., 0]
    labels = np.searchsorted(_HUE_ENDS, hue, side='right').astype(np.int32)
    labels[labels >= len(_HUE_ENDS) - 1] = 0  # the last sector continues the first
    labels[high - low < np.maximum(18.0, 0.12 * high)] = _NEUTRAL
    return labels


def _vote(front: Mask, labels: Labels) -> Labels:
    """Give every foreground pixel the commonest label around it."""
    side = 2 * round(max(front.shape) / 180) + 1
    best, winner = np.zeros(front.shape, np.float32), np.full(front.shape, _NEUTRAL, np.int32)
    for label in np.unique(labels[front]):
        votes = cv2.boxFilter((front & (labels == label)).astype(np.float32), -1, (side, side))
        winner[votes > best] = label
        best = np.maximum(best, votes)
    return winner


def _pieces(front: Mask, labels: Labels) -> list[Mask]:
    """Connected pieces of one label; crumbs go to the neighbour they touch most, or away."""
    least = max(6, round(_MIN_AREA * front.size))
    ids = np.zeros(front.shape, np.int32)
    total = 0
    for label in np.unique(labels[front]):
        one = (front & (labels == label)).astype(np.uint8)
        count, pieces = cv2.connectedComponents(one, connectivity=4)
        ids += np.where(pieces > 0, pieces + total, 0)
        total += count - 1
    areas = np.bincount(ids.ravel(), minlength=total + 1)
    for piece in np.argsort(areas[1:]) + 1:
        window = _window(ids == piece) if areas[piece] < 20 * least else None
        if window is None:
            continue
        part = ids[window]
        ring = cv2.dilate((part == piece).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        around = part[ring & (part != piece)]
        touching = np.bincount(around[around > 0], minlength=1)
        if not len(around) or not touching.sum():
            continue
        host = int(touching.argmax())
        share = touching[host] / len(around)
        if share > 0.6 or (areas[piece] < least and share > 0.3):
            part[part == piece] = host
            areas[host] += areas[piece]
            areas[piece] = 0
    return [ids == k for k in np.flatnonzero(areas >= least) if k]


def _without_gaps(piece: Mask) -> Mask:
    """Fill highlights, and the lid of a can, which may look like the surface."""
    window = _window(piece)
    inside = piece[window]
    height, width = inside.shape
    thick = _depth(inside)
    count, holes, stats, centres = cv2.connectedComponentsWithStats((~inside).astype(np.uint8))
    filled = piece.copy()
    for k in range(1, count):
        left, top, across, down, area = stats[k]
        if left == 0 or top == 0 or left + across == width or top + down == height:
            continue  # open to the outside
        x, y = centres[k]
        lid = y < 0.35 * height and across > 0.5 * width and abs(x / width - 0.5) < 0.2
        if lid or area < 0.015 * inside.sum() or _depth(holes == k) < 0.2 * thick:
            filled[window] |= holes == k
    return filled


def _depth(mask: Mask) -> float:
    """Radius of the largest circle inside a mask."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return float(cv2.distanceTransform(padded, cv2.DIST_L2, 5).max())


def _split(piece: Mask) -> list[Mask]:
    """Cut a piece where a narrow waist joins two thick parts: things of one colour that touch."""
    window = _window(piece)
    inside = np.pad(piece[window].astype(np.uint8), 1)
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    if cv2.contourArea(outline) > _SOLID * cv2.contourArea(cv2.convexHull(outline)):
        return [piece]
    filled = cv2.drawContours(np.zeros_like(inside), [outline], -1, 1, cv2.FILLED)
    depth = cv2.distanceTransform(filled, cv2.DIST_L2, 5)
    parts = _lobes(depth)
    if len(parts) < 2:
        return [piece]
    # Every pixel goes to the lobe whose circle reaches it best; a bottle's neck stays on it.
    y, x = np.indices(depth.shape)
    reach = np.array([np.hypot(x - px, y - py) - r for px, py, r in parts])
    sizes = np.bincount(reach.argmin(axis=0)[filled > 0], minlength=len(parts))
    reach = reach[sizes > _SMALLEST_PART * filled.sum()]
    owner = reach.argmin(axis=0)
    found = []
    for k in range(len(reach)):
        one = np.zeros_like(piece)
        one[window] = ((owner == k) & (inside > 0))[1:-1, 1:-1]
        found.append(one)
    return found


def _lobes(depth: Floats) -> list[tuple[float, float, float]]:
    """Centres and radii (x, y, r) of thick parts that only narrow waists join."""
    deepest = float(depth.max())
    lobes: list[tuple[float, float, float]] = []
    for level in np.linspace(0.9, 0.35, 12) * deepest:
        count, cores = cv2.connectedComponents((depth > level).astype(np.uint8))
        for k in range(1, count):
            core = cores == k
            y, x = np.unravel_index(np.where(core, depth, 0).argmax(), depth.shape)
            known = [lobe for lobe in lobes if core[int(lobe[1]), int(lobe[0])]]
            if not known:
                lobes.append((float(x), float(y), float(depth[y, x])))
    return [
        lobe
        for i, lobe in enumerate(lobes)
        if all(_waist(depth, lobe, other) < _WAIST * lobe[2] for other in lobes[:i])
    ]


def _waist(depth: Floats, a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """The largest radius that can travel inside the piece from ``a`` to ``b``."""
    low, high = 0.0, min(a[2], b[2])
    for _ in range(7):
        middle = (low + high) / 2
        _, cores = cv2.connectedComponents((depth > middle).astype(np.uint8))
        joined = cores[int(a[1]), int(a[0])] == cores[int(b[1]), int(b[0])]
        low, high = (middle, high) if joined else (low, middle)
    return low


def _window(mask: Mask) -> tuple[slice, slice]:
    """The box of a non-empty mask, one pixel wider."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(0, rows[0] - 1), rows[-1] + 2),
        slice(max(0, columns[0] - 1), columns[-1] + 2),
    )
