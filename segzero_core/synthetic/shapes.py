# SPDX-License-Identifier: Apache-2.0
"""The everyday objects that stand on the synthetic table, built from exact solids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segzero_core.synthetic.solids import Ball, Cuboid, Floats, Revolved, Solid, Tube

SIZES = {'small': 0.75, 'medium': 1.0, 'large': 1.32}


@dataclass(frozen=True)
class Part:
    """One solid of an object.

    Attributes:
        solid: Its geometry, in the object's frame.
        whiten: Share of light grey mixed into the object's colour (a can's lid).
        shade: Factor on the colour (a bottle's cap).
    """

    solid: Solid
    whiten: float = 0.0
    shade: float = 1.0


@dataclass(frozen=True)
class Model:
    """An object's geometry in its own frame: z up, standing on z = 0.

    Attributes:
        parts: The solids; their union is the object.
        radius: Radius of the bounding cylinder around z, metres.
        height: Height of the bounding cylinder, metres.
        footprint: Radius of the area that touches the table, for the contact shadow, metres.
        gloss: Strength of the specular highlight.
    """

    parts: tuple[Part, ...]
    radius: float
    height: float
    footprint: float
    gloss: float = 0.25


def _ball(scale: float, vary: Floats) -> Model:
    r = scale * (0.038 + 0.006 * vary[0])
    return Model((Part(Ball((0.0, 0.0, r), r)),), r, 2 * r, 0.5 * r, gloss=0.35)


def _box(scale: float, vary: Floats) -> Model:
    x, y, z = scale * (np.array([0.085, 0.062, 0.060]) + np.array([0.03, 0.02, 0.04]) * vary[:3])
    radius = float(np.hypot(x, y)) / 2
    return Model((Part(Cuboid((x, y, z))),), radius, z, 0.42 * (x + y) / 2, gloss=0.05)


def _can(scale: float, vary: Floats) -> Model:
    r, h = scale * (0.032 + 0.003 * vary[0]), scale * (0.108 + 0.016 * vary[1])
    lip = 0.07 * r
    body = [(0, 0), (0.92 * r, 0), (r, 0.05 * h), (r, 0.95 * h), (0.93 * r, h)]
    lid = [(0.93 * r, h), (0.93 * r - lip, h), (0.93 * r - 1.5 * lip, h - lip), (0, h - lip)]
    parts = (Part(Revolved(body)), Part(Revolved(lid, light=(1, 1, 0.8, 1)), whiten=0.45))
    return Model(parts, r, h, r, gloss=0.45)


def _mug(scale: float, vary: Floats) -> Model:
    r, h = scale * (0.039 + 0.005 * vary[0]), scale * (0.088 + 0.014 * vary[1])
    wall, bar = 0.1 * r, 0.13 * r
    profile = [(0, 0), (0.9 * r, 0), (r, 0.08 * h), (r, h), (r - wall, h), (r - wall, 0.1 * h)]
    cup = Revolved([*profile, (0, 0.1 * h)], light=(1, 1, 1, 1, 1, 0.35, 0.3))
    angle = np.linspace(-np.pi / 2, np.pi / 2, 7)
    reach, grip = 0.62 * r, 0.30 * h
    path = np.column_stack(
        [r + 0.4 * bar + reach * np.cos(angle), 0 * angle, 0.54 * h + grip * np.sin(angle)]
    )
    return Model((Part(cup), Part(Tube(path, bar))), r + reach + 1.4 * bar, h, r)


def _bottle(scale: float, vary: Floats) -> Model:
    r, h = scale * (0.031 + 0.004 * vary[0]), scale * (0.175 + 0.03 * vary[1])
    neck = 0.38 * r
    shoulder, collar = (0.55 + 0.06 * vary[2]) * h, 0.80 * h
    blend = np.linspace(0, 1, 7)
    ease = (1 + np.cos(np.pi * blend)) / 2
    curve = np.column_stack([neck + (r - neck) * ease, shoulder + (collar - shoulder) * blend])
    body = [(0, 0), (0.93 * r, 0), (r, 0.03 * h), *curve, (neck, 0.9 * h)]
    cap = [(neck, 0.9 * h), (1.25 * neck, 0.9 * h), (1.25 * neck, h), (0, h)]
    parts = (Part(Revolved(body)), Part(Revolved(cap), shade=0.6))
    return Model(parts, r, h, r, gloss=0.6)


def _bowl(scale: float, vary: Floats) -> Model:
    r, h = scale * (0.066 + 0.010 * vary[0]), scale * (0.046 + 0.010 * vary[1])
    wall, foot = 0.055 * r, 0.42 * r
    angle = np.linspace(0, np.pi / 2, 7)
    outer = np.column_stack([foot + (r - foot) * np.sin(angle), h * (1 - np.cos(angle))])
    inner = np.column_stack([outer[::-1, 0] - wall, np.maximum(outer[::-1, 1], 0.12 * h)])
    light = [1.0] * 8 + list(np.linspace(1.0, 0.6, 7)) + [0.6]
    profile = np.vstack([[(0, 0)], outer, inner, [(0, 0.12 * h)]])
    return Model((Part(Revolved(profile, light=light)),), r, h, foot, gloss=0.35)


def _cone(scale: float, vary: Floats) -> Model:
    r, h = scale * (0.040 + 0.006 * vary[0]), scale * (0.105 + 0.02 * vary[1])
    tip = 0.06 * r
    profile = [(0, 0), (r, 0), (r, 0.02 * h), (tip, 0.98 * h), (0.5 * tip, h), (0, h)]
    return Model((Part(Revolved(profile)),), r, h, r, gloss=0.1)


def _ring(scale: float, vary: Floats) -> Model:
    r, tube = scale * (0.044 + 0.006 * vary[0]), scale * (0.0135 + 0.002 * vary[1])
    angle = np.linspace(-np.pi / 2, 1.5 * np.pi, 25)
    profile = np.column_stack([r + tube * np.cos(angle), tube + tube * np.sin(angle)])
    return Model((Part(Revolved(profile)),), r + tube, 2 * tube, r + 0.6 * tube, gloss=0.4)


_BUILDERS: dict[str, Callable[[float, Floats], Model]] = {
    'ball': _ball,
    'bottle': _bottle,
    'bowl': _bowl,
    'box': _box,
    'can': _can,
    'cone': _cone,
    'mug': _mug,
    'ring': _ring,
}
SHAPES = tuple(_BUILDERS)


def build(shape: str, size: str, vary: Floats) -> Model:
    """Build an object.

    Args:
        shape: One of ``SHAPES``.
        size: One of ``SIZES``.
        vary: Three numbers in [-1, 1] that vary the proportions.
    """
    return _BUILDERS[shape](SIZES[size], vary)
