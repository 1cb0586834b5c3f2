# SPDX-License-Identifier: Apache-2.0
"""Read mask files that say plainly which pixels are the object, and refuse all others.

A mask is plain if its pixels are 0 and one other value. Its edges may be soft (anti-aliased, or
blurred by JPEG) if all other pixels are black or white. Any other file can be read in two ways, so
an error says what it holds: label images, soft masks, colours without black, a shape in the
transparency alone, or one value everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from segzero_core.data.image_io import PICTURE_ERRORS, PictureHeader, open_picture, turn
from segzero_core.errors import DataError, ImageError, first_line, quoted
from segzero_core.types import Mask

_REMEDY = 'save it as a grey PNG, 0 where the object is not and 255 where it is'
_LOSSY = ('JPEG', 'MPO', 'WEBP', 'AVIF', 'JPEG2000')
_MOST_STRAY = 1e-3  # share of grey pixels far from an edge that a lossy file may have
_GREY = 24  # maximum difference between the channels of a grey pixel in a lossy file


def load_mask(path: Path) -> Mask:
    """Return the (H, W) bool mask in a picture file, turned as ``image_io`` turns pictures.

    A mask without a pixel is returned as such.

    Raises:
        ImageError: The file cannot be decoded.
        DataError: Its pixels do not say plainly which of them are the object.
    """
    return read_mask(path)[0]


def read_mask(path: Path) -> tuple[Mask, PictureHeader]:
    """Return the mask in a picture file, see ``load_mask``, and the file's header."""
    try:
        with open_picture(path) as (image, header):
            lossy = image.format in _LOSSY
            pages = 1 if image.format == 'MPO' else getattr(image, 'n_frames', 1)
            if pages > 1:
                raise DataError(f'it holds {pages} pictures, a mask is one')
            upright = turn(image, header)
            return _read(upright, lossy), header
    except DataError as error:
        raise DataError(f'the mask {quoted(str(path), 200)[1:-1]} is not plain: {error}') from None
    except PICTURE_ERRORS as error:
        raise ImageError(
            f'the mask {quoted(str(path), 200)[1:-1]} cannot be decoded ({first_line(error, 160)})'
        ) from error


def plain_values(values: npt.NDArray[Any]) -> Mask:
    """Return the mask in an (H, W) array of bool, or of numbers that are 0 and 1, or 0 and 255.

    Raises:
        DataError: It holds anything else.
    """
    if values.dtype == np.bool_:
        return values
    found = np.unique(values)
    if not (np.isin(found, (0, 1)).all() or np.isin(found, (0, 255)).all()):
        raise DataError(f'the mask {_holds(found)}: it must hold false and true, or 0 and 1')
    return np.asarray(values != 0)


def _read(image: PilImage.Image, lossy: bool) -> Mask:
    if image.mode == 'RGBX':
        image = image.convert('RGB')
    if image.has_transparency_data:
        pixels = np.asarray(image.convert('RGBA'))
        return _with_alpha(pixels[..., :3], pixels[..., 3], lossy)
    if image.mode == 'P':
        found = _from_colours(np.asarray(image.convert('RGB')), lossy)
        if not np.array_equal(found, np.asarray(image) != 0):
            raise DataError(
                'its palette does not show entry 0, the background of label images, as black: '
                f'{_REMEDY}'
            )
        return found
    if image.mode in ('1', 'L') or image.mode.startswith('I'):
        return _from_grey(np.asarray(image), lossy)
    return _from_colours(np.asarray(image.convert('RGB')), lossy)


def _with_alpha(colours: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8], lossy: bool) -> Mask:
    """Return the mask in the colours, if the transparency does not contradict it."""
    if alpha.min() == 255:
        return _from_colours(colours, lossy)
    says = f'part of it is transparent: {_REMEDY}, without transparency'
    try:
        shape = _from_colours(colours, lossy)
    except DataError as error:
        raise DataError(f'{says} (the colours alone: {error})') from error
    elsewhere = ~_edge(shape, 3 if lossy else 1)
    if not shape.any() or ((shape ^ (alpha >= 128)) & elsewhere).any():
        raise DataError(says)
    return shape


def _from_colours(pixels: npt.NDArray[np.uint8], lossy: bool) -> Mask:
    """Read (H, W, 3) uint8 pixels: grey ones, or exactly black and one colour."""
    low, high = pixels.min(axis=2), pixels.max(axis=2)
    if int((high - low).max()) <= (_GREY if lossy else 0):
        return _from_grey(high, lossy)
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found = np.unique(packed)
    if lossy or len(found) != 2 or found[0] != 0:
        named = ', '.join(f'#{value:06x}' for value in found[:4].tolist())
        more = f' and {len(found) - 4} more' if len(found) > 4 else ''
        raise DataError(f'it holds the colours {named}{more}: {_REMEDY}')
    return np.asarray(packed != 0)


def _from_grey(pixels: npt.NDArray[Any], lossy: bool) -> Mask:
    """Read (H, W) bool or numbers."""
    found = np.unique(pixels)
    if len(found) == 1:
        if found[0] == 0:
            return np.zeros(pixels.shape, np.bool_)
        raise DataError(f'every pixel is {_number(found[0])}, so that nothing is background')
    if len(found) == 2 and 0 in found and not (lossy and found[-1] < 128):
        return np.asarray(pixels != 0)
    white = 255 if pixels.dtype == np.uint8 else 65535
    soft = len(found) > 2 and (lossy or len(found) > 4)
    if soft and found[0] >= 0 and found[-1] <= white:
        share = pixels.astype(np.float32) / np.float32(white)
        mask = share >= 0.5
        if _only_edges_are_soft(share, mask, lossy):
            return mask
    raise DataError(f'it {_holds(found)}: {_REMEDY}')


def _only_edges_are_soft(share: npt.NDArray[np.float32], mask: Mask, lossy: bool) -> bool:
    """Return whether every pixel is near 0 or 1, except at the edge of the mask."""
    off = np.minimum(share, np.abs(1 - share))
    if not mask.any() or mask.all():
        return False
    # A JPEG block has 8 x 8 pixels, so an edge disturbs up to 8 pixels next to it.
    limits = ((0.25, 3), (0.04, 9)) if lossy else ((0.25, 2), (0.02, 2))
    strays = sum(
        int(np.count_nonzero((off > most) & ~_edge(mask, reach))) for most, reach in limits
    )
    return strays <= (_MOST_STRAY * mask.size if lossy else 0)


def _edge(mask: Mask, reach: int) -> Mask:
    """Return the pixels within ``reach`` of the edge of a mask, on both sides."""
    return _dilated(mask, reach) & ~_eroded(mask, reach)


def _dilated(mask: Mask, reach: int) -> Mask:
    side = 2 * reach + 1
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8))
    return np.asarray(grown, dtype=np.bool_)


def _eroded(mask: Mask, reach: int) -> Mask:
    return ~_dilated(~mask, reach)


def _holds(found: npt.NDArray[Any]) -> str:
    """Name the values of a mask, in order."""
    named = ', '.join(_number(value) for value in found[:5])
    return f'holds the values {named}{f" and {len(found) - 5} more" if len(found) > 5 else ""}'


def _number(value: Any) -> str:
    return f'{value.item():g}' if not isinstance(value, np.bool_) else str(int(value))
