# SPDX-License-Identifier: Apache-2.0
"""Cuts a labelled foreground into separate things."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.types import Mask

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Lobe = tuple[float, float, float]  # centre x, y and radius of a thick part

_MOST = 24  # pieces; more than that is clutter, not a table with a few things
_MIN_AREA = 0.0006  # of the picture; anything smaller is dirt
_SOLID = 0.95  # share of its hull that makes a piece one thing beyond doubt
_SMALLEST_PART = 0.15  # of a piece; less is a handle or a tip
_WAIST = 0.75  # a waist narrower than this share of a part's radius separates it


def things(front: Mask, labels: Labels) -> list[Mask]:
    """Return the masks of separate things, largest first.

    Args:
        front: (h, w) bool, what is not the surface.
        labels: (h, w) colour labels of the foreground.
    """
    pieces = sorted(_pieces(front, labels), key=lambda piece: -int(piece.sum()))
    whole = [_without_gaps(piece) for piece in pieces[:_MOST]]
    found = [_with_lid(part) for piece in whole for part in _split(piece)]
    return sorted(found, key=lambda region: -int(region.sum()))


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
    """Fill highlights, which may look like the surface; what shows through a ring stays out."""
    window = _window(piece)
    inside = piece[window]
    height, width = inside.shape
    thick = _depth(inside)
    count, holes, stats, _ = cv2.connectedComponentsWithStats((~inside).astype(np.uint8))
    filled = piece.copy()
    for k in range(1, count):
        left, top, across, down, area = stats[k]
        if left == 0 or top == 0 or left + across == width or top + down == height:
            continue  # open to the outside
        if area < 0.015 * inside.sum() or _depth(holes == k) < 0.2 * thick:
            filled[window] |= holes == k
    return filled


def _with_lid(piece: Mask) -> Mask:
    """Add the upper face of a can where it looks like the surface.

    What is left of such a can ends in a hollow: the lower half of the face's ellipse, as wide as
    the can. The hollow's chord and depth are the ellipse's axes.
    """
    window = _window(piece)
    inside = np.pad(piece[window].astype(np.uint8), 1)
    height, width = inside.shape
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(np.concatenate(outlines))
    missing = cv2.fillConvexPoly(np.zeros_like(inside), hull, 1) & (1 - inside)
    count, hollows, stats, _ = cv2.connectedComponentsWithStats(missing)
    filled = piece.copy()
    for k in range(1, count):
        if stats[k, cv2.CC_STAT_WIDTH] < 0.5 * width:
            continue
        y, x = np.nonzero(hollows == k)
        a, b = (np.array([x[i], y[i]], np.float64) for i in (x.argmin(), x.argmax()))
        middle, chord = (a + b) / 2, b - a
        half = float(np.linalg.norm(chord)) / 2
        depth = float((chord[0] * (y - a[1]) - chord[1] * (x - a[0])).max()) / (2 * half)
        level = abs(chord[1]) < 0.4 * abs(chord[0])
        at_the_top = middle[1] < 0.35 * height and abs(middle[0] / width - 0.5) < 0.2
        if not (level and at_the_top and 0.2 < depth / half < 0.95):
            continue
        face = np.zeros_like(inside)
        angle = float(np.degrees(np.arctan2(chord[1], chord[0])))
        cv2.ellipse(face, (tuple(middle), (2 * half, 2 * depth), angle), 1, cv2.FILLED)
        filled[window] |= face[1:-1, 1:-1] > 0
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
    if len(reach) < 2:
        return [piece]
    owner = reach.argmin(axis=0)
    found = []
    for k in range(len(reach)):
        one = np.zeros_like(piece)
        one[window] = ((owner == k) & (inside > 0))[1:-1, 1:-1]
        found.append(one)
    return found


def _lobes(depth: Floats) -> list[Lobe]:
    """Centres and radii (x, y, r) of thick parts that only narrow waists join."""
    deepest = float(depth.max())
    lobes: list[Lobe] = []
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
        if all(
            _waist(depth, lobe, other) < _WAIST * lobe[2] and not _is_neck(lobe, other)
            for other in lobes[:i]
        )
    ]


def _is_neck(lobe: Lobe, body: Lobe) -> bool:
    """Whether a part stands on a thicker one, like the neck of a bottle."""
    aside, above = abs(lobe[0] - body[0]), body[1] - lobe[1]
    return lobe[2] < 0.65 * body[2] and above > 0 and aside < 0.45 * above


def _waist(depth: Floats, a: Lobe, b: Lobe) -> float:
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
