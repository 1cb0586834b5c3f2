# SPDX-License-Identifier: Apache-2.0
"""ReasonSeg in LISA's layout: ``SPLIT/NAME.jpg`` with ``SPLIT/NAME.json``.

Each JSON has ``text`` (one instruction; several in ``train``), ``is_sentence`` and ``shapes``,
polygons labelled ``target``, ``ignore`` or ``flag`` (without a meaning). Layout and drawing:
dvlab-research/LISA at 3cb2d43, utils/data_processing.py.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.data.annotations import load_json, text_of
from segzero_core.data.image_io import image_file_size, load_rgb
from segzero_core.data.rle import check_reach, encode_mask
from segzero_core.data.samples import Level, Sample, SampleRow, Samples
from segzero_core.errors import DataError, quoted
from segzero_core.prompts import check_query
from segzero_core.types import Size

_TARGET, _IGNORE = 1, 255


def reasonseg_samples(split: str, root: Path, level: Level = 'instance') -> Samples:
    """Return the samples of one split.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder that holds the split's folder.
        level: ``instance``: the first instruction of every image, as in the evaluations of LISA
            and Seg-Zero; ``expression``: all instructions.

    Raises:
        DataError: The folder does not exist, or holds no image.
    """
    folder = root / split
    if not folder.is_dir():
        raise DataError(f'there is no folder {folder}: root must be the folder that holds {split}')
    files = sorted(folder.glob('*.json'))
    missing = sorted(
        path for path in folder.glob('*.jpg') if not path.with_suffix('.json').is_file()
    )
    rows = (row for path in [*files, *missing] for row in _rows(path, level))
    return Samples('reasonseg', split, level, rows, files)


def _rows(path: Path, level: Level) -> Iterator[SampleRow]:
    texts = 1
    if level == 'expression':
        with contextlib.suppress(DataError):  # the row reports the error
            texts = max(len(_texts(_load(path.with_suffix('.json')))), 1)
    for place in range(texts):
        row_id = path.stem if level == 'instance' else f'{path.stem}/{place}'
        yield SampleRow(row_id, path.stem, functools.partial(_make, path, place, row_id))


def _make(path: Path, place: int, row_id: str) -> Sample:
    content = _load(path.with_suffix('.json'))
    texts = _texts(content)
    if not texts:
        raise DataError(f'{path} has no text')
    image = path.with_suffix('.jpg')
    size = image_file_size(image)
    labels = draw_labels(_shapes(content), size)
    truth, ignore = encode_mask(labels == _TARGET), encode_mask(labels == _IGNORE)
    return Sample(
        id=row_id,
        query=check_query(text_of(texts[place])),
        image_id=path.stem,
        size=size,
        load_image=functools.partial(load_rgb, image, row_id),
        truth=truth,
        ignore=ignore if ignore.area else None,
        boxes=(truth.box,) if truth.box else (),
        group='long' if content.get('is_sentence') else 'short',
    )


def _load(path: Path) -> dict[str, Any]:
    content = load_json(path)
    if not isinstance(content, dict):
        raise DataError(f'{path} holds no object with text and shapes')
    return content


def _texts(content: dict[str, Any]) -> list[Any]:
    text = content.get('text')
    return text if isinstance(text, list) else [] if text is None else [text]


def _shapes(content: dict[str, Any]) -> list[tuple[int, npt.NDArray[np.int32]]]:
    """Return the label and the (1, n, 2) int32 corners of every target and ignored polygon."""
    found = []
    shapes = content.get('shapes')
    if not isinstance(shapes, list):
        raise DataError(f"'shapes' must be a list of polygons, got {quoted(shapes)}")
    for shape in shapes:
        label = str(shape.get('label', '')).lower() if isinstance(shape, dict) else ''
        if label == 'flag':
            continue
        points = shape.get('points') if isinstance(shape, dict) else None
        form = shape.get('shape_type') if isinstance(shape, dict) else None
        if form not in (None, '', 'polygon'):
            raise DataError(f'the shape {quoted(label)} is no polygon, but {quoted(form)}')
        if not _usable(points):
            raise DataError(f'the shape {quoted(label)} has no usable points: {quoted(points)}')
        corners = np.array([points], dtype=np.float64).astype(np.int32)
        found.append((_IGNORE if 'ignore' in label else _TARGET, corners))
    return found


def _usable(points: Any) -> bool:
    return (
        isinstance(points, list)
        and bool(points)
        and all(
            isinstance(point, list)
            and len(point) == 2
            # OpenCV's drawing overflows beyond 2**15.
            and all(isinstance(value, (int, float)) and abs(value) < 2**15 for value in point)
            for point in points
        )
    )


def draw_labels(
    shapes: list[tuple[int, npt.NDArray[np.int32]]], size: Size
) -> npt.NDArray[np.uint8]:
    """Return the (H, W) uint8 labels that LISA evaluates with: 0, 1 target, 255 ignore.

    Polygons are drawn with their outline, from the largest to the smallest; a later polygon
    covers an earlier one.

    Raises:
        DataError: All targets are outside the image, or one covers all of it and reaches far
            beyond.
    """
    labels = np.zeros((size.height, size.width), np.uint8)
    areas = []
    for _, corners in shapes:
        alone = np.zeros_like(labels)
        areas.append(int(np.count_nonzero(_draw(alone, corners, 1))))
    for index in np.argsort(areas)[::-1]:  # LISA's order, also of equally large polygons
        label, corners = shapes[int(index)]
        _draw(labels, corners, label)
    if (labels == _TARGET).all():
        for label, corners in shapes:
            if label == _TARGET:
                check_reach(corners[0, :, 0].tolist(), corners[0, :, 1].tolist(), size)
    wanted = [area for area, (label, _) in zip(areas, shapes, strict=True) if label == _TARGET]
    if wanted and not any(wanted):
        raise DataError(
            f'the mask is empty: every target polygon lies outside the {size.width} x '
            f'{size.height} image'
        )
    return labels


def _draw(
    canvas: npt.NDArray[np.uint8], corners: npt.NDArray[np.int32], value: int
) -> npt.NDArray[np.uint8]:
    cv2.polylines(canvas, [corners[0]], True, value, 1)
    cv2.fillPoly(canvas, [corners[0]], value)
    return canvas
