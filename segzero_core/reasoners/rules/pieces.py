# SPDX-License-Identifier: Apache-2.0
"""Cuts a labelled foreground into separate things."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.reasoners.rules.parting import part
from segzero_core.types import Image, Mask

Labels = npt.NDArray[np.int32]

_MOST = 24  # maximum number of pieces; an image with more is clutter
_MIN_AREA = 0.0006  # smallest area of a piece, as a share of the image; less is noise


def things(image: Image, front: Mask, labels: Labels) -> list[Mask]:
    """Return the masks of separate things, largest first.

    Args:
        image: (h, w, 3) uint8 RGB.
        front: (h, w) bool foreground: every pixel that is not the surface.
        labels: (h, w) colour labels of the foreground.
    """
    pieces = sorted(_pieces(front, labels), key=lambda piece: -int(piece.sum()))
    whole = [_without_gaps(piece) for piece in pieces[:_MOST]]
    found = [_with_lid(thing) for piece in whole for thing in part(image, piece)]
    return sorted(found, key=lambda region: -int(region.sum()))


def _pieces(front: Mask, labels: Labels) -> list[Mask]:
    """Return connected pieces of one label.

    A tiny piece is merged into the neighbour with the longest shared border, or removed.
    """
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
        if areas[piece] >= 20 * least:
            break
        view = ids[_window(ids == piece)]
        ring = cv2.dilate((view == piece).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        around = view[ring & (view != piece)]
        touching = np.bincount(around[around > 0], minlength=1)
        if not len(around) or not touching.sum():
            continue
        host = int(touching.argmax())
        share = touching[host] / len(around)
        if share > 0.6 or (areas[piece] < least and share > 0.3):
            view[view == piece] = host
            areas[host] += areas[piece]
            areas[piece] = 0
    return [ids == k for k in np.flatnonzero(areas >= least) if k]


def _without_gaps(piece: Mask) -> Mask:
    """Fill highlights, which can look like the surface; the hole of a ring is not filled."""
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
    """Add the upper face of a can if the face looks like the surface.

    The rest of such a can ends at the top in a concave arc, which is the lower half of the face's
    ellipse. The chord and the depth of that arc give the axes of the ellipse.
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
    """Return the radius of the largest circle inside a mask."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return float(cv2.distanceTransform(padded, cv2.DIST_L2, 5).max())


def _window(mask: Mask) -> tuple[slice, slice]:
    """Return the box of a non-empty mask, enlarged by one pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(0, rows[0] - 1), rows[-1] + 2),
        slice(max(0, columns[0] - 1), columns[-1] + 2),
    )
