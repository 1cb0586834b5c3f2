# SPDX-License-Identifier: Apache-2.0
"""Find the reader of a dataset by its name, for evaluation.

================================== ============================================================
``synthetic:val``                  scenes rendered on demand, see ``scenes``
``refcoco:testA``, ``refcoco+``,   referring expressions, see ``refer``
``refcocog``, ``grefcoco``
``reasonseg:val``                  in LISA's layout, see ``reasonseg``
``chartqa:test``, ``textvqa:val``  questions answered in words, see ``vqa_sets``
a hub id                           ``Ricky06662/ReasonSeg_val`` and others, see ``hub_eval``
a folder                           with ``records.jsonl`` (see ``folder``), or parquet or arrow
                                   files (see ``hub_eval``)
================================== ============================================================

The first rows name published datasets, which are read from ``root``. Hub ids and folders may end
in ``:SPLIT``. A new reader is one more line in ``_PUBLISHED``: a ``Sample`` has ``boxes`` for
detection and ``answers`` for counting.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from segzero_core.data.folder import FILE
from segzero_core.data.hub_eval import masked_samples
from segzero_core.data.local import folder_samples, scene_samples
from segzero_core.data.reasonseg import reasonseg_samples
from segzero_core.data.refer import FILES as REFER_FILES
from segzero_core.data.refer import refer_samples
from segzero_core.data.samples import LEVELS, Level, Samples
from segzero_core.data.tables import local_folder
from segzero_core.data.vqa_sets import chartqa_samples, textvqa_samples
from segzero_core.errors import DataError, UnknownNameError
from segzero_core.registry import look_up

_Reader = Callable[[str, str, Path, Level, bool], Samples]
_PUBLISHED: dict[str, _Reader] = {
    **dict.fromkeys(REFER_FILES, refer_samples),
    'reasonseg': lambda name, split, root, level, raw: reasonseg_samples(split, root, level),
    'chartqa': lambda name, split, root, level, raw: chartqa_samples(split, root),
    'textvqa': lambda name, split, root, level, raw: textvqa_samples(split, root),
}


def read_samples(
    name: str,
    root: str | Path = '',
    level: str = '',
    limit: int = 0,
    raw: bool = False,
    split: str = 'test',
) -> Samples:
    """Return the samples of the dataset called ``name``.

    Args:
        name: A name from the table above.
        root: The folder of a published dataset.
        level: One of ``LEVELS``. '' stands for ``instance``, or for ``expression`` if the name
            ends in ``_all`` as some released sets do.
        limit: Maximum number of rows; 0 for all.
        raw: Return the sentences of the RefCOCO datasets as they were typed.
        split: The split of a hub id or a parquet folder that names none.

    Raises:
        DataError: The dataset does not exist, or has no row.
    """
    chosen = _level(name, level)
    if name.startswith('synthetic:'):
        return scene_samples(name.removeprefix('synthetic:'), limit)
    samples = _open(name, root, chosen, raw, split)
    return samples.first(limit) if limit else samples


def _level(name: str, level: str) -> Level:
    if not level:
        return 'expression' if name.rstrip('/').endswith('_all') else 'instance'
    try:
        return cast(Level, look_up('level', level, LEVELS))
    except UnknownNameError as error:
        raise DataError(str(error)) from error


def _open(name: str, root: str | Path, level: Level, raw: bool, default: str) -> Samples:
    folder = local_folder(name)
    if folder is not None:
        return (
            folder_samples(folder)
            if (folder / FILE).is_file()
            else masked_samples(name, level, default)
        )
    dataset, _, split = name.partition(':')
    if '/' in dataset and not name.startswith(('.', '/', '~')):
        return masked_samples(name, level, default)
    try:
        reader = _PUBLISHED[look_up('dataset', dataset, _PUBLISHED)]
    except UnknownNameError as error:
        raise DataError(
            f"{error}; or 'synthetic', a hub id such as 'Ricky06662/ReasonSeg_val', or a folder "
            'that exists'
        ) from error
    if not split:
        raise DataError(f"{name!r} needs a split: write for instance '{dataset}:val'")
    place = Path(root).expanduser()
    if not root or not place.is_dir():
        raise DataError(
            f'{name!r} is read from a folder, and there is none at '
            f"{str(root)!r}: give the root folder (docs/data.md shows each dataset's layout)"
        )
    return reader(dataset, split, place, level, raw)
