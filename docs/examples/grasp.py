# SPDX-License-Identifier: Apache-2.0
"""From a picture and its depth to a grasp, without ROS: ``python docs/examples/grasp.py``.

Without arguments it looks at a synthetic tabletop. With a picture of your own, give the registered
depth (a .npy file of (H, W) float32 metres) and the camera's intrinsics, and name real models.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

if __name__ == '__main__':  # run as a file from a checkout
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from segzero_core import Image, SegZero, SegZeroError, load_reasoner, load_segmenter
from segzero_core.grasping.target import GraspTarget, find_target
from segzero_core.overlay import draw_overlay
from segzero_core.synthetic import make_scene
from segzero_core.types import Intrinsics

JAWS = (64, 224, 255)  # RGB
WALL = 0.02  # metres, opening that is drawn for a grasp at a rim


def draw_jaws(picture: Image, target: GraspTarget, intrinsics: Intrinsics) -> None:
    """Draw a gripper's jaws on ``picture`` (H, W, 3), where they would close on the target."""
    if target.width is None or target.closing is None:
        return
    unit = max(1, round(picture.shape[1] / 400))
    along = np.array(target.closing)
    across = np.array([-along[1], along[0]])
    # A hollow object is taken by its wall; any other is taken as a whole.
    opening = WALL if target.grasp == 'rim' else target.width
    half = 0.5 * opening * intrinsics.fx / target.point[2] + 2 * unit
    centre = np.array(target.pixel)
    for side in (-1, 1):
        jaw = centre + side * half * along
        ends = [jaw - 9 * unit * across, jaw + 9 * unit * across, jaw + side * 11 * unit * along]
        first, second, tail = (tuple(int(value) for value in end.round()) for end in ends)
        middle = tuple(int(value) for value in jaw.round())
        for colour, thickness in (((0, 0, 0), 3 * unit + 2), (JAWS, 3 * unit)):
            cv2.line(picture, first, second, colour, thickness, cv2.LINE_AA)
            cv2.line(picture, middle, tail, colour, thickness, cv2.LINE_AA)


def main(arguments: list[str] | None = None) -> int:
    """Answer one sentence and draw the grasp; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('query', nargs='?', default='the thing I could drink from')
    parser.add_argument('--image', type=Path, help='a picture; without it, a synthetic tabletop')
    parser.add_argument('--depth', type=Path, help='.npy, (H, W) float32, metres, registered')
    parser.add_argument('--intrinsics', type=float, nargs=4, metavar=('FX', 'FY', 'CX', 'CY'))
    parser.add_argument('--seed', type=int, default=6, help='which tabletop')
    parser.add_argument('--reasoner', default='rules')
    parser.add_argument('--model', default='', help="the reasoner's folder or hub id")
    parser.add_argument('--segmenter', default='grabcut')
    parser.add_argument('-o', '--output', type=Path, default=Path('grasp.png'))
    options = parser.parse_args(arguments)
    if options.image is None:
        scene = make_scene(options.seed)
        image, depth, intrinsics = scene.image, scene.depth, scene.intrinsics
    else:
        if options.depth is None or options.intrinsics is None:
            parser.error('--image needs --depth and --intrinsics')
        image = np.ascontiguousarray(cv2.imread(str(options.image))[:, :, ::-1])
        depth, intrinsics = np.load(options.depth), Intrinsics(*options.intrinsics)

    reasoner = load_reasoner(options.reasoner, model=options.model)
    with SegZero(reasoner, load_segmenter(options.segmenter)) as segzero:
        found = segzero(image, options.query)
    target = find_target(found.mask, depth, intrinsics, found.points)

    print(found.reasoning)
    print('point in metres, camera optical frame:', [round(value, 3) for value in target.point])
    print(f'grasp: {target.grasp}, width in metres: {target.width} ({target.width_bound})')
    picture = draw_overlay(image, found, options.query)
    draw_jaws(picture, target, intrinsics)
    cv2.imwrite(str(options.output), picture[:, :, ::-1])
    print(options.output)
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except SegZeroError as error:
        sys.exit(f'grasp.py: {error}')
