# SPDX-License-Identifier: Apache-2.0
"""Write synthetic scenes as a dataset: ``python training/make_synthetic_set.py refcoco DIR``.

The files have the layout of the published dataset of that name, so that all commands can be tried
without a download.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == '__main__':  # before the heavy imports, so that signals are handled already
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from segzero_core.runtime.program import run_program

    sys.exit(run_program('make_synthetic_set.py', 'training.make_synthetic_set:main'))

from segzero_core.data.scenes import LEAST_SIDE
from segzero_core.errors import ConfigError
from segzero_core.types import Size
from training.dataset_builder.layouts import LAYOUTS, write_layout


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code.

    Raises:
        ConfigError: The size or number of the scenes cannot be used.
        OSError: The files cannot be written.
    """
    options = make_parser().parse_args(arguments)
    size = Size(options.width, options.height)
    if options.scenes < 1 or min(size) < LEAST_SIDE:
        raise ConfigError(
            f'at least one scene of {LEAST_SIDE} x {LEAST_SIDE} pixels is needed, got '
            f'{options.scenes} of {size.width} x {size.height}'
        )
    written = write_layout(options.layout, options.root, options.scenes, size)
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
