# SPDX-License-Identifier: Apache-2.0
"""Helpers of the benchmarks on synthetic scenes: choice of scenes, and errors of targets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segzero_core.errors import TargetError
from segzero_core.grasping.roi import Depth
from segzero_core.grasping.target import GraspTarget, find_target
from segzero_core.synthetic import Scene
from segzero_core.types import Mask, Point


def parse_arguments(description: str, scenes: int, seed_start: int) -> argparse.Namespace:
    """Read the command line: the scenes, and whether the goals are checked."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--scenes', type=int, default=scenes)
    parser.add_argument('--seed-start', type=int, default=seed_start)
    parser.add_argument('--check', action='store_true', help='fail when a goal is missed')
    return parser.parse_args()


def seeds(options: argparse.Namespace) -> range:
    """Return the seeds of the scenes."""
    return range(options.seed_start, options.seed_start + options.scenes)


def find(
    scene: Scene, mask: Mask, depth: Depth, points: Sequence[Point] = ()
) -> GraspTarget | None:
    """Return the target, or None if the depth gives no target."""
    try:
        return find_target(mask, depth, scene.intrinsics, points)
    except TargetError:
        return None


def on_object(scene: Scene, i: int, target: GraspTarget | None) -> bool | None:
    """Return whether a target's pixel belongs to ``scene.objects[i]``; None without a target."""
    if target is None:
        return None
    return bool(scene.mask(i)[int(target.pixel.y), int(target.pixel.x)])


def off_surface(scene: Scene, i: int, target: GraspTarget | None) -> float | None:
    """Return the distance from a target to the surface of ``scene.objects[i]``, millimetres."""
    return None if target is None else 1000 * scene.surface_distance(i, target.point)
