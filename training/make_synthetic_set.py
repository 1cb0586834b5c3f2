# SPDX-License-Identifier: Apache-2.0
"""Write synthetic scenes as a dataset: ``python training/make_synthetic_set.py refcoco DIR``.

The files have the layout of the published dataset of that name, so that all commands can be tried
without a download.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == '__main__':  # run as a file: the project's root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from segzero_core.data.scenes import LEAST_SIDE
from segzero_core.errors import ConfigError, SegZeroError
from segzero_core.types import Size
from training.dataset_builder.layouts import LAYOUTS, write_layout


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = make_parser().parse_args(arguments)
    try:
        size = Size(options.width, options.height)
        if options.scenes < 1 or min(size) < LEAST_SIDE:
            raise ConfigError(
                f'at least one scene of {LEAST_SIDE} x {LEAST_SIDE} pixels is needed, got '
                f'{options.scenes} of {size.width} x {size.height}'
            )
        written = write_layout(options.layout, options.root, options.scenes, size)
    except (SegZeroError, OSError) as error:
        print(f'make_synthetic_set.py: {error}', file=sys.stderr)
        return 1
    for split, sentences in written.items():
        print(f'{options.layout}:{split}: {sentences} sentences')
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog='make_synthetic_set.py', description='Write synthetic scenes as a dataset.'
    )
    parser.add_argument('layout', choices=LAYOUTS)
    parser.add_argument('root', type=Path, help='the folder to write to')
    parser.add_argument('--scenes', type=int, default=100, help='number of scenes')
    parser.add_argument('--width', type=int, default=256, help='width of the images, pixels')
    parser.add_argument('--height', type=int, default=192, help='height of the images, pixels')
    return parser


if __name__ == '__main__':
    sys.exit(main())
