# SPDX-License-Identifier: Apache-2.0
"""Images and masks in files or bytes: checked without decoding, decoded when needed.

Photographs are turned as their EXIF orientation says. So do OpenCV, with which LISA reads them,
the library datasets, and the tools that polygons are drawn with. Of 16 bits the upper 8 count, as
for OpenCV.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import ExifTags, ImageOps
from PIL import Image as PilImage

from segzero_core.errors import DataError, ImageError
from segzero_core.types import Image, Mask, Size

_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    struct.error,
    PilImage.DecompressionBombError,
)


def check_image_file(source: Path | bytes) -> Size:
    """Return the size of an image after reading its header and checksums.

    Raises:
        DataError: It is missing, no image, or damaged as far as can be seen without decoding.
    """
    try:
        with PilImage.open(_stream(source)) as image:
            _check_depth(image)
            size = _turned_size(image)
            image.verify()
    except _ERRORS as error:
        raise DataError(f'{_name(source)} cannot be read as an image ({error})') from error
    return size


def image_file_size(path: Path) -> Size:
    """Return the size of an image after reading its header only.

    Raises:
        DataError: It is missing or no image.
    """
    try:
        with PilImage.open(path) as image:
            _check_depth(image)
            return _turned_size(image)
    except _ERRORS as error:
        raise DataError(f'{path} cannot be read as an image ({error})') from error


def decode_rgb(source: Path | bytes) -> Image:
    """Return the (H, W, 3) uint8 RGB image.

    Raises:
        ImageError: It cannot be decoded, or a part of it is missing.
    """
    try:
        with PilImage.open(_stream(source)) as image:
            _check_depth(image)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith('I'):  # 16 bits, of which Pillow would make white
                upright = PilImage.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.asarray(upright.convert('RGB'))
    except _ERRORS as error:
        raise ImageError(f'{_name(source)} cannot be decoded as a picture ({error})') from error


def load_rgb(source: Path | bytes, name: str) -> Image:
    """Return the image of the row called ``name``, see ``decode_rgb``.

    Raises:
        ImageError: It cannot be decoded; ``name`` (the row's id) is in the message.
    """
    try:
        return decode_rgb(source)
    except ImageError as error:
        raise ImageError(f'row {name!r}: {error}: repair or remove that row') from error


def load_mask(path: Path) -> Mask:
    """Return the (H, W) bool mask in an image file; every non-zero pixel belongs to it.

    Raises:
        ImageError: It cannot be decoded.
    """
    try:
        with PilImage.open(path) as image:
            plain = image.mode in ('1', 'L', 'F') or image.mode.startswith('I')
            # Not converted to grey: dark blue would become black.
            pixels = np.asarray(image if plain else image.convert('RGB'))
            return (pixels if pixels.ndim == 2 else pixels.max(axis=2)) != 0
    except _ERRORS as error:
        raise ImageError(f'the mask {path} cannot be decoded ({error})') from error


def _check_depth(image: PilImage.Image) -> None:
    # Older Pillow calls a PNG of 16 bits "I".
    if image.mode == 'F' or (image.mode == 'I' and image.format != 'PNG'):
        raise ValueError('its pixels have 32 bits: save it with 8 bits for each colour')


def _turned_size(image: PilImage.Image) -> Size:
    # Pillow turns a TIFF itself; to look for EXIF in a PNG that has none, it would decode it.
    upright = image.format == 'TIFF' or (image.format == 'PNG' and 'exif' not in image.info)
    if upright or image.getexif().get(ExifTags.Base.Orientation, 1) not in (5, 6, 7, 8):
        return Size(image.width, image.height)
    return Size(image.height, image.width)


def _stream(source: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _name(source: Path | bytes) -> str:
    return f'{len(source)} bytes' if isinstance(source, bytes) else str(source)
