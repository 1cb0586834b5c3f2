# SPDX-License-Identifier: Apache-2.0
"""A seeded tabletop scene: image, exact depth, exact masks, exact surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from segzero_core.errors import SceneError
from segzero_core.registry import look_up
from segzero_core.synthetic.camera import Camera
from segzero_core.synthetic.layout import (
    COLOURS,
    Standing,
    arrange,
    between,
    choose,
    integer,
    random_camera,
    random_kinds,
    random_lighting,
)
from segzero_core.synthetic.queries import Query, QueryObject, queries
from segzero_core.synthetic.render import (
    Placed,
    RenderLayer,
    blur,
    cast,
    compose,
    develop,
    table_layer,
)
from segzero_core.synthetic.shapes import SHAPES
from segzero_core.synthetic.tabletops import TABLES
from segzero_core.types import Image, Intrinsics, Mask, Size

VERSION = 2  # increased when a seed gives another scene or other sentences than before

_CROWDING = 0.4  # about 17 % of the objects are partly hidden, 6 % by more than a tenth
_MIN_VISIBLE = 0.55  # objects with a smaller visible share are removed
_MOST = 255  # objects, because instance ids are bytes


@dataclass(frozen=True)
class SceneObject:
    """An object on the table.

    Attributes:
        shape: One of ``SHAPES``.
        colour: One of ``COLOURS``.
        size: One of ``SIZES``.
        position: (3,) foot of the object in the world frame (table z = 0), metres.
        height: Height of the object, metres.
        visible: Visible share of the object's silhouette, 0 to 1.
        placed: Geometry and pose of the object.
    """

    shape: str
    colour: str
    size: str
    position: tuple[float, float, float]
    height: float
    visible: float
    placed: Placed = field(repr=False, compare=False)


@dataclass(frozen=True)
class Scene:
    """A rendered tabletop.

    Attributes:
        seed: Seed of the scene.
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32, metres along the optical axis, exact everywhere.
        instances: (H, W) uint8; 0 is the table, ``i + 1`` is ``objects[i]``.
        objects: The objects on the table.
        camera: Pose and intrinsics.
        table: Name of the table top.
    """

    seed: int
    image: Image = field(repr=False)
    depth: npt.NDArray[np.float32] = field(repr=False)
    instances: npt.NDArray[np.uint8] = field(repr=False)
    objects: tuple[SceneObject, ...]
    camera: Camera
    table: str

    @property
    def intrinsics(self) -> Intrinsics:
        """Of the camera."""
        return self.camera.intrinsics

    def mask(self, i: int) -> Mask:
        """Return the exact visible mask (H, W) of ``objects[i]``."""
        return self.instances == i + 1

    def surface_distance(self, i: int, point: npt.ArrayLike) -> float:
        """Return the distance in metres from a point to the surface of ``objects[i]``.

        The distance is exact for points outside the object. For a point inside an object of
        several solids (a mug and its handle), the result never exceeds the distance to the outer
        surface.

        Args:
            i: Index into ``objects``.
            point: (3,) in the camera optical frame, metres.
        """
        placed = self.objects[i].placed
        world = self.camera.to_world(np.asarray(point, np.float64)[None])
        local = placed.to_local(world)
        return float(min(part.solid.distance(local)[0] for part in placed.model.parts))

    def extent(self, i: int, direction: npt.ArrayLike) -> float:
        """Return the exact extent of ``objects[i]`` along a direction, hidden parts included.

        Args:
            i: Index into ``objects``.
            direction: (3,) vector in the camera optical frame; any length except 0.

        Returns:
            The extent in metres.
        """
        placed = self.objects[i].placed
        world = self.camera.rotation @ np.asarray(direction, np.float64)
        local = placed.turn(world / np.linalg.norm(world))
        solids = [part.solid for part in placed.model.parts]
        return max(s.reach(local) for s in solids) + max(s.reach(-local) for s in solids)

    def queries(self) -> list[Query]:
        """Return all sentences that have exactly one answer in the scene, in a fixed order."""
        things = [self._thing(i) for i in range(len(self.objects))]
        # A separate random stream keeps the wordings independent of the rendering.
        return queries(things, np.random.Generator(np.random.PCG64([self.seed, 1])))

    def _thing(self, i: int) -> QueryObject:
        item = self.objects[i]
        width = self.camera.size.width
        rows, columns = np.nonzero(self.mask(i))
        right, ahead = self.camera.rotation[:2, 0], self.camera.rotation[:2, 2]
        foot = np.asarray(item.position[:2]) - self.camera.position[:2]
        return QueryObject(
            shape=item.shape,
            colour=item.colour,
            size=item.size,
            visible=item.visible,
            centre=(columns.mean() / width, rows.mean() / width),
            extent=((np.ptp(columns) + 1) / width, (np.ptp(rows) + 1) / width),
            area=len(rows) / width**2,
            ground=(float(foot @ right), float(foot @ (ahead / np.linalg.norm(ahead)))),
            height=item.height,
            volume=item.placed.model.radius**2 * item.height,
        )


def make_scene(
    seed: int,
    size: Size = Size(640, 480),  # noqa: B008 (immutable)
    count: tuple[int, int] = (4, 7),
    shapes: Sequence[str] = SHAPES,
    colours: Sequence[str] = tuple(COLOURS),
    tables: Sequence[str] = tuple(TABLES),
    crowding: float = _CROWDING,
) -> Scene:
    """Make the tabletop that belongs to ``seed``.

    The same arguments give the same scene everywhere; pixels may differ by rounding between
    numpy builds.

    Args:
        seed: Any non-negative integer.
        size: Size of the image in pixels; use about 4:3 or a square.
        count: Minimum and maximum number of objects to place. An object that finds no place or
            is mostly hidden is left out.
        shapes: Subset of ``SHAPES`` to choose from.
        colours: Subset of ``COLOURS`` to choose from.
        tables: Subset of ``TABLES`` to choose from.
        crowding: Probability that an object stands directly in front of or behind another, 0 to 1.

    Raises:
        UnknownNameError: There is no such shape, colour or table.
        SceneError: An argument is out of range, or no colour is visible on any of the tables.
    """
    _check(seed, size, count, shapes, colours, tables)
    if not 0 <= crowding <= 1:
        raise SceneError(f'crowding is {crowding}; it is a probability from 0 to 1')
    rng = np.random.Generator(np.random.PCG64(seed))
    usable = [table for table in tables if set(colours) - TABLES[table]]
    table = choose(rng, usable)
    camera = random_camera(rng, size)
    lighting = random_lighting(rng, camera)
    palette = [colour for colour in colours if colour not in TABLES[table]]
    kinds = random_kinds(rng, integer(rng, *count), shapes, palette)
    standing = arrange(rng, camera, kinds, crowding)
    layers = [cast(camera, thing.placed, lighting) for thing in standing]
    standing, layers, visible = _without_hidden(camera, standing, layers)
    depth, ids, colour = compose(camera, layers)
    pattern = (between(rng, 0, 1), between(rng, 0, 1), between(rng, 0, 2 * np.pi))
    placed = [thing.placed for thing in standing]
    table_depth, table_light = table_layer(camera, table, pattern, placed, lighting, ids == 0)
    light = np.empty((size.height, size.width, 3), np.float32)
    light[ids == 0] = table_light
    for number, pixels in enumerate(colour, start=1):
        light[ids == number] = pixels
    return Scene(
        seed=seed,
        image=develop(light, lighting, rng),
        depth=np.minimum(depth, table_depth).astype(np.float32),
        instances=ids,
        objects=tuple(map(_object, standing, visible)),
        camera=camera,
        table=table,
    )


def noisy_depth(
    scene: Scene, rng: np.random.Generator, noise: float = 0.01, invalid: float = 0.05
) -> npt.NDArray[np.float32]:
    """Return the scene's depth with the errors of a real sensor.

    Args:
        scene: The scene.
        rng: Source of the noise.
        noise: Standard deviation as a share of the depth (0.01 is 7 mm at 0.7 m).
        invalid: Share of the pixels without a measurement (value 0). Half of them are in patches
            and half at depth edges, where stereo and structured light fail.
    """
    depth = scene.depth
    shape = depth.shape
    measured = depth * (1 + np.float32(noise) * rng.standard_normal(shape, dtype=np.float32))
    coarse = rng.standard_normal((shape[0] // 8 + 2, shape[1] // 8 + 2), dtype=np.float32)
    patches = np.kron(blur(coarse), np.ones((8, 8), np.float32))[: shape[0], : shape[1]]
    measured[patches > np.quantile(patches, 1 - invalid / 2)] = 0
    down, right = np.gradient(depth)
    step = np.hypot(down, right) / depth
    step = step * (0.5 + rng.random(shape, dtype=np.float32))
    measured[step > np.quantile(step, 1 - invalid / 2)] = 0
    return measured


def _check(
    seed: int,
    size: Size,
    count: tuple[int, int],
    shapes: Sequence[str],
    colours: Sequence[str],
    tables: Sequence[str],
) -> None:
    for kind, given, known in (
        ('shape', shapes, SHAPES),
        ('colour', colours, COLOURS),
        ('table', tables, TABLES),
    ):
        if not given:
            raise SceneError(f'no {kind} to choose from; name some of: {", ".join(known)}')
        for name in given:
            look_up(kind, name, known)
    if seed < 0:
        raise SceneError(f'the seed is {seed}; it must not be negative')
    if min(size) < 1:
        raise SceneError(f'the image is {size[0]} x {size[1]} pixels; it needs at least one')
    if not 0 <= count[0] <= count[1] <= _MOST:
        raise SceneError(f'count is {count}; it must be two rising numbers from 0 to {_MOST}')
    if not any(set(colours) - TABLES[table] for table in tables):
        raise SceneError(
            f'none of the colours {", ".join(colours)} shows on {", ".join(tables)}; '
            'allow another colour or table'
        )


def _object(standing: Standing, visible: float) -> SceneObject:
    x, y, z = standing.placed.position.tolist()
    return SceneObject(
        *standing.kind,
        position=(x, y, z),
        height=standing.placed.model.height,
        visible=visible,
        placed=standing.placed,
    )


def _without_hidden(
    camera: Camera, standing: list[Standing], layers: list[RenderLayer]
) -> tuple[list[Standing], list[RenderLayer], list[float]]:
    """Remove the most hidden object until all are visible enough; also return visible shares."""
    while True:
        _, ids, _ = compose(camera, layers)
        seen = np.bincount(ids.ravel(), minlength=len(layers) + 1)[1:]
        whole = [int(np.isfinite(layer.depth).sum()) for layer in layers]
        visible = [float(s / max(w, 1)) for s, w in zip(seen, whole, strict=True)]
        if min(visible, default=1.0) >= _MIN_VISIBLE:
            return standing, layers, visible
        worst = int(np.argmin(visible))
        standing = standing[:worst] + standing[worst + 1 :]
        layers = layers[:worst] + layers[worst + 1 :]
