# SPDX-License-Identifier: Apache-2.0
"""Names of datasets to measure on -> their samples.

========================== ====================================================================
``synthetic:val``          scenes made on the fly, see ``scenes``
a folder                   with ``records.jsonl``, see ``folder``
========================== ====================================================================
"""

from __future__ import annotations

from pathlib import Path

from segzero_core.data.folder import FILE
from segzero_core.data.own import folder_samples, scene_samples
from segzero_core.data.samples import LEVELS, Level, Samples
from segzero_core.errors import DataError, UnknownNameError
from segzero_core.registry import look_up


def read_samples(name: str, root: str | Path = '', level: str = '', limit: int = 0) -> Samples:
    """Return the samples of the dataset called ``name``.

    Args:
        name: As in the table above.
        root: The folder the dataset lies in, for those that are known by name.
        level: One of ``LEVELS``; '' for the dataset's own.
        limit: At most so many rows; 0 for all.

    Raises:
        DataError: There is no such dataset, or not one row in it.
    """
    try:
        chosen: Level = look_up('level', level, LEVELS) if level else 'instance'  # type: ignore[assignment]
    except UnknownNameError as error:
        raise DataError(str(error)) from error
    if name.startswith('synthetic:'):
        return scene_samples(name.removeprefix('synthetic:'), limit)
    samples = _open(name, Path(root).expanduser() if root else None, chosen)
    return samples.first(limit) if limit else samples


def _open(name: str, root: Path | None, level: Level) -> Samples:
    folder = Path(name).expanduser()
    if (folder / FILE).is_file():
        return folder_samples(folder)
    raise DataError(f'no such dataset: {name!r}')
