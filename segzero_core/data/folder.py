# SPDX-License-Identifier: Apache-2.0
"""A user's own dataset: a folder with ``records.jsonl`` and images.

Each line is a JSON object with ``image`` (a path in the folder), ``query`` (or ``problem``) and
one of

* ``box`` [x1, y1, x2, y2] and ``points`` [[x, y], [x, y]], in pixels of the image as it is shown;
* ``mask``: the path of a mask file of the same size, see ``mask_files``;
* ``solution``, as in the released datasets.

Optional keys are ``id`` (text or a number), ``reasoning``, and ``width`` and ``height``, the size
of the image when it was annotated, which is compared with the file. A row may have a mask as well
as a box or a solution; evaluation and the reward ``mask_iou`` need the mask.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segzero_core.data.image_io import PictureHeader, load_rgb, read_header
from segzero_core.data.mask_files import load_mask
from segzero_core.data.records import Annotation, Record, Skipped
from segzero_core.data.size_mismatch import explain_mismatch
from segzero_core.data.solutions import make_target, parse_solution
from segzero_core.errors import (
    DataError,
    EmptyMaskError,
    ImageError,
    QueryError,
    first_line,
    quoted,
)
from segzero_core.geometry import largest_inscribed_circles, mask_to_box
from segzero_core.prompts import check_query
from segzero_core.runtime.text_files import decode_text, text_encoding
from segzero_core.types import Box, Mask, Size

FILE = 'records.jsonl'


def read_folder(folder: Path, check_masks: bool = True) -> Iterator[Record | Skipped]:
    """Yield every row of ``folder``, in order.

    Args:
        folder: The folder that holds ``records.jsonl``.
        check_masks: Read the mask of a row at once, even if the row has a box: training must not
            fail after hours. Otherwise ``Record.load_mask`` raises for a mask that is wrong.

    Raises:
        DataError: ``records.jsonl`` cannot be read.
    """
    for number, line in enumerate(_lines(folder / FILE), start=1):
        if line.strip():
            yield _read_line(folder, line, f'{FILE}:{number}', check_masks)


def _lines(file: Path) -> list[bytes]:
    """Return the lines in UTF-8, without a byte order mark."""
    try:
        content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
        if text_encoding(content) != 'utf-8':  # UTF-16: a line ends in two bytes
            content = decode_text(content).encode()
    except OSError as error:
        raise DataError(f'cannot read {file} ({error.strerror})') from error
    except UnicodeError as error:
        raise DataError(
            f'{file} is not the text that its byte order mark announces ({first_line(error)}): '
            'save it as UTF-8'
        ) from error
    # Not splitlines: a sentence may hold other characters that end a line in Unicode.
    return content.split(b'\n')


def _read_line(folder: Path, line: bytes, place: str, check_masks: bool) -> Record | Skipped:
    name = place
    try:
        row = json.loads(line.decode())
        if not isinstance(row, dict):
            raise DataError('the line is no JSON object')
        name = _row_id(row, place)
        return _record(folder, row, name, check_masks)
    except (DataError, ImageError, EmptyMaskError, QueryError) as error:
        return Skipped(name, str(error))
    except UnicodeDecodeError as error:
        return Skipped(name, f'the line is not UTF-8 text ({first_line(error)})')
    except (ValueError, RecursionError) as error:
        return Skipped(name, f'the line is no JSON ({first_line(error)})')


def _row_id(row: dict[str, Any], place: str) -> str:
    value = row.get('id', place)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"'id' must be text or a number, got {quoted(value)}")
    return str(value)


def _record(folder: Path, row: dict[str, Any], name: str, check_masks: bool) -> Record:
    query = row.get('query', row.get('problem'))
    if not isinstance(query, str) or not isinstance(row.get('image'), str):
        raise DataError(
            f"needs 'image' and 'query', both text, has {quoted(', '.join(row) or 'nothing')}"
        )
    path = folder / row['image']
    header = read_header(path, verify=True)
    _check_stated_size(row, header)
    file = _mask_file(folder, row)
    targets = _targets(row, header)
    load = None
    if file is not None:
        load = functools.partial(_mask, file, header, tuple(target.box for target in targets))
        if not targets:
            targets = (_around(load()),)
        elif check_masks:
            load()
    if not targets:
        raise DataError("needs 'box' and 'points', or 'mask', or 'solution'")
    return Record(
        id=name,
        query=check_query(query),
        size=header.size,
        targets=targets,
        load_image=functools.partial(load_rgb, path, name),
        load_mask=load,
        reasoning=str(row.get('reasoning', '')),
        image=row['image'],
    )


def _check_stated_size(row: dict[str, Any], header: PictureHeader) -> None:
    width, height = row.get('width'), row.get('height')
    if (width, height) == (None, None) or (width, height) == header.size:
        return
    if not isinstance(width, int) or not isinstance(height, int):
        raise DataError(f"'width' and 'height' must be pixels, got {quoted([width, height])}")
    raise DataError(explain_mismatch(header, Size(width, height)))


def _mask_file(folder: Path, row: dict[str, Any]) -> Path | None:
    name = row.get('mask')
    if name is None:
        return None
    if not isinstance(name, str):
        raise DataError(f"'mask' must be the path of a picture file, got {quoted(name)}")
    return folder / name


def _mask(file: Path, header: PictureHeader, boxes: Sequence[Box]) -> Mask:
    """Return the row's (H, W) mask, checked against its picture and its boxes."""
    mask = load_mask(file)
    size = Size(mask.shape[1], mask.shape[0])
    if size != header.size:
        raise DataError(
            f'the mask is {tuple(size)}, the image {tuple(header.size)} pixels: '
            f'{explain_mismatch(header, size)}'
        )
    if not mask.any():
        raise EmptyMaskError(f'the mask of {tuple(size)} pixels has no pixel set')
    if boxes and not any(_touches(mask, box) for box in boxes):
        raise DataError(
            f"the mask's box is {list(mask_to_box(mask))}, the row's {list(boxes[0])}: they are "
            'of different objects'
        )
    return mask


def _targets(row: dict[str, Any], header: PictureHeader) -> tuple[Annotation, ...]:
    """Return the numbers of the row; empty if the row has only a mask."""
    if row.get('solution') is not None:
        return parse_solution(row['solution'], header.size, header.stored)
    if row.get('box') is None:
        return ()
    points = row.get('points')
    if not isinstance(points, list) or len(points) != 2:
        raise DataError(f"'points' must be two points, got {quoted(points)}")
    return (make_target(row['box'], points, header.size, header.stored),)


def _around(mask: Mask) -> Annotation:
    circles = largest_inscribed_circles(mask)
    return Annotation(mask_to_box(mask), tuple(circle.center for circle in circles))


def _touches(mask: Mask, box: Box) -> bool:
    x1, y1, x2, y2 = (max(int(value), 0) for value in box)
    return bool(mask[y1 : y2 + 1, x1 : x2 + 1].any())
