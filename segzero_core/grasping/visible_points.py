# SPDX-License-Identifier: Apache-2.0
"""Points in space on an object's visible surface, and where it continues out of sight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.grasping.camera_model import Distortion, Floats, rays
from segzero_core.grasping.object_surface import EDGE, ObjectSurface
from segzero_core.grasping.roi import Depth, RegionOfInterest, add_border
from segzero_core.grasping.support_plane import Plane
from segzero_core.types import Intrinsics, Mask

OUTLINE = 320  # most points on the outline
PATCHES = 256  # about as many patches the surface is averaged over
SMALL = 0.1  # share of the longest outline; shorter ones are specks of the mask
NEIGHBOURS = 4  # outline pixels on either side over which depth is averaged
ALIKE = 0.03  # share of the depth within which neighbours are averaged
INSET = 2  # pixels by which outline points lie inside: at the very edge depth is mixed
AROUND = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])  # an outline point, x and y
BEYOND = (4, 5, 6, 7, 8)  # pixels outwards at which the object's surroundings are looked at
GAP = 0.1  # of the object's longer side; depth measured farther away says nothing
MOSTLY = 0.25  # share of the outline; where more is hidden, no extent is known
NEARER = (0.012, 0.025)  # metres and share of the depth by which something hides the object


@dataclass(frozen=True)
class VisiblePoints:
    """Samples of an object's visible surface; the first ones lie on its outline.

    Attributes:
        points: (N, 3) metres, camera optical frame.
        pixels: (N, 2) x and y in the pixels of the region of interest.
        hidden: (M,) bool of the M outline points: something nearer begins beyond them.
        cut: (M,) bool of the M outline points: the image ends there.
        unmeasured: (M,) bool of the M outline points: no depth was measured near them.
        inset: Pixels by which the outline points lie inside the outermost ones, in x and in y: at
            the very edge no depth can be trusted.
        pixel_size: Metres that a pixel covers at the object's depth.
        noise: Standard deviation of a patch's depth, metres.
    """

    points: Floats
    pixels: Floats
    hidden: Mask
    cut: Mask
    unmeasured: Mask
    inset: int
    pixel_size: float
    noise: float

    @property
    def outline(self) -> Floats:
        """(M, 3) points on the outline."""
        return self.points[: len(self.cut)]

    @property
    def mostly_hidden(self) -> bool:
        """Whether so much of the outline is hidden that no extent of the object is known."""
        return float(self.hidden.mean()) > MOSTLY

    @property
    def sight(self) -> Floats:
        """(3,) unit vector from the camera to the object's middle."""
        middle = self.points.mean(axis=0)
        return np.asarray(middle / np.linalg.norm(middle))


def sample_points(
    surface: ObjectSurface,
    view: RegionOfInterest,
    depth: Depth,
    lens: Intrinsics,
    plane: Plane | None,
    distortion: Distortion | None = None,
) -> VisiblePoints:
    """Sample an object's visible surface.

    Args:
        surface: The object.
        view: What ``surface`` was found in.
        depth: (H, W) float32 of the whole image, metres.
        lens: Of ``view``.
        plane: That the object stands on: what lies on it hides nothing.
        distortion: Of the lens.
    """
    outline, outward, inset = _trace_outline(surface.region, INSET / view.step)
    inverse = _average_along(1 / _outline_depth(outline, surface, view))
    # Whether the border cuts the very end off takes every pixel.
    step = 1 if view.on_border(outline).any() else -(-len(outline) // OUTLINE)
    outline, outward, inverse = outline[::step], outward[::step], inverse[::step]
    patches, patch_inverse, noise = _average_patches(surface)
    pixels = np.concatenate([outline, patches]).astype(np.float64)
    z = 1 / np.concatenate([inverse, patch_inverse])
    lines = rays(pixels, lens, distortion)
    points = np.column_stack([lines, np.ones(len(lines))]) * z[:, None]
    count = len(outline)
    farthest = max(2 * EDGE / view.step, GAP * float(np.ptp(outline, axis=0).max()))
    middle = float(np.median(z))
    return VisiblePoints(
        points=points,
        pixels=pixels,
        hidden=_is_hidden(outline, outward, points[:count], view, depth, plane),
        cut=view.on_border(outline),
        unmeasured=surface.gap[outline[:, 1], outline[:, 0]] > farthest,
        inset=inset,
        pixel_size=middle / (0.5 * (lens.fx + lens.fy)),
        noise=noise * middle,
    )


def _trace_outline(region: Mask, inset: float) -> tuple[npt.NDArray[np.int64], Floats, int]:
    """Trace a region's outline a little inside of it.

    Returns:
        (M, 2) pixels x and y; the (M, 2) unit vectors out of the region there; and by how many
        pixels the outline lies inside, in both x and y, but for thin parts.
    """
    cross = np.ones((3, 3), np.uint8)
    # Specks that the segmenter missed or added are no edges.
    padded = add_border(region, 2)
    whole = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, cross)
    opened = cv2.morphologyEx(whole, cv2.MORPH_OPEN, cross)
    if np.count_nonzero(opened) > 0.8 * np.count_nonzero(whole):  # else it is thin all over
        whole = opened
    whole = np.ascontiguousarray(whole[2:-2, 2:-2])
    # The image's border is not eroded: OpenCV takes what lies outside for part of the region.
    pixels = round(inset)
    inner = cv2.erode(whole, np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8))
    if np.count_nonzero(inner) < 0.4 * np.count_nonzero(whole):
        return *_contours(whole), 0
    traced, outward = _contours(inner)
    near = cv2.dilate(inner, np.ones((2 * pixels + 3, 2 * pixels + 3), np.uint8))
    edge, edge_outward = _contours(whole)
    thin = near[edge[:, 1], edge[:, 0]] == 0  # a handle, for one
    edge, edge_outward = edge[thin], edge_outward[thin]
    moved = np.rint(edge - pixels * edge_outward).astype(np.int64)
    return np.vstack([traced, moved]), np.vstack([outward, edge_outward]), pixels


def _contours(region: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the outer contours' (M, 2) pixels x, y, and the unit vectors out of the region."""
    padded = add_border(region, 1)
    found, _ = cv2.findContours(padded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    longest = max(map(len, found))
    traced, normals = [], []
    for contour in (each[:, 0].astype(np.int64) for each in found):
        if len(contour) < SMALL * longest:
            continue
        around = np.arange(len(contour))
        ahead, behind = (around + 3) % len(contour), (around - 3) % len(contour)
        along = contour[ahead] - contour[behind]
        size = np.maximum(np.hypot(*along.T), 1)
        traced.append(contour - 1)
        # OpenCV walks outer contours against the clock, with the region on the left.
        normals.append(np.column_stack([-along[:, 1], along[:, 0]]) / size[:, None])
    return np.concatenate(traced), np.concatenate(normals)


def _outline_depth(
    outline: npt.NDArray[np.int64], surface: ObjectSurface, view: RegionOfInterest
) -> Depth:
    """Return the (M,) depths of outline pixels, medians of the valid ones around each.

    Where the mask is wider than the object, that is the depth of what lies behind: a value much
    farther than that of the surface nearby is not used. A much nearer one is: the outer wall of a
    bowl, too narrow to be a surface of its own, before its floor.
    """
    height, width = view.mask.shape
    x, y = (outline[:, i] + AROUND[:, i, None] for i in (0, 1))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    level = surface.level[outline[:, 1], outline[:, 0]]
    depth = view.depth[y, x]
    usable = inside & view.valid[y, x] & surface.region[y, x] & (depth < (1 + ALIKE) * level)
    measured = np.sort(np.where(usable, depth, np.inf), axis=0)
    count = usable.sum(axis=0)
    middle = np.take_along_axis(measured, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    return np.where(count > 0, middle, level).astype(np.float32)


def _average_along(values: npt.NDArray[Any]) -> Floats:
    """Average each value of a closed outline with neighbours of similar value."""
    shifts = np.arange(-NEIGHBOURS, NEIGHBOURS + 1)[:, None]
    near = values[(np.arange(len(values)) + shifts) % len(values)].astype(np.float64)
    alike = np.abs(near - values) < ALIKE * values
    return np.asarray((near * alike).sum(axis=0) / alike.sum(axis=0))


def _average_patches(surface: ObjectSurface) -> tuple[Floats, Floats, float]:
    """Average square patches of the surface, separately for each piece.

    Returns:
        (P, 2) middle pixels x and y, (P,) inverse depths, and the relative standard deviation of
        such an average.
    """
    rows, columns = np.nonzero(surface.surface)
    side = max(2, round(float(np.sqrt(len(rows) / PATCHES))))
    across = surface.surface.shape[1] // side + 1
    down = surface.surface.shape[0] // side + 1
    piece = surface.pieces[rows, columns].astype(np.int64)
    key = (piece * down + rows // side) * across + columns // side
    _, place, counts = np.unique(key, return_inverse=True, return_counts=True)
    depth = surface.depth[rows, columns].astype(np.float64)
    sums = (np.bincount(place, values) / counts for values in (columns, rows, 1 / depth))
    x, y, inverse = sums
    kept = counts >= 0.4 * side * side
    if not kept.any():
        kept[:] = True
    off = depth * inverse[place] - 1
    spread = float(np.sqrt(np.mean(off**2))) / side
    return np.column_stack([x, y])[kept], inverse[kept], spread


def _is_hidden(
    outline: npt.NDArray[np.int64],
    outward: Floats,
    points: Floats,
    view: RegionOfInterest,
    depth: Depth,
    plane: Plane | None,
) -> Mask:
    """Return (M,) whether what lies beyond each outline point is nearer than the object."""
    steps = np.array(BEYOND, np.float64)[:, None, None]
    blocks = outline + steps * outward
    u = np.rint(blocks[..., 0] * view.step + view.left).astype(np.int64)
    v = np.rint(blocks[..., 1] * view.step + view.top).astype(np.int64)
    height, width = depth.shape
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    z = depth[np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)].astype(np.float64)
    valid = inside & np.isfinite(z) & (z > 0)
    z = np.where(valid, z, np.inf)
    count = valid.sum(axis=0)
    ordered = np.sort(z, axis=0)
    beyond = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    own = points[:, 2]
    nearer = (count >= 1) & (beyond < own - np.maximum(NEARER[0], NEARER[1] * own))
    if plane is not None:
        there = points * np.where(nearer, beyond / own, 1.0)[:, None]
        nearer &= plane.heights(there) > NEARER[0] + 0.5 * NEARER[1] * own
    return np.asarray(nearer)
