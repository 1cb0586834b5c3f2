# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks on synthetic scenes share: which scenes, and targets against the truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segzero_core.errors import TargetError
from segzero_core.grasping.roi import Depth
from segzero_core.grasping.target import GraspTarget, find_target
from segzero_core.synthetic import Scene
from segzero_core.types import Mask, Point


def parse_arguments(description: str, scenes: int, seed_start: int) -> argparse.Namespace:
    """Read the command line: which scenes, and whether to insist on the goals."""
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
    """Return the target, or none where the depth gives none."""
    try:
        return find_target(mask, depth, scene.intrinsics, points)
    except TargetError:
        return None


def on_object(scene: Scene, i: int, target: GraspTarget | None) -> bool | None:
    """Return whether a target's pixel is one of ``scene.objects[i]``; None without a target."""
    if target is None:
        return None
    return bool(scene.mask(i)[int(target.pixel.y), int(target.pixel.x)])


def off_surface(scene: Scene, i: int, target: GraspTarget | None) -> float | None:
    """Return the millimetres from a target to the surface of ``scene.objects[i]``."""
    return None if target is None else 1000 * scene.surface_distance(i, target.point)
