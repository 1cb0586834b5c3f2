# SPDX-License-Identifier: Apache-2.0
"""Measures outlines and compares them with everyday shapes."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.types import Image, Mask

Floats = npt.NDArray[np.float64]
Typical = Floats  # (2, shapes, measures): medians and spreads


class Measures(NamedTuple):
    """The measures of one region. All are ratios, so the scale of the image is irrelevant.

    Attributes:
        hole: Largest hole, as a share of the filled area.
        tall: log2 of height over width of the body (the outline without thin protrusions).
        solid: Share of the convex hull that is filled.
        round: IoU of the outline with the ellipse of the same moments.
        top: Width near the top over the largest width.
        low: Width near the bottom over the largest width.
        corners: Share of the hull that its best six-cornered polygon keeps.
        triangle: Share of the smallest enclosing triangle that the hull fills.
        knob: Share of the outline in thin protrusions (handles).
        lid: Colourfulness of the upper face less that of the front.
        hollow: log2 of the brightness of the upper face's middle over the front.
        edges: Length of the edges inside the outline, relative to the square root of its area.
    """

    hole: float
    tall: float
    solid: float
    round: float
    top: float
    low: float
    corners: float
    triangle: float
    knob: float
    lid: float
    hollow: float
    edges: float


# Median and spread of each measure, by shape, over a few hundred images: first of fully visible
# things, then of partly hidden ones.
_IN_VIEW = {
    'ball': (
        (0.00, -0.01, 1.01, 0.99, 0.44, 0.44, 0.74, 0.61, 0.01, -0.07, 0.76, 0.08),
        (0.02, 0.10, 0.01, 0.01, 0.04, 0.04, 0.06, 0.02, 0.01, 0.08, 0.27, 0.81),
    ),
    'bottle': (
        (0.00, 0.88, 0.93, 0.84, 0.52, 0.58, 0.83, 0.71, 0.17, -0.00, 0.36, 1.51),
        (0.02, 0.18, 0.02, 0.02, 0.04, 0.06, 0.04, 0.02, 0.02, 0.05, 0.25, 0.64),
    ),
    'bowl': (
        (0.00, -0.36, 1.01, 0.96, 0.49, 0.43, 0.81, 0.65, 0.02, 0.00, 0.09, 5.86),
        (0.02, 0.14, 0.01, 0.02, 0.04, 0.04, 0.03, 0.02, 0.01, 0.05, 0.43, 1.28),
    ),
    'box': (
        (0.00, -0.02, 1.00, 0.88, 0.44, 0.43, 0.95, 0.61, 0.07, -0.00, 0.92, 4.58),
        (0.02, 0.34, 0.01, 0.03, 0.09, 0.10, 0.03, 0.04, 0.02, 0.05, 0.29, 0.92),
    ),
    'can': (
        (0.00, 0.75, 1.01, 0.90, 0.64, 0.55, 0.89, 0.61, 0.02, -0.43, 0.82, 2.37),
        (0.02, 0.18, 0.01, 0.01, 0.07, 0.06, 0.03, 0.02, 0.01, 0.18, 0.35, 1.35),
    ),
    'cone': (
        (0.00, 0.10, 1.01, 0.78, 0.38, 0.53, 0.90, 0.85, 0.15, -0.00, 0.09, 0.02),
        (0.02, 0.10, 0.01, 0.04, 0.04, 0.06, 0.03, 0.07, 0.05, 0.05, 0.20, 0.26),
    ),
    'mug': (
        (0.00, 0.34, 0.99, 0.88, 0.55, 0.49, 0.86, 0.65, 0.05, 0.00, -0.04, 8.05),
        (0.02, 0.14, 0.01, 0.02, 0.06, 0.05, 0.03, 0.04, 0.03, 0.05, 0.20, 2.66),
    ),
    'ring': (
        (0.17, -0.40, 1.01, 0.99, 0.45, 0.45, 0.79, 0.61, 0.01, 0.01, -0.32, 7.91),
        (0.06, 0.19, 0.01, 0.01, 0.04, 0.04, 0.04, 0.02, 0.01, 0.05, 0.29, 4.73),
    ),
}
_PARTLY_HIDDEN = {
    'ball': (
        (0.00, 0.06, 0.98, 0.88, 0.47, 0.41, 0.84, 0.67, 0.06, -0.05, 0.61, 0.16),
        (0.02, 0.27, 0.04, 0.05, 0.06, 0.06, 0.06, 0.03, 0.02, 0.08, 0.28, 0.81),
    ),
    'bottle': (
        (0.00, 0.67, 0.90, 0.82, 0.48, 0.51, 0.89, 0.70, 0.24, 0.00, 0.34, 1.51),
        (0.02, 0.25, 0.03, 0.03, 0.05, 0.08, 0.06, 0.04, 0.07, 0.05, 0.29, 0.65),
    ),
    'bowl': (
        (0.00, -0.30, 0.97, 0.87, 0.51, 0.41, 0.85, 0.68, 0.09, 0.00, 0.00, 4.49),
        (0.02, 0.23, 0.04, 0.05, 0.08, 0.08, 0.03, 0.03, 0.05, 0.05, 0.43, 1.36),
    ),
    'box': (
        (0.00, 0.00, 0.97, 0.85, 0.47, 0.41, 0.95, 0.66, 0.10, 0.00, 0.91, 4.14),
        (0.02, 0.34, 0.03, 0.05, 0.10, 0.10, 0.03, 0.05, 0.03, 0.05, 0.30, 1.03),
    ),
    'can': (
        (0.00, 0.57, 0.96, 0.84, 0.63, 0.49, 0.91, 0.66, 0.10, -0.42, 0.81, 2.35),
        (0.02, 0.32, 0.04, 0.04, 0.07, 0.09, 0.03, 0.06, 0.06, 0.18, 0.35, 1.35),
    ),
    'cone': (
        (0.00, 0.28, 0.98, 0.76, 0.40, 0.51, 0.92, 0.84, 0.18, 0.00, 0.11, 0.03),
        (0.02, 0.21, 0.03, 0.06, 0.04, 0.11, 0.03, 0.07, 0.05, 0.05, 0.20, 0.26),
    ),
    'mug': (
        (0.00, 0.24, 0.97, 0.86, 0.59, 0.45, 0.89, 0.65, 0.11, 0.00, -0.06, 7.16),
        (0.02, 0.27, 0.03, 0.02, 0.06, 0.08, 0.03, 0.05, 0.05, 0.05, 0.20, 2.90),
    ),
    'ring': (
        (0.15, -0.30, 0.99, 0.93, 0.49, 0.45, 0.84, 0.65, 0.04, 0.01, -0.20, 7.42),
        (0.07, 0.19, 0.03, 0.04, 0.04, 0.09, 0.04, 0.02, 0.03, 0.05, 0.41, 4.73),
    ),
}
SHAPES = tuple(_IN_VIEW)
_WHOLE: Typical = np.array(list(_IN_VIEW.values())).transpose(1, 0, 2)
_HIDDEN: Typical = np.array(list(_PARTLY_HIDDEN.values())).transpose(1, 0, 2)
_EDGE = 0.06  # log brightness per pixel
_CAP = 12.0  # upper limit of a squared deviation
_TRUST = 0.5  # factor on the log likelihood, because the measures are not independent
_OFTEN_HIDDEN = 0.2  # share of the things on a table that are partly hidden


def shape_scores(measures: Measures) -> dict[str, float]:
    """Return how well each shape name fits; the scores add up to 1."""
    logs = np.logaddexp(
        np.log(1 - _OFTEN_HIDDEN) + _TRUST * _log_likelihood(measures, _WHOLE),
        np.log(_OFTEN_HIDDEN) + _TRUST * _log_likelihood(measures, _HIDDEN),
    )
    scores = np.exp(logs - logs.max())
    return dict(zip(SHAPES, (scores / scores.sum()).tolist(), strict=True))


def likeness(measures: Measures) -> float:
    """Return the similarity to the best fully visible shape: 0 is perfect, negative is worse."""
    return float(_agreement(measures, _WHOLE).max())


def _log_likelihood(measures: Measures, typical: Typical) -> Floats:
    """Return the log likelihood of the measures under each shape, up to a constant."""
    return _agreement(measures, typical) - np.log(typical[1]).sum(axis=1)


def _agreement(measures: Measures, typical: Typical) -> Floats:
    """Return the similarity of the measures to each shape: 0 at the medians, else negative."""
    middles, spreads = typical
    deviations = ((np.array(measures) - middles) / spreads) ** 2
    return np.asarray(-0.5 * np.minimum(deviations, _CAP).sum(axis=1))


def measure(image: Image, region: Mask) -> Measures:
    """Measure a non-empty region (h, w) of an image (h, w, 3)."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = np.pad(region[window].astype(np.uint8), 2)
    crop = cv2.copyMakeBorder(image[window], 2, 2, 2, 2, cv2.BORDER_REPLICATE)
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    filled = cv2.drawContours(np.zeros_like(inside), [outline], -1, 1, cv2.FILLED)
    hull = cv2.convexHull(outline)
    hull_area = max(1.0, cv2.contourArea(hull))
    area = max(1.0, float(filled.sum()))
    holes = filled & (1 - inside)
    count, _, stats, _ = cv2.connectedComponentsWithStats(holes)
    body = _body(filled)
    width, top, low = _profile(body)
    height = float(np.ptp(np.flatnonzero(body.any(1)))) + 1
    lid, hollow = _upper_face(crop, body)
    return Measures(
        hole=max((float(stats[k, cv2.CC_STAT_AREA]) for k in range(1, count)), default=0) / area,
        tall=float(np.log2(height / width)),
        solid=area / hull_area,
        round=_roundness(filled),
        top=top,
        low=low,
        corners=_polygon_share(hull, hull_area),
        triangle=_triangle_share(hull, hull_area),
        knob=1 - float(body.sum()) / area,
        lid=lid,
        hollow=hollow,
        edges=_inner_edges(crop, inside),
    )


def _body(filled: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the outline without thin protrusions, opened with a disc of 3/4 of its thickness."""
    padded = np.pad(filled, 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)
    radius = 0.75 * float(depth.max())
    core = (depth <= radius).astype(np.uint8)
    opened = cv2.distanceTransform(core, cv2.DIST_L2, 5) <= radius
    return (opened & (padded > 0))[1:-1, 1:-1].astype(np.uint8)


def _profile(body: npt.NDArray[np.uint8]) -> tuple[float, float, float]:
    """Return the largest width in pixels, and the relative widths near top and bottom."""
    widths = body.sum(axis=1)
    widths = widths[widths > 0].astype(np.float64)
    largest = float(widths.max())
    tenth = max(1, round(len(widths) * 0.12))
    return largest, float(widths[:tenth].mean()) / largest, float(widths[-tenth:].mean()) / largest


def _roundness(filled: npt.NDArray[np.uint8]) -> float:
    moments = cv2.moments(filled, binaryImage=True)
    area = max(1.0, moments['m00'])
    cov = np.array([[moments['mu20'], moments['mu11']], [moments['mu11'], moments['mu02']]]) / area
    cov += np.eye(2) / 12
    y, x = np.indices(filled.shape)
    dx, dy = x - moments['m10'] / area, y - moments['m01'] / area
    inverse = np.linalg.inv(cov)
    reach = inverse[0, 0] * dx * dx + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy * dy
    ellipse = reach <= 4.0
    both = (ellipse & (filled > 0)).sum()
    return float(both / max(1, (ellipse | (filled > 0)).sum()))


def _polygon_share(hull: npt.NDArray[np.int32], hull_area: float) -> float:
    perimeter = cv2.arcLength(hull, True)
    for tolerance in np.arange(0.01, 0.12, 0.005):
        polygon = cv2.approxPolyDP(hull, tolerance * perimeter, True)
        if len(polygon) <= 6:
            return float(cv2.contourArea(polygon)) / hull_area
    return 0.0


def _triangle_share(hull: npt.NDArray[np.int32], hull_area: float) -> float:
    if len(hull) < 3:
        return 0.0
    area, _ = cv2.minEnclosingTriangle(hull)
    return hull_area / area if area > 0 else 0.0


def _upper_face(image: Image, body: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Compare the upper face of a standing thing with the front face below."""
    rows, columns = np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))
    top, bottom = rows[0], rows[-1] + 1
    middle = (columns[0] + columns[-1]) // 2
    half = max(1, len(columns) // 6)
    strip = image[top:bottom, middle - half : middle + half + 1].astype(np.float32)
    high, low = strip.max(axis=2) + 1, strip.min(axis=2)
    colourful = np.median((high - low) / high, axis=1)
    bright = np.median(high, axis=1)
    depth = max(2, round(0.38 * len(columns)))
    last = len(bright) - 1
    upper = slice(min(last, max(1, depth // 4)), max(2, 3 * depth // 4))
    front = slice(min(last, depth + depth // 4), last + 1)
    lid = float(np.median(colourful[upper]) - np.median(colourful[front]))
    hollow = float(np.log2(np.median(bright[upper]) / np.median(bright[front])))
    return lid, hollow


def _inner_edges(image: Image, inside: npt.NDArray[np.uint8]) -> float:
    """Return the relative length of brightness edges (rims, corners, caps) inside the outline."""
    area = float(inside.sum())
    margin = 2 + 0.03 * np.sqrt(area)
    inner = cv2.distanceTransform(inside, cv2.DIST_L2, 5) > margin
    return float(brightness_edges(image)[inner].sum() / np.sqrt(area))


def brightness_edges(image: Image) -> Mask:
    """Return (h, w) bool: where the brightness of an (h, w, 3) image changes visibly."""
    bright = np.log(cv2.GaussianBlur(image, (3, 3), 0).max(axis=2).astype(np.float32) + 15)
    across = cv2.Sobel(bright, -1, 1, 0, scale=1 / 8)
    down = cv2.Sobel(bright, -1, 0, 1, scale=1 / 8)
    return np.asarray(cv2.magnitude(across, down) > _EDGE)
