# SPDX-License-Identifier: Apache-2.0
"""Ray-casts a table of objects into colour, exact depth and exact masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from segzero_core.synthetic.camera import Camera
from segzero_core.synthetic.shapes import Model
from segzero_core.synthetic.solids import Floats
from segzero_core.synthetic.tabletops import sample, texture
from segzero_core.types import Image


@dataclass(frozen=True)
class Placed:
    """A model at a position on the table.

    Attributes:
        model: Geometry of the object.
        albedo: (3,) linear-light colour.
        position: (3,) foot of the object in the world frame, metres.
        yaw: Rotation about the vertical axis, radians.
    """

    model: Model
    albedo: Floats
    position: Floats
    yaw: float

    def to_local(self, points: Floats) -> Floats:
        """Turn (N, 3) or (3,) world points into the model's frame."""
        return self.turn(points - self.position)

    def turn(self, vectors: Floats) -> Floats:
        """Turn (N, 3) or (3,) world directions into the model's frame."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return vectors @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Lighting:
    """A soft sky and one lamp.

    Attributes:
        lamp: (3,) unit vector towards the lamp, world frame.
        key: Strength of the lamp.
        sky: Strength of the ambient light.
        tint: (3,) exposure and white balance.
        noise: Standard deviation of the sensor noise at mid grey, 0 to 1.
    """

    lamp: Floats
    key: float
    sky: float
    tint: Floats
    noise: float


class RenderLayer(NamedTuple):
    """The rendering of a single object, in the image window that contains it."""

    rows: slice
    columns: slice
    depth: Floats  # (h, w), inf where the object is not
    colour: Floats  # (h, w, 3) linear light


_PENUMBRA = 0.006  # metres: width of a shadow's soft edge
_CONTACT = 0.014  # metres: range in which an object hides the sky from the table
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], np.float64)

_Field = TypeVar('_Field', npt.NDArray[np.float32], npt.NDArray[np.float64])
Window = tuple[slice, slice]  # rows, columns


def window(camera: Camera, placed: Placed) -> Window:
    """Return the rows and columns of the image that the object's bounding cylinder covers."""
    radius, height = placed.model.radius, placed.model.height
    uv = camera.project(_CORNERS * [radius, radius, height] + placed.position)
    low = np.maximum(np.floor(uv.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(uv.max(0)).astype(int) + 1, camera.size)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def cast(camera: Camera, placed: Placed, lighting: Lighting) -> RenderLayer:
    """Ray-cast and shade one object."""
    rows, columns = window(camera, placed)
    rays = camera.rays(rows, columns)
    direction, origin = placed.turn(rays), placed.to_local(camera.position)
    t = np.full(len(rays), np.inf)
    colour = np.zeros((len(rays), 3))
    for part in placed.model.parts:
        t_part = part.solid.hit(origin, direction)
        seen = np.flatnonzero(t_part < t)
        t[seen] = t_part[seen]
        points = origin + t[seen, None] * direction[seen]
        normal, light = part.solid.surface(points)
        albedo = part.shade * ((1 - part.whiten) * placed.albedo + part.whiten * 0.45)
        shading = _shade(placed, lighting, normal, light, origin - points)
        colour[seen] = shading[0][:, None] * albedo + shading[1][:, None]
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    return RenderLayer(rows, columns, t.reshape(shape), colour.reshape(*shape, 3))


def _shade(
    placed: Placed, lighting: Lighting, normal: Floats, light: Floats, view: Floats
) -> tuple[Floats, Floats]:
    """Return (N,) matte light (Lambert and a hemispherical sky) and Blinn-Phong highlights."""
    lamp = placed.turn(lighting.lamp)
    half = view / np.linalg.norm(view, axis=1, keepdims=True) + lamp
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    diffuse = lighting.key * np.maximum(normal @ lamp, 0)
    sky = lighting.sky * (0.65 + 0.35 * normal[:, 2])
    highlight = np.maximum((normal * half).sum(1), 0) ** 40
    return (diffuse + sky) * light, highlight * placed.model.gloss * lighting.key * light


def compose(
    camera: Camera, layers: list[RenderLayer]
) -> tuple[Floats, npt.NDArray[np.uint8], list[Floats]]:
    """Lay the objects over one another by depth.

    Returns:
        Depth (H, W) with ``inf`` on the table, instance ids (H, W) with 0 on the table, and the
        colours (N, 3) of each object's visible pixels in row-major order.
    """
    shape = (camera.size.height, camera.size.width)
    depth, ids = np.full(shape, np.inf), np.zeros(shape, np.uint8)
    for number, layer in enumerate(layers, start=1):
        part = (layer.rows, layer.columns)
        nearer = layer.depth < depth[part]
        depth[part] = np.where(nearer, layer.depth, depth[part])
        ids[part] = np.where(nearer, np.uint8(number), ids[part])
    colours = [
        layer.colour[ids[layer.rows, layer.columns] == number]
        for number, layer in enumerate(layers, start=1)
    ]
    return depth, ids, colours


def table_layer(
    camera: Camera,
    table: str,
    pattern: tuple[float, float, float],
    objects: list[Placed],
    lighting: Lighting,
    where: npt.NDArray[np.bool_],
) -> tuple[Floats, npt.NDArray[np.float32]]:
    """Return the table's (H, W) depth and its (N, 3) linear colour at the pixels in ``where``.

    Args:
        camera: The camera.
        table: Name of the table top.
        pattern: Offset (x, y) in metres and turn in radians of the texture.
        objects: The objects that cast shadows.
        lighting: The lighting.
        where: (H, W) bool.
    """
    full = slice(0, camera.size.height), slice(0, camera.size.width)
    rays = camera.rays(*full)
    depth = -camera.position[2] / rays[:, 2]
    seen = where.ravel()
    ground = camera.position[:2] + depth[seen, None] * rays[seen, :2]
    c, s = np.cos(pattern[2]), np.sin(pattern[2])
    texel = np.linalg.norm(camera.position) / camera.intrinsics.fx
    level = int(np.clip(np.round(np.log2(texel / 0.002)), 0, 4))
    albedo = sample(
        texture(table, level),
        c * ground[:, 0] - s * ground[:, 1] + pattern[0],
        s * ground[:, 0] + c * ground[:, 1] + pattern[1],
    )
    lit = _table_light(objects, lighting, 1.5 * texel, ground)
    return depth.reshape(where.shape), albedo * lit[:, None]


def _table_light(
    objects: list[Placed], lighting: Lighting, step: float, ground: Floats
) -> npt.NDArray[np.float32]:
    """Return the light at (N, 2) table points: soft cast shadows and contact shadows.

    Shadow rays start from a grid of table points, ``step`` metres apart, around the objects.
    """
    upright = lighting.key * lighting.lamp[2]
    light = np.full(len(ground), upright + lighting.sky, np.float32)
    if not objects:
        return light
    spans = np.array([_shadow_span(placed, lighting) for placed in objects])
    low, high = spans[:, 0].min(0), spans[:, 1].max(0)
    count = np.ceil((high - low) / step).astype(int) + 1
    x, y = low[0] + step * np.arange(count[0]), low[1] + step * np.arange(count[1])
    lamp, sky = np.ones((len(y), len(x))), np.ones((len(y), len(x)))
    for placed, (near, far) in zip(objects, spans, strict=True):
        i = slice(*np.searchsorted(x, (near[0], far[0])))
        j = slice(*np.searchsorted(y, (near[1], far[1])))
        gx, gy = np.meshgrid(x[i], y[j])
        points = np.column_stack([gx.ravel(), gy.ravel(), np.zeros(gx.size)])
        lit, contact = _shadow(placed, lighting, points)
        lamp[j, i] *= lit.reshape(gx.shape)
        sky[j, i] *= contact.reshape(gx.shape)
    for _ in range(max(1, round((_PENUMBRA / step) ** 2))):
        lamp = blur(lamp)
    grid = (upright * lamp + lighting.sky * sky).astype(np.float32)
    u, v = (ground[:, 0] - low[0]) / step, (ground[:, 1] - low[1]) / step
    inside = (u >= 0) & (u < count[0] - 1) & (v >= 0) & (v < count[1] - 1)
    light[inside] = _bilinear(grid, u[inside], v[inside])
    return light


def _shadow_span(placed: Placed, lighting: Lighting) -> tuple[Floats, Floats]:
    """Return the corners (x, y) of the table area that an object's shadows can reach."""
    foot, reach = placed.position[:2], placed.model.radius + _CONTACT * 4
    tip = foot - lighting.lamp[:2] / lighting.lamp[2] * placed.model.height
    return np.minimum(foot, tip) - reach, np.maximum(foot, tip) + reach


def _shadow(placed: Placed, lighting: Lighting, points: Floats) -> tuple[Floats, Floats]:
    """Return the shares of lamp light and sky light that reach table points past an object."""
    local = placed.to_local(points)
    towards = np.broadcast_to(placed.turn(lighting.lamp), local.shape)
    lit = np.ones(len(local))
    for part in placed.model.parts:
        lit[np.isfinite(part.solid.hit(local, towards))] = 0
    gap = np.maximum(np.hypot(local[:, 0], local[:, 1]) - placed.model.footprint, 0)
    return lit, 1 - 0.45 * np.exp(-gap / _CONTACT)


def _bilinear(grid: npt.NDArray[np.float32], u: Floats, v: Floats) -> npt.NDArray[np.float32]:
    i, j = u.astype(np.int64), v.astype(np.int64)
    fu, fv = (u - i).astype(np.float32), (v - j).astype(np.float32)
    top = grid[j, i] * (1 - fu) + grid[j, i + 1] * fu
    low = grid[j + 1, i] * (1 - fu) + grid[j + 1, i + 1] * fu
    return np.asarray(top * (1 - fv) + low * fv, np.float32)


def blur(field: _Field, side: float = 0.25) -> _Field:
    """Smooth an (H, W, ...) array with the kernel (side, 1 - 2 side, side) both ways."""
    for axis in (0, 1):
        a = np.moveaxis(field, axis, 0)
        out = a * (1 - 2 * side)
        out[1:] += side * a[:-1]
        out[:-1] += side * a[1:]
        out[0] += side * a[0]
        out[-1] += side * a[-1]
        field = np.moveaxis(out, 0, axis)
    return field


def develop(light: npt.NDArray[np.float32], lighting: Lighting, rng: np.random.Generator) -> Image:
    """Turn (H, W, 3) linear light into the camera's 8-bit image: lens, exposure, noise, gamma."""
    light = blur(light, side=0.12) * lighting.tint.astype(np.float32)
    height, width = light.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    light *= (1 - 0.09 * (x * x + y * y))[..., None]
    value = np.sqrt(np.clip(light, 0, 1))  # gamma 2.0
    value += np.float32(lighting.noise) * rng.standard_normal(value.shape, dtype=np.float32)
    return (np.clip(value, 0, 1) * 255 + 0.5).astype(np.uint8)
