# SPDX-License-Identifier: Apache-2.0
"""Separates things of one colour that touch or hide each other.

The thick parts of a piece are candidates. Two parts are joined again if their union looks more
like an everyday shape than the separate parts do. The neck and the body of a bottle are an
example.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.reasoners.rules.outlines import brightness_edges, likeness, measure
from segzero_core.types import Image, Mask

Floats = npt.NDArray[np.float32]
Lobe = tuple[float, float, float]  # centre x, y and radius of a thick part

_SOLID = 0.95  # a piece that fills this share of its convex hull is certainly one thing
_SMALLEST = 0.05  # smallest share of a piece; a smaller part is only a tip
_WAIST = 0.85  # a waist narrower than this share of a part's radius may separate the part
_MOST = 8  # maximum number of candidates; the thickest ones are kept
_TEXTURE = 40  # maximum number of parts; a piece with more is texture and not a thing
_LOSS = 6.0  # maximum loss of similarity when two parts are joined
_GAIN = 5.0  # minimum gain of similarity when a piece is separated


def part(image: Image, piece: Mask) -> list[Mask]:
    """Return the things in a piece (h, w) of one colour; often the piece is the only one."""
    rows, columns = np.flatnonzero(piece.any(1)), np.flatnonzero(piece.any(0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = np.pad(piece[window].astype(np.uint8), 1)
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    if cv2.contourArea(outline) > _SOLID * cv2.contourArea(cv2.convexHull(outline)):
        return [piece]
    filled = cv2.drawContours(np.zeros_like(inside), [outline], -1, 1, cv2.FILLED)
    crop = cv2.copyMakeBorder(image[window], 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    faces = filled & ~brightness_edges(crop)
    lobes = _lobes(cv2.distanceTransform(faces, cv2.DIST_L2, 5))[:_MOST]
    if len(lobes) < 2:
        return [piece]
    found = []
    for one in _join(crop, _territories(crop, inside, lobes), inside > 0):
        whole = np.zeros_like(piece)
        whole[window] = one[1:-1, 1:-1]
        found.append(whole)
    return found


def _territories(image: Image, inside: npt.NDArray[np.uint8], lobes: list[Lobe]) -> list[Mask]:
    """Grow every lobe to the edges in the image (Meyer's watershed)."""
    markers = np.zeros(inside.shape, np.int32)
    for number, (x, y, radius) in enumerate(lobes, start=1):
        core = np.zeros(inside.shape, np.uint8)
        cv2.circle(core, (round(x), round(y)), max(1, int(0.6 * radius)), 1, cv2.FILLED)
        markers[(core > 0) & (inside > 0)] = number
    outside = len(lobes) + 1
    markers[inside == 0] = outside
    grown = cv2.watershed(image, markers)
    grown[(grown < 0) | (grown == outside)] = 0  # the borders between areas are -1
    grown = cv2.dilate(grown.astype(np.uint8), np.ones((3, 3), np.uint8))
    areas = [(grown == number) & (inside > 0) for number in range(1, outside)]
    return [area for area in areas if area.any()]


def _join(image: Image, parts: list[Mask], whole: Mask) -> list[Mask]:
    """Join touching parts unless the union looks less like an everyday shape."""
    scores = [likeness(measure(image, one)) for one in parts]
    while len(parts) > 1:
        gains = []
        for i, j in combinations(range(len(parts)), 2):
            if _touch(parts[i], parts[j]):
                joined = parts[i] | parts[j]
                score = likeness(measure(image, joined))
                gain = score - _mean((scores[i], scores[j]), (parts[i], parts[j]))
                crumb = min(parts[i].sum(), parts[j].sum()) < _SMALLEST * whole.sum()
                gains.append((gain + 100 * crumb, i, j, joined, score))
        if not gains:
            break
        gain, i, j, joined, score = max(gains, key=lambda entry: entry[0])
        if gain < -_LOSS:
            break
        parts = [one for k, one in enumerate(parts) if k not in (i, j)] + [joined]
        scores = [one for k, one in enumerate(scores) if k not in (i, j)] + [score]
    if len(parts) < 2 or _mean(scores, parts) < likeness(measure(image, whole)) + _GAIN:
        return [whole]
    return parts


def _mean(scores: Sequence[float], parts: Sequence[Mask]) -> float:
    return float(np.average(scores, weights=[one.sum() for one in parts]))


def _touch(a: Mask, b: Mask) -> bool:
    return bool((cv2.dilate(a.astype(np.uint8), np.ones((5, 5))) & b).any())


def _lobes(depth: Floats) -> list[Lobe]:
    """Return the thick parts that are connected only by narrower waists."""
    deepest = float(depth.max())
    lobes: list[Lobe] = []
    for level in np.linspace(0.95, 0.25, 15) * deepest:
        count, cores = cv2.connectedComponents((depth > level).astype(np.uint8))
        if max(count, len(lobes)) > _TEXTURE:
            break
        for k in range(1, count):
            core = cores == k
            if any(core[int(y), int(x)] for x, y, _ in lobes):
                continue
            y, x = np.unravel_index(np.where(core, depth, 0).argmax(), depth.shape)
            lobes.append((float(x), float(y), float(depth[y, x])))
    kept: list[Lobe] = []
    for lobe in lobes:
        if all(_waist(depth, lobe, other) < _WAIST * lobe[2] for other in kept):
            kept.append(lobe)
    return kept


def _waist(depth: Floats, a: Lobe, b: Lobe) -> float:
    """Return the radius of the largest circle that can move inside from ``a`` to ``b``."""
    low, high = 0.0, min(a[2], b[2])
    for _ in range(7):
        middle = (low + high) / 2
        _, cores = cv2.connectedComponents((depth > middle).astype(np.uint8))
        joined = cores[int(a[1]), int(a[0])] == cores[int(b[1]), int(b[0])]
        low, high = (middle, high) if joined else (low, middle)
    return low
