# SPDX-License-Identifier: Apache-2.0
"""A seeded tabletop scene: image, exact depth, exact masks, exact surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from segzero_core.synthetic.camera import Camera, look_at_table
from segzero_core.synthetic.queries import Query, Thing, queries
from segzero_core.synthetic.render import (
    Layer,
    Lighting,
    Placed,
    Window,
    blur,
    cast,
    compose,
    develop,
    table_layer,
    window,
)
from segzero_core.synthetic.shapes import SHAPES, SIZES, build
from segzero_core.synthetic.solids import Floats
from segzero_core.synthetic.tables import TABLES
from segzero_core.types import Image, Intrinsics, Mask, Size

# Display (gamma 2.0) values, 0 to 255.
COLOURS: dict[str, tuple[int, int, int]] = {
    'black': (38, 38, 42),
    'blue': (38, 82, 190),
    'brown': (112, 68, 40),
    'green': (42, 140, 62),
    'orange': (238, 118, 24),
    'pink': (238, 138, 172),
    'purple': (118, 54, 158),
    'red': (196, 32, 36),
    'white': (234, 234, 230),
    'yellow': (242, 204, 44),
}

_MIN_VISIBLE = 0.55  # objects hidden more than this are taken off the table
_MAX_DISTANCE = 1.35  # of the distance the camera looks at
_MAX_OVERLAP = 0.35  # of the smaller of two objects' windows


@dataclass(frozen=True)
class SceneObject:
    """What stands on the table.

    Attributes:
        shape: One of ``SHAPES``.
        colour: One of ``COLOURS``.
        size: One of ``SIZES``.
        position: (3,) of its foot in the world frame (table z = 0), metres.
        height: Metres.
        visible: Share of the object's silhouette that nothing hides.
        placed: Its geometry.
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
        seed: What it was made from.
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32, metres along the optical axis, exact everywhere.
        instances: (H, W) uint8; 0 is the table, ``i + 1`` is ``objects[i]``.
        objects: What stands on the table.
        camera: Pose and intrinsics.
        table: Name of the table top.
    """

    seed: int
    image: Image
    depth: npt.NDArray[np.float32]
    instances: npt.NDArray[np.uint8]
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

        Exact for points outside the object. Inside one that has several solids (a mug and its
        handle) it never exceeds the distance to the outer surface.

        Args:
            i: Index into ``objects``.
            point: (3,) in the camera optical frame, metres.
        """
        placed = self.objects[i].placed
        world = self.camera.to_world(np.asarray(point, np.float64)[None])
        local = placed.to_local(world)
        return float(min(part.solid.distance(local)[0] for part in placed.model.parts))

    def queries(self) -> list[Query]:
        """Return every sentence the scene has exactly one answer to, in a fixed order."""
        things = [self._thing(i) for i in range(len(self.objects))]
        # A stream of its own: the wordings do not depend on how the picture was drawn.
        return queries(things, np.random.Generator(np.random.PCG64([self.seed, 1])))

    def _thing(self, i: int) -> Thing:
        item = self.objects[i]
        width = self.camera.size.width
        rows, columns = np.nonzero(self.mask(i))
        right, ahead = self.camera.rotation[:2, 0], self.camera.rotation[:2, 2]
        foot = np.asarray(item.position[:2]) - self.camera.position[:2]
        return Thing(
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
) -> Scene:
    """Make the tabletop that belongs to ``seed``.

    The same arguments give the same scene everywhere; pixels may differ by rounding between
    numpy builds.

    Args:
        seed: Any non-negative integer.
        size: Of the image; 4:3 or square look best.
        count: Fewest and most objects to place. Those hidden too much are taken away again.
        shapes: Subset of ``SHAPES`` to choose from.
        colours: Subset of ``COLOURS`` to choose from.
        tables: Subset of ``TABLES`` to choose from.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    table = _choose(rng, tables)
    camera = look_at_table(
        size,
        focal=_between(rng, 0.88, 1.0) * min(1.0, size.height / size.width * 4 / 3),
        distance=_between(rng, 0.62, 0.78),
        pitch=np.radians(_between(rng, 32, 52)),
        heading=_between(rng, 0, 2 * np.pi),
        roll=np.radians(_between(rng, -3, 3)),
    )
    lighting = _lighting(rng, camera)
    palette = [c for c in colours if c not in TABLES[table]]
    wanted = _cast_list(rng, _integer(rng, *count), shapes, palette)
    placed, kept = _arrange(rng, camera, wanted)
    layers = [cast(camera, p, lighting) for p in placed]
    placed, kept, layers, visible = _drop_hidden(camera, placed, kept, layers)
    depth, ids, colour = compose(camera, layers)
    pattern = (_between(rng, 0, 1), _between(rng, 0, 1), _between(rng, 0, 2 * np.pi))
    table_depth, table_light = table_layer(camera, table, pattern, placed, lighting, ids == 0)
    light = np.empty((size.height, size.width, 3), np.float32)
    light[ids == 0] = table_light
    for number, pixels in enumerate(colour, start=1):
        light[ids == number] = pixels
    objects = tuple(
        SceneObject(shape, name, big, _triple(p.position), p.model.height, share, p)
        for (shape, name, big), p, share in zip(kept, placed, visible, strict=True)
    )
    return Scene(
        seed=seed,
        image=develop(light, lighting, rng),
        depth=np.minimum(depth, table_depth).astype(np.float32),
        instances=ids,
        objects=objects,
        camera=camera,
        table=table,
    )


def noisy_depth(
    scene: Scene, rng: np.random.Generator, noise: float = 0.01, invalid: float = 0.05
) -> npt.NDArray[np.float32]:
    """Return the depth a real sensor might give.

    Args:
        scene: The scene.
        rng: Where the noise comes from.
        noise: Standard deviation as a share of the depth (0.01 is 7 mm at 0.7 m).
        invalid: Share of the pixels without a measurement (0): half in patches, half at depth
            edges, where stereo and structured light fail.
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


def _lighting(rng: np.random.Generator, camera: Camera) -> Lighting:
    right, ahead = camera.rotation[:, 0], camera.rotation[:, 2]
    side = _between(rng, -1, 1)
    lamp = 0.75 * side * right * [1, 1, 0] + _between(rng, -0.5, 0.7) * ahead * [1, 1, 0]
    lamp = lamp + np.array([0.0, 0.0, 1.0])
    return Lighting(
        lamp=lamp / np.linalg.norm(lamp),
        key=_between(rng, 0.65, 0.95),
        sky=_between(rng, 0.30, 0.45),
        tint=_between(rng, 0.85, 1.05) * (1 + 0.04 * (2 * rng.random(3) - 1)),
        noise=_between(rng, 0.008, 0.02),
    )


def _cast_list(
    rng: np.random.Generator, count: int, shapes: Sequence[str], colours: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Choose (shape, colour, size), with repeats so that sentences must tell things apart."""
    shapes = [_choose(rng, shapes) for _ in range(_integer(rng, 3, 5))]
    colours = [_choose(rng, colours) for _ in range(_integer(rng, 3, 5))]
    chosen: list[tuple[str, str, str]] = []
    for _ in range(20 * count):
        new = (_choose(rng, shapes), _choose(rng, colours), _choose(rng, tuple(SIZES)))
        twins = [old for old in chosen if old[:2] == new[:2]]
        if all({old[2], new[2]} == {'small', 'large'} for old in twins):
            chosen.append(new)
        if len(chosen) == count:
            break
    return chosen


def _arrange(
    rng: np.random.Generator, camera: Camera, wanted: list[tuple[str, str, str]]
) -> tuple[list[Placed], list[tuple[str, str, str]]]:
    """Stand the objects on the table, inside the picture, without touching one another."""
    width, height = camera.size
    placed: list[Placed] = []
    windows: list[Window] = []
    kept = []
    for shape, colour, size in wanted:
        model = build(shape, size, 2 * rng.random(3) - 1)
        display = np.array(COLOURS[colour]) / 255 + 0.025 * (2 * rng.random(3) - 1)
        albedo = np.clip(display, 0.02, 0.98) ** 2
        for _ in range(60):
            u, v, turn = rng.random(3)
            position = camera.on_table(u * (width - 1), (0.12 + 0.86 * v) * (height - 1))
            new = Placed(model, albedo, position, turn * 2 * np.pi)
            if _crowded(new, placed) or _far(camera, new):
                continue
            box = window(camera, new)
            if _inside(camera, box) and all(_overlap(box, old) < _MAX_OVERLAP for old in windows):
                placed.append(new)
                windows.append(box)
                kept.append((shape, colour, size))
                break
    return placed, kept


def _crowded(new: Placed, others: list[Placed]) -> bool:
    for other in others:
        gap = np.hypot(*(new.position - other.position)[:2])
        if gap < new.model.radius + other.model.radius + 0.004:
            return True
    return False


def _far(camera: Camera, new: Placed) -> bool:
    """Whether it stands so far away that it would be a speck."""
    away = np.linalg.norm(new.position - camera.position)
    return bool(away > _MAX_DISTANCE * np.linalg.norm(camera.position))


def _inside(camera: Camera, box: Window) -> bool:
    (rows, columns), (width, height) = box, camera.size
    edge = 0.012 * width
    return (
        columns.start > edge
        and rows.start > edge
        and columns.stop < width - edge
        and rows.stop < height - edge
    )


def _overlap(a: Window, b: Window) -> float:
    """Share of the smaller window that both have in common."""
    shared, areas = 1, [1, 1]
    for one, two in zip(a, b, strict=True):
        shared *= max(0, min(one.stop, two.stop) - max(one.start, two.start))
        areas = [areas[0] * (one.stop - one.start), areas[1] * (two.stop - two.start)]
    return shared / max(1, min(areas))


def _drop_hidden(
    camera: Camera,
    placed: list[Placed],
    kept: list[tuple[str, str, str]],
    layers: list[Layer],
) -> tuple[list[Placed], list[tuple[str, str, str]], list[Layer], list[float]]:
    """Take away the most hidden object until all are visible enough."""
    while True:
        _, ids, _ = compose(camera, layers)
        seen = np.bincount(ids.ravel(), minlength=len(layers) + 1)[1:]
        whole = [int(np.isfinite(layer.depth).sum()) for layer in layers]
        share = [float(s / max(w, 1)) for s, w in zip(seen, whole, strict=True)]
        if min(share, default=1.0) >= _MIN_VISIBLE:
            return placed, kept, layers, share
        worst = int(np.argmin(share))
        placed, kept, layers = placed[:], kept[:], layers[:]
        del placed[worst], kept[worst], layers[worst]


def _triple(vector: Floats) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])


# Only Generator.random decides what a scene looks like: numpy may change how the other
# distributions use the bit stream, this one is as stable as PCG64 itself.
def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _integer(rng: np.random.Generator, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _choose(rng: np.random.Generator, among: Sequence[str]) -> str:
    return among[int(rng.random() * len(among))]
