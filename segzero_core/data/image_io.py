# SPDX-License-Identifier: Apache-2.0
"""Image files: size and orientation from the header, and pixels.

An image is turned by the orientation in its EXIF block, wherever the format keeps that (segments
of JPEG, WebP and AVIF; the PNG chunks ``eXIf`` and ``Raw profile type exif``, before or after the
pixels; a tag of TIFF). Without EXIF, the orientation in the XMP packet counts. Pillow follows the
same rules, and OpenCV those for EXIF. Sizes and pixels use the one orientation in
``PictureHeader``, so they cannot disagree. Of 16 bits per channel, the upper 8 are used, as in
OpenCV.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PilImage

from segzero_core.errors import DataError, ImageError, first_line, quoted
from segzero_core.types import Image, Size

PICTURE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    AssertionError,
    AttributeError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    PilImage.DecompressionBombError,
)

# Formats that Pillow decodes by itself: EPS, for example, would start another program.
_FORMATS = (
    *('JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM', 'MPO', 'AVIF', 'JPEG2000'),
    *('TGA', 'DIB', 'PCX', 'SGI', 'SUN', 'QOI'),
)
_TURNS = {
    2: PilImage.Transpose.FLIP_LEFT_RIGHT,
    3: PilImage.Transpose.ROTATE_180,
    4: PilImage.Transpose.FLIP_TOP_BOTTOM,
    5: PilImage.Transpose.TRANSPOSE,
    6: PilImage.Transpose.ROTATE_270,
    7: PilImage.Transpose.TRANSVERSE,
    8: PilImage.Transpose.ROTATE_90,
}
_PNG = b'\x89PNG\r\n\x1a\n'
_MOST_METADATA = 64 * 2**20  # bytes of a PNG that are not pixels


class PictureHeader(NamedTuple):
    """Size and orientation of an image, known without decoding it.

    Attributes:
        size: Size of the image as it is shown and decoded.
        stored: Size of the image as its pixels are stored.
        orientation: The EXIF orientation, 1 (shown as stored) to 8.
    """

    size: Size
    stored: Size
    orientation: int = 1


def read_header(source: Path | bytes, verify: bool = False) -> PictureHeader:
    """Return the header of a picture.

    Args:
        source: A file, or the content of one.
        verify: Also check the checksums, in formats that have them.

    Raises:
        DataError: The file is missing, is no image, or is visibly damaged before decoding.
    """
    try:
        with open_picture(source) as (image, header):
            if verify:
                image.verify()
            return header
    except PICTURE_ERRORS as error:
        raise DataError(f'{_name(source)} cannot be read as an image ({_why(error)})') from error


def check_image_file(source: Path | bytes) -> Size:
    """Return the size of a picture as it is shown, after reading its header and checksums.

    Raises:
        DataError: See ``read_header``.
    """
    return read_header(source, verify=True).size


def image_file_size(path: Path) -> Size:
    """Return the size of a picture as it is shown, after reading its header only.

    Raises:
        DataError: See ``read_header``.
    """
    return read_header(path).size


def decode_rgb(source: Path | bytes) -> Image:
    """Return the (H, W, 3) uint8 RGB picture as it is shown.

    Raises:
        ImageError: It cannot be decoded, or a part of it is missing.
    """
    try:
        with open_picture(source) as (image, header):
            upright = turn(image, header)
            if upright.mode.startswith('I'):  # 16 bits, which Pillow would clip to white
                upright = PilImage.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.asarray(upright.convert('RGB'))
    except PICTURE_ERRORS as error:
        raise ImageError(
            f'{_name(source)} cannot be decoded as a picture ({_why(error)})'
        ) from error


def load_rgb(source: Path | bytes, name: str) -> Image:
    """Return the picture of the row called ``name``, see ``decode_rgb``.

    Raises:
        ImageError: It cannot be decoded; ``name`` (the row's id) is in the message.
    """
    try:
        return decode_rgb(source)
    except ImageError as error:
        raise ImageError(f'row {quoted(name)}: {error}: repair or remove that row') from error


@contextlib.contextmanager
def open_picture(source: Path | bytes) -> Iterator[tuple[PilImage.Image, PictureHeader]]:
    """Open a picture without decoding it.

    Raises:
        One of ``PICTURE_ERRORS``: It is missing, no picture, or of 32 bits a channel.
    """
    with PilImage.open(_stream(source), formats=_known_formats()) as image:
        # Older Pillow calls a PNG of 16 bits "I".
        if image.mode == 'F' or (image.mode == 'I' and image.format != 'PNG'):
            raise ValueError('its pixels have 32 bits: save it with 8 bits for each colour')
        yield image, _header(image, source)


def turn(image: PilImage.Image, header: PictureHeader) -> PilImage.Image:
    """Decode an opened picture and return it as it is shown.

    Raises:
        One of ``PICTURE_ERRORS``: It cannot be decoded.
    """
    image.load()
    turned = image
    if image.format != 'TIFF' and header.orientation in _TURNS:  # Pillow turns a TIFF itself
        turned = image.transpose(_TURNS[header.orientation])
    if turned.size != header.size:
        raise ValueError(
            f'its header says {header.size.width} x {header.size.height} pixels, '
            f'decoded it has {turned.width} x {turned.height}'
        )
    return turned


def _header(image: PilImage.Image, source: Path | bytes) -> PictureHeader:
    if image.format == 'TIFF':  # Pillow has swapped the sides already, but ignores XMP here
        tags = image.tag_v2  # type: ignore[attr-defined]
        stored = Size(int(tags[256]), int(tags[257]))
    else:
        stored = Size(*image.size)
    if min(stored) < 1:
        raise ValueError('it has no pixels')
    orientation = _orientation(image, source)
    shown = Size(stored.height, stored.width) if orientation >= 5 else stored
    return PictureHeader(shown, stored, orientation)


def _orientation(image: PilImage.Image, source: Path | bytes) -> int:
    """Return the EXIF orientation, or 1 if the file states none that exists."""
    if image.format == 'TIFF':
        exif = image.getexif()  # Pillow also reads it to decode, so an error is final
    else:
        try:
            with _with_late_metadata(image, source) as described:
                # The base class: a PNG's own method would decode it first.
                exif = PilImage.Image.getexif(described)
        except PICTURE_ERRORS:
            return 1
    value = exif.get(ExifTags.Base.Orientation, 1)
    try:
        return int(value) if value in _TURNS else 1
    except TypeError:
        return 1


@contextlib.contextmanager
def _with_late_metadata(image: PilImage.Image, source: Path | bytes) -> Iterator[PilImage.Image]:
    """Yield the image; a PNG with the metadata that stands after its pixels."""
    if image.format != 'PNG':
        yield image
        return
    with PilImage.open(io.BytesIO(_png_without_pixels(source)), formats=('PNG',)) as described:
        yield described


def _png_without_pixels(source: Path | bytes) -> bytes:
    """Return a PNG with all metadata chunks first and without pixels."""
    opened = io.BytesIO(source) if isinstance(source, bytes) else source.open('rb')
    kept = [_PNG]
    total = 0
    with opened as file:
        file.seek(len(_PNG))
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack('>I4s', start)
            if kind == b'IEND':
                break
            if kind in (b'IDAT', b'fdAT'):
                file.seek(length + 4, io.SEEK_CUR)
                continue
            total += length
            if total > _MOST_METADATA:
                raise ValueError('it holds too much metadata')
            kept.append(start + file.read(length + 4))
    for kind in (b'IDAT', b'IEND'):
        kept.append(struct.pack('>I4sI', 0, kind, zlib.crc32(kind)))
    return b''.join(kept)


def _known_formats() -> list[str]:
    PilImage.init()
    return [name for name in _FORMATS if name in PilImage.OPEN]


def _stream(source: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _name(source: Path | bytes) -> str:
    return f'{len(source)} bytes' if isinstance(source, bytes) else quoted(str(source), 200)[1:-1]


def _why(error: BaseException) -> str:
    """Return the cause without the name of the file, which the message has already."""
    if isinstance(error, UnidentifiedImageError):
        return 'it is no picture of a known format'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error, 160)
