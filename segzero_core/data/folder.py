# SPDX-License-Identifier: Apache-2.0
"""A folder of one's own: ``records.jsonl`` beside images.

Each line is an object with ``image`` (path in the folder), ``query`` (or ``problem``) and one of

* ``box`` [x1, y1, x2, y2] and ``points`` [[x, y], [x, y]], in pixels of the image;
* ``mask``: path of a mask image of the same size, non-zero where the object is;
* ``solution``, as in the released datasets;

and optionally ``id`` and ``reasoning``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segzero_core.data.image_io import check_image_file, load_mask, load_rgb
from segzero_core.data.records import Annotation, Record, Skipped
from segzero_core.data.solutions import make_target, parse_solution
from segzero_core.errors import DataError, EmptyMaskError, ImageError, QueryError, first_line
from segzero_core.geometry import largest_inscribed_circles, mask_to_box
from segzero_core.prompts import check_query
from segzero_core.runtime.text_files import decode_text, text_encoding
from segzero_core.types import Size, image_size

FILE = 'records.jsonl'


def read_folder(folder: Path) -> Iterator[Record | Skipped]:
    """Yield every row of ``folder``, in order.

    Raises:
        DataError: ``records.jsonl`` cannot be read.
    """
    for number, line in enumerate(_lines(folder / FILE), start=1):
        if line.strip():
            yield _read_line(folder, line, f'{FILE}:{number}')


def _lines(file: Path) -> list[bytes]:
    """Return the lines in UTF-8, without a byte order mark."""
    try:
        content = file.read_bytes()
        if text_encoding(content) != 'utf-8':
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


def _read_line(folder: Path, line: bytes, place: str) -> Record | Skipped:
    name = place
    try:
        row = json.loads(line.decode())
        if not isinstance(row, dict):
            raise DataError('the line is no JSON object')
        name = str(row.get('id', place))
        return _record(folder, row, name)
    except (DataError, ImageError, EmptyMaskError, QueryError) as error:
        return Skipped(name, str(error))
    except UnicodeDecodeError as error:
        return Skipped(name, f'the line is not UTF-8 text ({first_line(error)})')
    except (ValueError, RecursionError) as error:
        return Skipped(name, f'the line is no JSON ({first_line(error)})')


def _record(folder: Path, row: dict[str, Any], name: str) -> Record:
    query = row.get('query', row.get('problem'))
    if not isinstance(query, str) or not isinstance(row.get('image'), str):
        raise DataError(f"needs 'image' and 'query', has {', '.join(row) or 'nothing'}")
    path = folder / row['image']
    size = check_image_file(path)
    mask = folder / row['mask'] if isinstance(row.get('mask'), str) else None
    return Record(
        id=name,
        query=check_query(query),
        size=size,
        targets=_targets(row, size, mask),
        load_image=functools.partial(load_rgb, path, name),
        load_mask=None if mask is None else functools.partial(load_mask, mask),
        reasoning=str(row.get('reasoning', '')),
        image=row['image'],
    )


def _targets(row: dict[str, Any], size: Size, mask_file: Path | None) -> tuple[Annotation, ...]:
    if 'solution' in row:
        return parse_solution(str(row['solution']), size)
    if 'box' in row:
        points = row.get('points')
        if not isinstance(points, list) or len(points) != 2:
            raise DataError(f"'points' must be two points, got {str(points)[:80]}")
        return (make_target(row['box'], points, size),)
    if mask_file is None:
        raise DataError("needs 'box' and 'points', or 'mask', or 'solution'")
    mask = load_mask(mask_file)
    if image_size(mask) != size:  # type: ignore[arg-type]
        raise DataError(f'the mask is {mask.shape[::-1]}, the image {tuple(size)} pixels')
    circles = largest_inscribed_circles(mask)
    return (Annotation(mask_to_box(mask), tuple(circle.center for circle in circles)),)
