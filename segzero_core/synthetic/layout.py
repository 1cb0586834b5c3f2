# SPDX-License-Identifier: Apache-2.0
"""Chooses the objects of a scene, their positions and the light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segzero_core.synthetic.camera import Camera, look_at_table
from segzero_core.synthetic.render import Lighting, Placed, Window, window
from segzero_core.synthetic.shapes import SIZES, build
from segzero_core.synthetic.solids import Floats
from segzero_core.types import Size

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

_MAX_DISTANCE = 1.35  # as a share of the distance to the point that the camera looks at
_MAX_OVERLAP, _MAX_CROWDED = 0.35, 0.6  # as a share of the smaller of two objects' windows
_GAP = 0.004  # metres between two objects on the table
_ATTEMPTS = 60  # attempts to find a place for an object


class Kind(NamedTuple):
    """The kind of an object: one of ``SHAPES``, of ``COLOURS`` and of ``SIZES``."""

    shape: str
    colour: str
    size: str


class Standing(NamedTuple):
    """An object on the table."""

    kind: Kind
    placed: Placed


# Scenes use only Generator.random, which is as stable as PCG64 itself. numpy may change how its
# other methods use the bit stream.
def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number from [low, high)."""
    return low + (high - low) * float(rng.random())


def integer(rng: np.random.Generator, low: int, high: int) -> int:
    """Draw a whole number from low to high, both included."""
    return low + int(rng.random() * (high - low + 1))


def choose(rng: np.random.Generator, among: Sequence[str]) -> str:
    """Draw one of several."""
    return among[int(rng.random() * len(among))]


def random_camera(rng: np.random.Generator, size: Size) -> Camera:
    """Draw a camera that looks at the table from any side, as from a robot's head or arm."""
    return look_at_table(
        size,
        focal=between(rng, 0.88, 1.0) * min(1.0, size.height / size.width * 4 / 3),
        distance=between(rng, 0.62, 0.78),
        pitch=np.radians(between(rng, 32, 52)),
        heading=between(rng, 0, 2 * np.pi),
        roll=np.radians(between(rng, -3, 3)),
    )


def random_lighting(rng: np.random.Generator, camera: Camera) -> Lighting:
    """Draw the light of a scene: a lamp above the table, placed relative to the camera."""
    flat = np.array([1.0, 1.0, 0.0])
    right, ahead = camera.rotation[:, 0] * flat, camera.rotation[:, 2] * flat
    lamp = between(rng, -0.75, 0.75) * right + between(rng, -0.5, 0.7) * ahead
    lamp = lamp + np.array([0.0, 0.0, 1.0])
    return Lighting(
        lamp=lamp / np.linalg.norm(lamp),
        key=between(rng, 0.65, 0.95),
        sky=between(rng, 0.30, 0.45),
        tint=between(rng, 0.85, 1.05) * (1 + 0.04 * (2 * rng.random(3) - 1)),
        noise=between(rng, 0.008, 0.02),
    )


def random_kinds(
    rng: np.random.Generator, count: int, shapes: Sequence[str], colours: Sequence[str]
) -> list[Kind]:
    """Choose objects that share shapes and colours, so that sentences must distinguish them.

    If two objects have the same shape and colour, one is small and the other large. The result may
    have fewer than ``count`` objects.
    """
    shapes = [choose(rng, shapes) for _ in range(integer(rng, 3, 5))]
    colours = [choose(rng, colours) for _ in range(integer(rng, 3, 5))]
    kinds: list[Kind] = []
    for _ in range(20 * count):
        new = Kind(choose(rng, shapes), choose(rng, colours), choose(rng, tuple(SIZES)))
        twins = [old for old in kinds if old[:2] == new[:2]]
        if all({old.size, new.size} == {'small', 'large'} for old in twins):
            kinds.append(new)
        if len(kinds) == count:
            break
    return kinds


def arrange(
    rng: np.random.Generator, camera: Camera, kinds: Sequence[Kind], crowding: float
) -> list[Standing]:
    """Place objects on the table, inside the image and without contact.

    An object for which no place is found is left out. With probability ``crowding`` an object is
    placed directly in front of or behind an earlier one, so that the nearer object hides part of
    the farther one.
    """
    width, height = camera.size
    standing: list[Standing] = []
    windows: list[Window] = []
    for kind in kinds:
        model = build(kind.shape, kind.size, 2 * rng.random(3) - 1)
        display = np.array(COLOURS[kind.colour]) / 255 + 0.025 * (2 * rng.random(3) - 1)
        albedo = np.clip(display, 0.02, 0.98) ** 2
        crowd = bool(standing) and rng.random() < crowding
        for _ in range(_ATTEMPTS):
            u, v, turn = rng.random(3)
            if crowd:
                position = _beside(rng, camera, model.radius, standing)
            else:
                position = camera.on_table(u * (width - 1), (0.12 + 0.86 * v) * (height - 1))
            new = Placed(model, albedo, position, turn * 2 * np.pi)
            if _far(camera, new) or any(_touch(new, old.placed) for old in standing):
                continue
            box = window(camera, new)
            limit = _MAX_CROWDED if crowd else _MAX_OVERLAP
            if _inside(camera, box) and all(_overlap(box, old) < limit for old in windows):
                standing.append(Standing(kind, new))
                windows.append(box)
                break
    return standing


def _beside(
    rng: np.random.Generator, camera: Camera, radius: float, standing: Sequence[Standing]
) -> Floats:
    """Choose a place close to an object on the table, roughly along the line of sight."""
    other = standing[integer(rng, 0, len(standing) - 1)].placed
    distance = (other.model.radius + radius + _GAP) * between(rng, 1.0, 1.3)
    sight = other.position - camera.position
    angle = math.atan2(sight[1], sight[0]) + math.radians(between(rng, -65, 65))
    side = 1 if rng.random() < 0.5 else -1
    step = np.array([math.cos(angle), math.sin(angle), 0.0])
    return np.asarray(other.position + side * distance * step)


def _touch(a: Placed, b: Placed) -> bool:
    return math.dist(a.position[:2], b.position[:2]) < a.model.radius + b.model.radius + _GAP


def _far(camera: Camera, new: Placed) -> bool:
    """Return whether a place is so far away that an object would be too small."""
    looking = math.hypot(*camera.position)
    return math.dist(new.position, camera.position) > _MAX_DISTANCE * looking


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
    """Return the intersection of two windows as a share of the smaller window."""
    shared, area_a, area_b = 1, 1, 1
    for one, two in zip(a, b, strict=True):
        shared *= max(0, min(one.stop, two.stop) - max(one.start, two.start))
        area_a *= one.stop - one.start
        area_b *= two.stop - two.start
    return shared / max(1, min(area_a, area_b))
