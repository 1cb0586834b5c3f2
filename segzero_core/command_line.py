# SPDX-License-Identifier: Apache-2.0
"""The command line for people without ROS: a sentence and a picture in, a picture out."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segzero_core.data.image_io import decode_rgb
from segzero_core.errors import AnswerError, ImageError
from segzero_core.image_writer import check_output, write_image, write_mask
from segzero_core.overlay import draw_overlay
from segzero_core.pipeline import SegZero, check_found
from segzero_core.prompts import PLACE_FAMILIES, check_query
from segzero_core.reasoners import REASONERS, load_reasoner
from segzero_core.registry import device_option
from segzero_core.runtime.arguments import ArgumentParser, sentence
from segzero_core.runtime.program import one_line, say
from segzero_core.segmenters import SEGMENTERS, load_segmenter
from segzero_core.types import Image, Segmentation


def read_image(path: Path) -> Image:
    """Read a picture file, or a pipe, as (H, W, 3) uint8 RGB.

    Raises:
        ImageError: There is no such file, or it is no whole picture.
    """
    if path.is_dir():
        raise ImageError(f'{path} is a folder, not an image file')
    if not path.exists():
        raise ImageError(f'no such image file: {path}')
    if path.is_file():
        return decode_rgb(path)
    try:
        return decode_rgb(path.read_bytes())  # a pipe can be read once only
    except (OSError, ImageError) as error:
        raise ImageError(f'{path} cannot be read as a picture ({one_line(error)})') from error


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = ArgumentParser(
        prog='segzero',
        description='Find what a sentence asks for in a picture: reasoning, mask and points.',
        epilog='Exit code: 0 for an answer, 1 if nothing matches, 2 for an error, 130 for Ctrl-C. '
        'A sentence that begins with a dash goes after --, together with the picture.',
    )
    parser.add_argument('query', help='the sentence: the object you are looking for')
    parser.add_argument('image', type=Path, help='a picture file')
    parser.add_argument(
        '-o', '--output', type=Path, metavar='FILE', help='write the picture with the answer here'
    )
    parser.add_argument(
        '--mask',
        type=Path,
        metavar='FILE.png',
        help='write the mask here, in grey: 255 is the object, 0 the rest',
    )
    parser.add_argument(
        '--json', action='store_true', help='print one JSON document instead of text'
    )
    parser.add_argument(
        '--reasoner', default='rules', metavar='ENGINE', help=f'one of {", ".join(REASONERS)}'
    )
    parser.add_argument('--model', help="the reasoner's model: a hub id or a folder")
    parser.add_argument(
        '--url', help='address of the model server for the reasoner openai, ending in /v1'
    )
    parser.add_argument('--family', help=f'prompt family: one of {", ".join(PLACE_FAMILIES)}')
    parser.add_argument(
        '--answer',
        help="parts of an answer: box_points, box or points (default: the checkpoint's own)",
    )
    parser.add_argument(
        '--think',
        choices=('yes', 'no'),
        help="whether the model thinks before it answers (default: the checkpoint's own choice)",
    )
    parser.add_argument(
        '--segmenter', default='grabcut', metavar='ENGINE', help=f'one of {", ".join(SEGMENTERS)}'
    )
    parser.add_argument('--segmenter-model', help="the segmenter's model: a hub id or a folder")
    parser.add_argument(
        '--device',
        help='where models run: cpu, cuda, cuda:1, ... (default: CUDA if there is a GPU)',
    )
    return parser


def describe(found: Segmentation) -> dict[str, Any]:
    """Return the answer, without the mask's pixels, as plain data for JSON.

    Coordinates are pixels, timings seconds.
    """
    return {
        'box': list(found.box) if found.box else None,
        'points': [list(point) for point in found.points],
        'score': found.score,
        'mask_pixels': int(found.mask.sum()),
        'reasoning': found.reasoning,
        'text': found.text,
        'repairs': list(found.repairs),
        'warnings': [warning._asdict() for warning in found.warnings],
        'timings': found.timings,
    }


def check_outputs(options: argparse.Namespace) -> None:
    """Make sure that the files that were asked for can be written.

    Raises:
        ImageError: One cannot, or would overwrite the other or the picture.
    """
    if options.output is not None:
        check_output(options.output)
    if options.mask is not None:
        check_output(options.mask, lossless=True)
    named = [path for path in (options.image, options.output, options.mask) if path is not None]
    for one, other in itertools.combinations(named, 2):
        if os.path.realpath(one) == os.path.realpath(other):  # resolve() raises at loops of links
            raise ImageError(f'{other} would be overwritten: give every file a name of its own')


def run(options: argparse.Namespace) -> None:
    """Answer once and write what was asked for.

    Raises:
        SegZeroError: Anything that keeps the sentence from being answered.
    """
    query, image = check_query(sentence([options.query])), read_image(options.image)
    check_outputs(options)
    reasoner = load_reasoner(
        options.reasoner,
        model=options.model,
        url=options.url,
        family=options.family,
        answer=options.answer,
        think=None if options.think is None else options.think == 'yes',
        **device_option(REASONERS, options.reasoner, options.device),
    )
    segmenter = load_segmenter(
        options.segmenter,
        model=options.segmenter_model,
        **device_option(SEGMENTERS, options.segmenter, options.device),
    )
    with SegZero(reasoner, segmenter) as segzero:
        found = check_found(segzero(image, query))
    problem: ImageError | None = None  # of writing, which must not cost the answer
    try:
        if options.mask is not None:
            write_mask(options.mask, found.mask)
        if options.output is not None:
            write_image(options.output, draw_overlay(image, found, query))
    except ImageError as error:
        problem = error
    print(json.dumps(describe(found)) if options.json else in_words(found), flush=True)
    for warning in found.warnings:  # after the output, and not if the output has no reader
        say(f'segzero: warning: {warning.message}')
    if problem is not None:
        raise problem


def in_words(found: Segmentation) -> str:
    """Return the answer as a person reads it; pixels and seconds."""
    box = ', '.join(f'{value:.0f}' for value in found.box or ()) or 'none'
    points = '  '.join(f'({point.x:.0f}, {point.y:.0f})' for point in found.points)
    return (
        f'{found.reasoning}\n'
        f'box {box}   points {points}   mask {int(found.mask.sum())} pixels\n'
        f'score {found.score:.2f}   {found.timings["total"]:.2f} s'
    )


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
