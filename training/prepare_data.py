# SPDX-License-Identifier: Apache-2.0
"""Make a training set: ``python training/prepare_data.py refcocog:train --root DIR --output DIR``.

Each referring expression with a mask becomes a row in the released columns: the sentence, a square
image, the box and the centres of the two largest inscribed circles. The same command resumes an
interrupted run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

if __name__ == '__main__':  # before the heavy imports, so that signals are handled already
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from segzero_core.runtime.program import run_program

    STOPPED = 'stopped; the same command resumes'
    sys.exit(run_program('prepare_data.py', 'training.prepare_data:main', interrupted=STOPPED))

from tqdm import tqdm

from segzero_core.data import LEVELS, read_samples
from segzero_core.errors import ConfigError, DataError
from segzero_core.segmenters import SEGMENTERS, load_segmenter
from training.dataset_builder.build_report import DROPPED, SHEET, write_report
from training.dataset_builder.parts import SPLITS, BuildSettings, PartReport, claim, prepare
from training.dataset_builder.rows import RESIZES, RowOptions
from training.files import explained_os_errors


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code.

    Raises:
        SegZeroError: Something cannot be used; finished rows are kept.
        OSError: A file cannot be read or written; finished rows are kept.
    """
    options = make_parser().parse_args(arguments)
    with explained_os_errors():
        run(options)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog='prepare_data.py', description='Make a training set from annotated sentences.'
    )
    add = parser.add_argument
    add('dataset', help="'refcocog:train', 'reasonseg:train', 'synthetic:train', a folder, ...")
    add('--root', default='', help='folder of a dataset that is known by its name')
    add('--output', type=Path, required=True, help='output folder; rows go to train/ and val/')
    add('--level', default='', choices=('', *LEVELS), help='one sentence per object, or all')
    add('--limit', type=int, default=0, help='maximum number of annotated sentences; 0 for all')
    add('--size', type=int, default=840, help='side of the square images, pixels')
    add('--resize', default='area', choices=RESIZES, help='how images are resized')
    add(
        '--min-iou',
        type=float,
        default=0.0,
        help='least IoU of the segmenter; drop the rest',
    )
    add('--segmenter', default='sam2', choices=sorted(SEGMENTERS), help='for --min-iou')
    add('--segmenter-model', default='', help='hub id or folder')
    add('--segmenter-device', default='', help="'cuda', 'cpu'")
    add('--val-share', type=float, default=0.0, help='share of the images to hold out')
    add('--seed', type=int, default=0, help='seed for the choice of held-out images')
    add('--workers', type=int, default=0, help='processes; 0: one per core, 2 with --min-iou')
    add('--part', type=int, default=64, help='sentences per part; finished parts are kept')
    return parser


def run(options: argparse.Namespace) -> None:
    """Prepare the training set that the command line asks for.

    Raises:
        SegZeroError: A setting or the dataset cannot be used; finished parts are kept.
    """
    _check(options)
    samples = read_samples(
        options.dataset, options.root, options.level, options.limit, raw=True, split='train'
    )
    segmenter = {}
    if options.min_iou:
        given = {'model': options.segmenter_model, 'device': options.segmenter_device}
        segmenter = {'engine': options.segmenter} | {k: v for k, v in given.items() if v}
        load_segmenter(**segmenter).close()  # fails here once instead of in every process
    settings = BuildSettings(
        dataset=options.dataset,
        level=samples.level,
        rows=len(samples),
        digest=samples.digest(),
        options=RowOptions(options.size, options.resize, options.min_iou),
        segmenter=segmenter,
        val_share=options.val_share,
        seed=options.seed,
        part=options.part,
    )
    # Each process loads the segmenter: one per core would not fit on a GPU.
    workers = options.workers or (2 if segmenter else len(os.sched_getaffinity(0)))
    with claim(options.output, settings):
        parts: dict[int, PartReport] = {}
        every = 0.5 if sys.stderr.isatty() else 30.0  # seconds
        with tqdm(total=len(samples), unit='sentence', mininterval=every) as bar:
            for number, part in prepare(samples, settings, options.output, workers):
                parts[number] = part
                bar.update(sum(part.kept.values()) + len(part.dropped))
        print(write_report(options.output, parts, samples.without_task))
    if note := samples.note():
        print(note)
    if not any(part.kept[split] for part in parts.values() for split in SPLITS):
        raise DataError(f'not one row could be made: {options.output / DROPPED} says why')
    print(f'rows are in {options.output}; look at {options.output / SHEET}')


def _check(options: argparse.Namespace) -> None:
    for name, low, high in (
        ('size', 28, 4096),
        ('min_iou', 0, 1),
        ('val_share', 0, 0.9),
        ('limit', 0, 10**9),
        ('workers', 0, 1024),
        ('part', 1, 10**6),
    ):
        value = getattr(options, name)
        if not low <= value <= high:
            raise ConfigError(f'--{name.replace("_", "-")} is {value}; it must be {low} to {high}')
    for library in ('pyarrow', 'pycocotools'):
        if importlib.util.find_spec(library) is None:
            raise DataError(
                f'preparing data needs {library}: pip install -r requirements/evaluate.txt'
            )
