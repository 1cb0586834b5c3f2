# SPDX-License-Identifier: Apache-2.0
"""The ``grabcut`` segmenter: OpenCV's GrabCut, started from a box and points; no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.segmenters.base import MaskResult
from segzero_core.types import Box, Image, Mask, Point, check_image

_WORKING_SIDE = 960  # pixels; larger images are segmented reduced to this
_CROP_SIDE = 112  # pixels; the surroundings of the box are reduced to this
_MARGIN = 0.25  # of the box's sides: width of the surroundings that are taken into account
_SLACK = 0.06  # of the box's sides: how far the object may reach beyond a sloppy box
_ITERATIONS = 2
_CORE = 0.08  # of the box's shorter side: radius around a point that certainly is the object
_SPOT = 3  # pixels: radius around a point that certainly is the object, without a box
_FEWEST = 12  # pixels needed on either side to learn its colours
_VISIBLE = 16.0  # smallest colour change, in display values, that counts as visible
_ALIKE = 12.0  # Lab units; closer colours may be the same
_CROSS = np.ones((3, 3), np.uint8)


class Embedding(NamedTuple):
    """The image at working size, and the size of the original."""

    image: Image
    height: int
    width: int


class GrabCutSegmenter:
    """Separates the object in a box from its surroundings by colour (Rother et al. 2004).

    The points count as certain foreground, and everything well outside the box as certain
    background. The method needs an object whose colour differs from the background, and has no
    knowledge of objects.
    """

    embeds_at_once = True

    def embed(self, image: Image) -> Embedding:
        """See ``Segmenter``. Reduces a huge image once."""
        check_image(image)
        height, width = image.shape[:2]
        factor = min(1.0, _WORKING_SIDE / max(height, width))
        if factor < 1:
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return Embedding(np.array(image, order='C'), height, width)

    def segment(
        self, embedding: Embedding, box: Box | None, points: Sequence[Point]
    ) -> MaskResult:
        """See ``Segmenter``.

        Without a box, the image's border is taken as background. The score is the share of the
        outline on which the colours of object and background differ visibly, 0 to 1.
        """
        image, height, width = embedding
        rows, columns = image.shape[:2]
        scale = np.array([columns / width, rows / height])
        x1, y1, x2, y2 = box or (0, 0, width - 1, height - 1)
        corners = np.array([[x1, y1], [x2, y2]]) * scale
        corners = np.sort(np.clip(corners, 0, (columns - 1, rows - 1)), axis=0)
        spots = np.array(points, np.float64).reshape(-1, 2) * scale
        spots = np.clip(np.rint(spots), 0, (columns - 1, rows - 1)).astype(int)
        window = _window(corners, (rows, columns))
        mask, score = _cut(image, window, None if box is None else corners, spots)
        if (rows, columns) != (height, width):
            size = (width, height)
            mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR_EXACT)
        return MaskResult(mask.astype(bool), score)

    def close(self) -> None:
        """See ``Segmenter``; there is nothing to free."""


def _window(corners: npt.NDArray[np.float64], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of the box and its surroundings."""
    margin = np.maximum(_MARGIN * (corners[1] - corners[0]), 8)
    low = np.maximum(np.floor(corners[0] - margin), 0).astype(int)
    high = np.minimum(np.ceil(corners[1] + margin) + 1, shape[::-1]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _cut(
    image: Image,
    window: tuple[slice, slice],
    corners: npt.NDArray[np.float64] | None,
    spots: npt.NDArray[np.int_],
) -> tuple[Mask, float]:
    """Segment the window of the image; return the whole image's mask and the score."""
    mask = np.zeros(image.shape[:2], bool)
    crop = image[window]
    height, width = crop.shape[:2]
    factor = min(1.0, _CROP_SIDE / np.sqrt(height * width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA) if factor < 1 else crop.copy()
    scale = np.array(size) / (width, height)
    origin = np.array([window[1].start, window[0].start])
    spots_here = (spots - origin) * scale
    if corners is None:
        trimap = _trimap_of_points(size, spots_here)
    else:
        trimap = _trimap(size, (corners - origin) * scale, spots_here)
    _expect_holes(small, trimap)
    cut = _grabcut(small, trimap)
    if cut is None:
        if corners is not None:
            low, high = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int)
            mask[low[1] : high[1] + 1, low[0] : high[0] + 1] = True
        return mask, 0.0
    kept = _connected(cut, trimap == cv2.GC_FGD)
    score = _contrast(small, kept)
    if factor < 1:
        soft = cv2.resize(kept.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        kept = soft > 0.5
    mask[window] = kept
    return mask, score


def _trimap(
    size: tuple[int, int], corners: npt.NDArray[np.float64], spots: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Return the trimap of a box and points: (h, w) uint8 of cv2.GC_* labels."""
    trimap = np.full(size[::-1], cv2.GC_BGD, np.uint8)
    extent = corners[1] - corners[0]
    for slack, label in ((np.maximum(_SLACK * extent, 1), cv2.GC_PR_BGD), (0, cv2.GC_PR_FGD)):
        low = np.maximum(np.floor(corners[0] - slack), 0).astype(int)
        high = np.ceil(corners[1] + slack).astype(int) + 1
        trimap[low[1] : high[1], low[0] : high[0]] = label
    radius = int(_CORE * extent.min())
    for spot in spots:
        x, y = np.rint(spot).astype(int)
        if 0 <= y < size[1] and 0 <= x < size[0] and trimap[y, x] != cv2.GC_BGD:
            cv2.circle(trimap, (int(x), int(y)), radius, cv2.GC_FGD, cv2.FILLED)
    return trimap


def _trimap_of_points(
    size: tuple[int, int], spots: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Return the trimap of points alone: (h, w) uint8 of cv2.GC_* labels."""
    trimap = np.full(size[::-1], cv2.GC_PR_BGD, np.uint8)
    trimap[[0, -1]] = trimap[:, [0, -1]] = cv2.GC_BGD
    for spot in spots:
        x, y = np.rint(spot).astype(int)
        cv2.circle(trimap, (int(x), int(y)), _SPOT, cv2.GC_FGD, cv2.FILLED)
    return trimap


def _expect_holes(image: Image, trimap: npt.NDArray[np.uint8]) -> None:
    """Mark pixels that look more like the surroundings than like the points as background.

    Otherwise the background that shows through a ring is learnt as a colour of the object.
    """
    outside, core = trimap == cv2.GC_BGD, trimap == cv2.GC_FGD
    if outside.sum() < _FEWEST or not core.any():
        return
    # Shadows change the lightness most, so it counts less.
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) * (0.4, 1, 1)
    to_outside, to_core = (_colour_distance(lab, lab[sample]) for sample in (outside, core))
    doubtful = (to_outside < to_core) & (to_outside < _ALIKE)
    trimap[doubtful & (trimap == cv2.GC_PR_FGD)] = cv2.GC_PR_BGD


def _colour_distance(
    lab: npt.NDArray[np.float64], sample: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return (h, w): distance of each pixel's colour to the nearest common colour of a sample."""
    order = np.argsort(sample[:, 0])
    groups = np.array_split(sample[order], min(4, len(sample)))
    centres = np.array([np.median(group, axis=0) for group in groups])
    return np.linalg.norm(lab[..., None, :] - centres, axis=-1).min(axis=-1)


def _grabcut(image: Image, trimap: npt.NDArray[np.uint8]) -> Mask | None:
    """Run GrabCut; return ``None`` if either side has too few pixels to learn its colours."""
    background = (trimap == cv2.GC_BGD) | (trimap == cv2.GC_PR_BGD)
    if min(background.sum(), (~background).sum()) < _FEWEST:
        return None
    cv2.setRNGSeed(0)  # the colour clusters start at random; the same image gives the same mask
    models = np.zeros((1, 65)), np.zeros((1, 65))
    labels, *_ = cv2.grabCut(
        image, trimap.copy(), None, *models, _ITERATIONS, cv2.GC_INIT_WITH_MASK
    )
    found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return found if found.any() else None


def _connected(found: Mask, sure: Mask) -> Mask:
    """Keep the pieces that hold a point; without points, the largest."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8))
    wanted = np.unique(pieces[sure & found])
    if not len(wanted):
        wanted = np.array([1 + stats[1:, cv2.CC_STAT_AREA].argmax()])
    return np.isin(pieces, wanted)


def _contrast(image: Image, mask: Mask) -> float:
    """Return the share of the mask's outline across which the colour changes visibly."""
    inside = mask.astype(np.uint8)
    border = (cv2.dilate(inside, _CROSS) - inside).astype(bool)
    if not border.any():
        return 0.0
    colour = image.astype(np.float32)
    sides = []
    for side in (inside, 1 - inside):
        weight = cv2.blur(side.astype(np.float32), (7, 7))[..., None]
        sides.append(cv2.blur(colour * side[..., None], (7, 7)) / np.maximum(weight, 1e-3))
    change = np.abs(sides[0] - sides[1]).max(axis=2)[border]
    return float((change > _VISIBLE).mean())
