# SPDX-License-Identifier: Apache-2.0
"""Mask + depth + calibration -> where in space to reach, and how wide the object is.

    mask, depth -> roi -> object_surface -> visible_points -> gripper_width -> hollow -> target
           depth around the mask -> support_plane ------------^

Everything is in the camera optical frame (REP 103: x right, y down, z forward), in metres. The
depth image is registered to the colour image: same size, same pixel, same ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segzero_core.errors import TargetError
from segzero_core.grasping.camera_model import Distortion, Floats, check_lens, rays
from segzero_core.grasping.gripper_width import (
    Bound,
    GripperWidth,
    measure_width,
    principal_axis,
)
from segzero_core.grasping.hollow import is_hollow, rim_pixel
from segzero_core.grasping.local_plane import local_depth, local_normal
from segzero_core.grasping.object_surface import ObjectSurface, find_surface
from segzero_core.grasping.oriented_box import OrientedBox, enclose
from segzero_core.grasping.roi import Depth, Pixel, look_at
from segzero_core.grasping.support_plane import find_support
from segzero_core.grasping.visible_points import sample_points
from segzero_core.types import Intrinsics, Mask, Point

Metres = tuple[float, float, float]
Direction = tuple[float, float, float]
Grasp = Literal['body', 'rim']


@dataclass(frozen=True)
class GraspTarget:
    """Where to reach, and how wide the object is.

    Positions are metres and directions unit vectors in the camera optical frame, unless
    ``frame_id`` is set.

    Attributes:
        point: The best point to grasp, on the object's visible surface.
        points: The reasoner's points, each moved to the nearest pixel of the object that has a
            trustworthy depth.
        pixel: Pixel of ``point``, on the mask.
        pixels: Pixels of ``points``, on the mask.
        width: Metres from end to end of the whole object along ``closing_vector``; ``None`` where
            it cannot be known.
        width_bound: ``measured``, or ``lower`` where a part may be out of sight: the object is at
            least so wide. ``None`` without ``width``.
        width_reason: Why there is no ``width``.
        closing: Unit vector in the image (x, y), x >= 0, as which ``closing_vector`` shows.
            ``None`` without ``width``.
        closing_vector: Direction in space along which two jaws would close. ``None`` without
            ``width``.
        grasp: ``body``: the jaws close around the object, which takes an opening of ``width``.
            ``rim``: the object is hollow and ``point`` lies on its rim or wall, so that the jaws
            can also close across the wall there, along the same direction.
        normal: Of the surface at ``point``, towards the camera.
        box: The oriented box of the visible part.
        axis: Unit vector in the image (x, y), x >= 0, along which the object is longest;
            ``None`` if it is about as wide as long.
        depth_share: Share of the mask that has a depth in range.
        cut_at_border: Whether the mask reaches the image's border.
        frame_id: Of positions and directions, where it is not the camera's.
    """

    point: Metres
    points: tuple[Metres, ...]
    pixel: Point
    pixels: tuple[Point, ...]
    width: float | None = None
    width_bound: Bound | None = None
    width_reason: TargetError | None = None
    closing: Point | None = None
    closing_vector: Direction | None = None
    grasp: Grasp = 'body'
    normal: Direction | None = None
    box: OrientedBox | None = None
    axis: Point | None = None
    depth_share: float = 1.0
    cut_at_border: bool = False
    frame_id: str | None = None


def find_target(
    mask: Mask,
    depth: Depth,
    intrinsics: Intrinsics,
    points: Sequence[Point],
    depth_range: tuple[float, float] = (0.1, 10.0),
    min_valid: float = 0.2,
    distortion: Distortion | None = None,
) -> GraspTarget:
    """Find the metric points and the width of the object that ``mask`` shows.

    The best point of a solid object is the reasoner's point that lies deepest inside it; when
    both lie near its outline it is the centre of the largest circle that fits the object's
    surface. A hollow object is grasped at its rim. All are pixels of the mask with a depth that
    belongs to the object, so that rings and hooks are not missed.

    Args:
        mask: (H, W) bool.
        depth: (H, W) float32, metres along the optical axis; 0, NaN and infinity are invalid.
        intrinsics: Of the camera, in pixels of ``mask``.
        points: The reasoner's points, in pixels of ``mask``.
        depth_range: Nearest and farthest depth to believe, metres.
        min_valid: Share of the object, and of each point's surroundings, that must have depth.
        distortion: Of the lens; ``None`` for rectified images.

    Raises:
        TargetError: There is none; its ``kind`` and message say why.
        CalibrationError: ``intrinsics`` or ``distortion`` cannot be used.
    """
    check_lens(intrinsics, distortion)
    _check(mask, depth)
    view = look_at(mask, depth, depth_range, min_valid)
    lens = view.lens(intrinsics)
    surface = find_surface(view, lens, min_valid)
    plane = find_support(mask, depth, intrinsics, depth_range, distortion)
    seen = sample_points(surface, view, depth, lens, plane, distortion)
    up = None if plane is None else plane.normal
    width = measure_width(seen, up)
    pixels = [_nearest(surface.surface, *view.to_blocks(point)) for point in points]
    known = width if isinstance(width, GripperWidth) else None
    hollow = known is not None and is_hollow(surface, known.metres)
    best = _best(pixels, surface)
    if known is not None and hollow:
        best = rim_pixel(surface, seen, known)
    places = _locate([best, *pixels], surface, lens, distortion)
    named = [view.to_image(pixel) for pixel in (best, *pixels)]
    return GraspTarget(
        point=places[0],
        points=tuple(places[1:]),
        pixel=named[0],
        pixels=tuple(named[1:]),
        width=None if known is None else known.metres,
        width_bound=None if known is None else known.bound,
        width_reason=None if isinstance(width, GripperWidth) else width,
        closing=None if known is None else _in_image(known.closing, places[0], intrinsics),
        closing_vector=None if known is None else _direction(known.closing),
        grasp='rim' if hollow else 'body',
        normal=_direction(local_normal(best, surface, lens, distortion)),
        box=enclose(seen, None if known is None else known.closing, up),
        axis=principal_axis(surface.region),
        depth_share=float(np.count_nonzero(view.valid) / np.count_nonzero(view.mask)),
        cut_at_border=bool(seen.cut.any()),
    )


def _check(mask: Mask, depth: Depth) -> None:
    if depth.shape != mask.shape:
        raise TargetError(
            'size_mismatch',
            f'depth is {depth.shape[1]} x {depth.shape[0]} pixels, the image is '
            f'{mask.shape[1]} x {mask.shape[0]}: use depth registered to the image',
        )
    if not mask.any():
        raise TargetError('empty_mask', 'the mask has no pixel')


def _locate(
    pixels: Sequence[Pixel],
    surface: ObjectSurface,
    lens: Intrinsics,
    distortion: Distortion | None,
) -> list[Metres]:
    """Return where in space the surface pixels are."""
    lines = rays([pixel[::-1] for pixel in pixels], lens, distortion)
    depths = [local_depth(pixel, surface) for pixel in pixels]
    return [(float(x * z), float(y * z), z) for (x, y), z in zip(lines, depths, strict=True)]


def _in_image(direction: Floats, point: Metres, lens: Intrinsics) -> Point:
    """Return the unit vector in the image, x >= 0, as which a direction at a point shows."""
    (dx, dy, dz), (x, y, z) = direction, point
    u, v = lens.fx * (dx * z - x * dz), lens.fy * (dy * z - y * dz)
    size = float(np.hypot(u, v)) or 1.0
    sign = -1.0 if u < 0 else 1.0
    return Point(sign * float(u) / size, sign * float(v) / size)


def _direction(vector: Floats) -> Direction:
    x, y, z = vector.tolist()
    return x, y, z


def _best(pixels: Sequence[Pixel], surface: ObjectSurface) -> Pixel:
    """Return the pixel to grasp: the deepest inside of ``pixels``, or of all the surface."""
    flat = int(np.argmax(np.where(surface.surface, surface.clearance, -1.0)))
    row, column = divmod(flat, surface.surface.shape[1])
    if pixels:
        deepest = max(pixels, key=lambda pixel: surface.clearance[pixel])
        if surface.clearance[deepest] >= surface.clearance[row, column] / 3:
            return deepest
    return row, column


def _nearest(surface: Mask, x: float, y: float) -> Pixel:
    """Return the surface pixel nearest to a point."""
    rows, columns = np.nonzero(surface)
    i = int(np.argmin((columns - x) ** 2 + (rows - y) ** 2))
    return int(rows[i]), int(columns[i])
