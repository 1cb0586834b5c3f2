# SPDX-License-Identifier: Apache-2.0
"""The command line for people without ROS: a sentence and a picture in, a picture out."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from segzero_core.data.image_io import decode_rgb
from segzero_core.errors import AnswerError, ImageError
from segzero_core.overlay import draw_overlay
from segzero_core.pipeline import SegZero, check_found
from segzero_core.prompts import FAMILIES, check_query
from segzero_core.reasoners import REASONERS, load_reasoner
from segzero_core.registry import device_option
from segzero_core.runtime.program import say
from segzero_core.segmenters import SEGMENTERS, load_segmenter
from segzero_core.types import Image, Segmentation


def read_image(path: Path) -> Image:
    """Read a picture file as (H, W, 3) uint8 RGB.

    Raises:
        ImageError: There is no such file, or it is no whole picture.
    """
    if not path.is_file():
        raise ImageError(f'no such image file: {path}')
    return decode_rgb(path)


def check_output(path: Path) -> None:
    """Make sure that a picture can be written: before a model answers for minutes.

    Raises:
        ImageError: The folder does not exist or the suffix is no picture format.
    """
    if not cv2.haveImageWriter(str(path)):
        raise ImageError(f'cannot write {path}: use a name that ends in .png or .jpg')
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ImageError(f'cannot write {path}: is there such a folder, and may you write in it?')


def write_image(path: Path, image: Image) -> None:
    """Write (H, W, 3) uint8 RGB to a picture file; its suffix names the format.

    Raises:
        ImageError: It cannot be written.
    """
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise ImageError(f'cannot write {path}: is it a folder, or the disk full?')


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog='segzero',
        description='Find what a sentence asks for in a picture: reasoning, mask and points.',
    )
    parser.add_argument('query', help='what you are after, in plain words')
    parser.add_argument('image', type=Path, help='a picture file')
    parser.add_argument('-o', '--output', type=Path, help='write the picture with the answer here')
    parser.add_argument('--mask', type=Path, help='write the mask here (0 or 255)')
    parser.add_argument('--json', action='store_true', help='print one JSON document')
    parser.add_argument(
        '--reasoner', default='rules', metavar='ENGINE', help=f'one of {", ".join(REASONERS)}'
    )
    parser.add_argument('--model', help="the reasoner's model: a hub id or a folder")
    parser.add_argument('--url', help='model server of the reasoner openai, up to and with /v1')
    parser.add_argument('--family', help=f'prompt family: one of {", ".join(FAMILIES)}')
    parser.add_argument(
        '--segmenter', default='grabcut', metavar='ENGINE', help=f'one of {", ".join(SEGMENTERS)}'
    )
    parser.add_argument('--segmenter-model', help="the segmenter's model: a hub id or a folder")
    parser.add_argument(
        '--device',
        help='where models run: cpu, cuda, cuda:1, ...; CUDA when there is one if absent',
    )
    return parser


def describe(found: Segmentation) -> dict[str, Any]:
    """Return everything but the mask's pixels as plain data for JSON; pixels and seconds."""
    return {
        'box': list(found.box) if found.box else None,
        'points': [list(point) for point in found.points],
        'score': found.score,
        'mask_pixels': int(found.mask.sum()),
        'reasoning': found.reasoning,
        'text': found.text,
        'repairs': list(found.repairs),
        'timings': found.timings,
    }


def run(options: argparse.Namespace) -> None:
    """Answer once and write what was asked for.

    Raises:
        SegZeroError: Anything that keeps the sentence from being answered.
    """
    query, image = check_query(options.query), read_image(options.image)
    for path in filter(None, (options.output, options.mask)):
        check_output(path)
    reasoner = load_reasoner(
        options.reasoner,
        model=options.model,
        url=options.url,
        family=options.family,
        **device_option(REASONERS, options.reasoner, options.device),
    )
    segmenter = load_segmenter(
        options.segmenter,
        model=options.segmenter_model,
        **device_option(SEGMENTERS, options.segmenter, options.device),
    )
    with SegZero(reasoner, segmenter) as segzero:
        found = check_found(segzero(image, query))
    if options.output is not None:
        write_image(options.output, draw_overlay(image, found, query))
    if options.mask is not None:
        write_image(options.mask, found.mask[:, :, None].repeat(3, axis=2).astype('uint8') * 255)
    if options.json:
        print(json.dumps(describe(found)))
        return
    box = ', '.join(f'{value:.0f}' for value in found.box or ()) or 'none'
    points = '  '.join(f'({point.x:.0f}, {point.y:.0f})' for point in found.points)
    print(found.reasoning)
    print(f'box {box}   points {points}   mask {int(found.mask.sum())} pixels')
    print(f'score {found.score:.2f}   {found.timings["total"]:.2f} s')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for an answer, 1 where nothing matches. Errors are raised; ``run_program`` reports them.

    Raises:
        SegZeroError: The sentence cannot be answered.
    """
    options = build_parser().parse_args(arguments)
    try:
        run(options)
    except AnswerError as error:
        if error.kind != 'nothing_found':
            raise
        say(f'segzero: {error}')
        return 1
    return 0
