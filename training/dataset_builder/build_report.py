# SPDX-License-Identifier: Apache-2.0
"""The report of a prepared training set, the list of dropped annotations, and a contact sheet."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from segzero_core.data.image_io import load_rgb
from segzero_core.data.solutions import parse_solution
from segzero_core.overlay import PANEL, draw_overlay
from segzero_core.runtime.atomic import atomic_file, atomic_text
from segzero_core.types import Image, Segmentation, image_size
from training.dataset_builder.parts import SPLITS, PartReport
from training.dataset_builder.rows import KINDS

REPORT = 'report.json'
DROPPED = 'dropped.jsonl'
SHEET = 'sheet.png'
_TILES, _COLUMNS, _TILE = 24, 6, 280


def write_report(folder: Path, parts: Mapping[int, PartReport], without_task: int = 0) -> str:
    """Write ``report.json``, ``dropped.jsonl`` and ``sheet.png``; return the report as text.

    Args:
        folder: The folder with the finished rows.
        parts: The reports of all parts, by number.
        without_task: See ``Samples.without_task``.
    """
    kept = {split: sum(part.kept[split] for part in parts.values()) for split in SPLITS}
    dropped = [row for number in sorted(parts) for row in parts[number].dropped]
    kinds = Counter(row.kind for row in dropped)
    total = sum(kept.values()) + len(dropped)
    content = {
        'annotations': total,
        'rows': kept,
        'dropped': dict(kinds),
        'without_task': without_task,
    }
    atomic_text(folder / REPORT, json.dumps(content, indent=1))
    atomic_text(
        folder / DROPPED,
        ''.join(json.dumps(row._asdict(), ensure_ascii=False) + '\n' for row in dropped),
    )
    lines = [f'{total} annotations: {kept["train"]} rows to train on, {kept["val"]} held out']
    for kind, count in kinds.most_common():
        example = next(row for row in dropped if row.kind == kind)
        lines.append(
            f'{count} left out: {KINDS[kind]}. For example {example.id}: {example.reason}'
        )
    sheet = draw_sheet(folder, parts)
    if sheet is not None:
        with atomic_file(folder / SHEET) as draft:
            PilImage.fromarray(sheet).save(draft, 'png')
    return '\n'.join(lines)


def draw_sheet(folder: Path, parts: Mapping[int, PartReport]) -> Image | None:
    """Draw a sample of the rows with box, points and sentence; None if there is no row.

    Returns:
        (H, W, 3) uint8 RGB; the rows are spread evenly over the dataset.
    """
    places = [
        (split, number, index)
        for split in SPLITS
        for number in sorted(parts)
        for index in range(parts[number].kept[split])
    ]
    if not places:
        return None
    chosen = np.unique(np.linspace(0, len(places) - 1, _TILES).round().astype(int))
    tiles = [_draw_row(_read_row(folder, *places[index])) for index in chosen]
    width = _TILE
    rows = []
    for start in range(0, len(tiles), _COLUMNS):
        line = tiles[start : start + _COLUMNS]
        height = max(tile.shape[0] for tile in line)
        row = np.empty((height, min(len(tiles), _COLUMNS) * width, 3), np.uint8)
        row[:] = PANEL
        for column, tile in enumerate(line):
            row[: tile.shape[0], column * width : (column + 1) * width] = tile
        rows.append(row)
    return np.vstack(rows)


def _read_row(folder: Path, split: str, number: int, index: int) -> dict[str, Any]:
    from pyarrow import parquet

    part = folder / split / f'part-{number:05}.parquet'
    # Opened here, because pyarrow takes UTF-8 paths only.
    with part.open('rb') as opened, parquet.ParquetFile(opened) as file:
        batches = itertools.islice(file.iter_batches(batch_size=1), index, None)
        return dict(next(batches).to_pylist()[0])


def _draw_row(row: dict[str, Any]) -> Image:
    image = load_rgb(row['image']['bytes'], row['id'])
    size = image_size(image)
    (target,) = parse_solution(row['solution'], size)
    answer = Segmentation(
        mask=np.zeros(image.shape[:2], np.bool_),
        score=1.0,
        box=target.box,
        points=(target.points[0], target.points[1]),
        reasoning=row['id'],
        text=row['solution'],
    )
    drawn = draw_overlay(image, answer, row['problem'])
    height = round(drawn.shape[0] * _TILE / drawn.shape[1])
    small = PilImage.fromarray(drawn).resize((_TILE, height), PilImage.Resampling.LANCZOS)
    return np.asarray(small)
