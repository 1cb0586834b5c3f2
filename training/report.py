# SPDX-License-Identifier: Apache-2.0
"""Compares evaluations with published figures: ``python training/report.py RUN... [--output D]``.

Writes ``report.md`` with the paper's tables, each of them also as CSV, and for every run a page of
its worst and best samples that opens in any browser.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == '__main__':  # before the heavy imports, so that signals are handled already
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from segzero_core.runtime.program import run_program

    sys.exit(run_program('report.py', 'training.report:main'))

from segzero_core.errors import DataError
from segzero_core.runtime.atomic import atomic_text
from training.reports.page import make_page
from training.reports.runs import put_together, read_run
from training.reports.tables import overview, paper_tables

_HEAD = """\
# Measured and published figures

All in percent; measured ones with their 95 % bootstrap interval. `last checkpoint` was fixed
before measuring; `best of k` is the highest of k checkpoints on the very set it is shown for.
Published figures follow protocols of their own, and many are a best of k: a point or two is noise.
Seg-Zero's in Table 7 are of one sentence for each object, those of most other systems of all of
them (`refcoco:testA_all`), which makes about a point. Figure 5 does not name its benchmarks; they
are inferred from what the paper cites.
The protocol `standard` leaves ReasonSeg's ignored pixels out, as LISA does, and counts every
failure as zero; `released` counts them as truth and leaves rows out as Seg-Zero's evaluation does.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = make_parser().parse_args(arguments)
    for path in report(options.runs, options.output, options.samples, options.root):
        print(path)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog='report.py', description='Compare evaluations with published figures.'
    )
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='folders of evaluations')
    parser.add_argument('--output', type=Path, default=Path('runs/report'), help='where to write')
    parser.add_argument(
        '--samples', type=int, default=12, help='worst and best samples on a page, each'
    )
    parser.add_argument('--root', default='', help="the datasets' folder, if it has moved")
    return parser


def report(folders: Sequence[Path], output: Path, samples: int = 12, root: str = '') -> list[Path]:
    """Write tables and pages; return their files.

    Args:
        folders: Folders of finished evaluations.
        output: Where to write; created if it does not exist.
        samples: Number of worst and of best samples on a page; 0 = no pages.
        root: Folder of datasets that are known by name; '' = where the runs found them.

    Raises:
        DataError: A run is not finished, its dataset is missing, or ``output`` cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    tables = [overview(runs), *paper_tables(put_together(runs))]
    files = {'report.md': '\n'.join([_HEAD, *(table.markdown() for table in tables)])}
    files |= {f'{table.name}.csv': table.csv() for table in tables}
    for run in runs if samples > 0 else ():
        name = re.sub(r'[^\w.+-]+', '_', run.folder.resolve().name)
        if f'{name}.html' in files:
            raise DataError(f'two runs are called {name}: give one of their folders another name')
        try:
            files[f'{name}.html'] = make_page(run, samples, root)
        except DataError as error:
            raise DataError(
                f'no page of {run.folder}: {error} (--samples 0 makes the tables alone)'
            ) from error
    try:
        output.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            # Servers do send half a surrogate pair, which cannot be encoded.
            atomic_text(output / file, text, errors='backslashreplace')
    except OSError as error:
        raise DataError(f'cannot write to {output} ({error}): choose another --output') from error
    return [output / file for file in files]
