# SPDX-License-Identifier: Apache-2.0
"""Masks as COCO run lengths, which take a few hundred bytes instead of a byte per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from segzero_core.data.image_io import PictureHeader
from segzero_core.data.size_mismatch import explain_mismatch
from segzero_core.errors import DataError, quoted
from segzero_core.types import Box, Mask, Size, image_size


class Rle(NamedTuple):
    """A mask as COCO's compressed run lengths (column by column), which JSON can hold.

    Attributes:
        size: Size of the mask, pixels.
        counts: The run lengths in COCO's ASCII encoding.
    """

    size: Size
    counts: str

    @property
    def area(self) -> int:
        """Number of pixels that are set."""
        return int(_coco().area(_to_coco(self)))

    @property
    def mask(self) -> Mask:
        """The (H, W) bool mask; decoded on every call."""
        decoded = _coco().decode(_to_coco(self))
        return np.ascontiguousarray(decoded).view(np.bool_)

    @property
    def box(self) -> Box | None:
        """The smallest box around the mask, with inclusive corners; ``None`` if it is empty."""
        x, y, width, height = (float(value) for value in _coco().toBbox(_to_coco(self)))
        return Box(x, y, x + width - 1, y + height - 1) if width and height else None

    def has(self, column: int, row: int) -> bool:
        """Return whether a pixel is set; pixels outside the mask are not."""
        width, height = self.size
        if not (0 <= column < width and 0 <= row < height):
            return False
        before = column * height + row
        runs = [before, 1, width * height - before - 1]
        given = {'size': [height, width], 'counts': runs}
        return shared_area([self, _from_coco(_coco().frPyObjects(given, height, width))]) == 1


def encode_mask(mask: Mask) -> Rle:
    """Return the run lengths of an (H, W) bool mask."""
    # Run lengths follow the columns, and OpenCV transposes faster than numpy.
    columns = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8))
    encoded = _coco().encode(columns.reshape(mask.shape[::-1]).T)
    return Rle(image_size(mask), encoded['counts'].decode())  # type: ignore[arg-type]


def shared_area(masks: Sequence[Rle]) -> int:
    """Return the number of pixels that all ``masks`` share, without decoding them."""
    if len(masks) == 1:
        return masks[0].area
    return int(_coco().area(_coco().merge([_to_coco(mask) for mask in masks], intersect=True)))


def unite(masks: Sequence[Rle], size: Size) -> Rle:
    """Return the union of masks of one size; an empty mask of ``size`` if there are none."""
    if not masks:
        height = size.height
        return _from_coco(
            _coco().frPyObjects(
                {'size': [height, size.width], 'counts': [height * size.width]}, height, size.width
            )
        )
    return _from_coco(_coco().merge([_to_coco(mask) for mask in masks], intersect=False))


def parse_segmentation(segmentation: Any, size: Size, header: PictureHeader | None = None) -> Rle:
    """Read COCO's ``segmentation`` of one object: polygons, or run lengths in any encoding.

    The mask is the union of the polygon's parts. A part of one or two points covers nothing and
    is skipped if there are other parts.

    Args:
        segmentation: ``[[x1, y1, x2, y2, ...], ...]``, ``{'size', 'counts'}`` or a list of those.
        size: Size of the image; a polygon is cut off at its border.
        header: Header of the image, to explain why run lengths of another size do not fit.

    Raises:
        DataError: Neither form, no part of at least three points, numbers that are not finite,
            nothing inside the image, or a polygon that covers all of it and reaches far beyond.
    """
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    if not parts:
        raise DataError('the segmentation is empty: the object has no polygon')
    shapes = [part for part in parts if not (isinstance(part, list) and len(part) in (2, 4))]
    known = header or PictureHeader(size, size)
    found = unite([_part(part, size, known) for part in shapes or parts], size)
    if found.area == 0:
        raise DataError(
            f'the mask is empty: no pixel of the segmentation lies inside the {size.width} x '
            f'{size.height} image'
        )
    if found.area == size.width * size.height:
        for part in shapes or parts:
            if isinstance(part, list):
                check_reach(part[0::2], part[1::2], size)
    return found


def check_reach(xs: Sequence[float], ys: Sequence[float], size: Size) -> None:
    """Check that a polygon which covers the whole image was drawn on an image of ``size``.

    Raises:
        DataError: It reaches far beyond the image: it was drawn on another size.
    """
    for values, side in ((xs, size.width), (ys, size.height)):
        beyond = max(-min(values), max(values) - side)
        if beyond > max(2.0, 0.05 * side):
            raise DataError(
                f'a polygon covers all of the {size.width} x {size.height} image and reaches '
                f'{beyond:.0f} pixels beyond it: it was drawn on another size or orientation'
            )


def _part(part: Any, size: Size, header: PictureHeader) -> Rle:
    if isinstance(part, dict):
        return _run_lengths(part, size, header)
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        raise DataError(
            f'a polygon must be a list of x, y of at least three points, got {quoted(part)}'
        )
    reach = 100 * max(size)  # far beyond it the rasteriser's integers overflow
    if not all(isinstance(value, (int, float)) and abs(value) <= reach for value in part):
        raise DataError(f'a polygon has a coordinate that is none: {quoted(part)}')
    return _from_coco(_coco().frPyObjects([part], size.height, size.width)[0])


def _run_lengths(part: dict[str, Any], size: Size, header: PictureHeader) -> Rle:
    counts, given = part.get('counts'), part.get('size')
    if given != [size.height, size.width]:
        raise DataError(
            f'the run lengths are of size {quoted(given)}, the image is '
            f'{size.height, size.width}{_why_other(header, given)}'
        )
    if isinstance(counts, bytes):
        counts = counts.decode('ascii', 'replace')
    if isinstance(counts, list) and all(isinstance(run, int) and run >= 0 for run in counts):
        if sum(counts) == size.width * size.height:
            return _from_coco(_coco().frPyObjects(part, size.height, size.width))
        raise DataError(
            f'the run lengths add up to {sum(counts)} pixels, the image has '
            f'{size.width * size.height}'
        )
    if isinstance(counts, str) and _runs_total(counts) == size.width * size.height:
        return Rle(size, counts)
    raise DataError(f'the run lengths {quoted(counts, 40)} do not describe a mask of the image')


def _why_other(header: PictureHeader, given: Any) -> str:
    sides = isinstance(given, (list, tuple)) and len(given) == 2
    if not sides or not all(isinstance(side, int) and side > 0 for side in given):
        return ''
    return f': {explain_mismatch(header, Size(given[1], given[0]))}'


def _runs_total(counts: str) -> int:
    """Return the sum of COCO's encoded run lengths, or -1 if they are damaged.

    COCO's own decoder crashes on damaged ones. A character from 48 on holds five bits and a
    continuation bit. Runs are signed; from the fourth one on, a run is stored as its difference
    from the run two places before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return -1
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            return -1
        value = shift = 0
    return -1 if shift else sum(runs)


def _to_coco(mask: Rle) -> dict[str, Any]:
    return {'size': [mask.size.height, mask.size.width], 'counts': mask.counts.encode()}


def _from_coco(encoded: dict[str, Any]) -> Rle:
    height, width = encoded['size']
    return Rle(Size(int(width), int(height)), encoded['counts'].decode())


def _coco() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DataError(
            'masks as run lengths need a library that is not here: '
            'pip install -r requirements/evaluate.txt'
        ) from error
    return mask
