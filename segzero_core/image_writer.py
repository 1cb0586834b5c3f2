# SPDX-License-Identifier: Apache-2.0
"""Writes pictures and masks to files.

A picture is encoded in memory and the file is written by Python, because the imaging libraries
crash or fail on paths that are not UTF-8.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from segzero_core.errors import ImageError
from segzero_core.runtime.atomic import atomic_file
from segzero_core.runtime.program import one_line
from segzero_core.types import Image, Mask

FORMATS = {
    '.png': 'PNG',
    '.jpg': 'JPEG',
    '.jpeg': 'JPEG',
    '.webp': 'WEBP',
    '.bmp': 'BMP',
    '.tif': 'TIFF',
    '.tiff': 'TIFF',
}
LOSSLESS = ('.png', '.bmp', '.tif', '.tiff')


def check_output(path: Path, lossless: bool = False) -> None:
    """Make sure that a picture can be written, before a model works for minutes.

    Args:
        path: The file to be written.
        lossless: Its pixels must be read back as they were written, as those of a mask.

    Raises:
        ImageError: The suffix is no format that fits, the folder does not exist, or the file
            cannot be written there.
    """
    suffixes = LOSSLESS if lossless else tuple(FORMATS)
    if path.suffix.lower() not in suffixes:
        why = ', which would change the values of a mask' if path.suffix.lower() in FORMATS else ''
        raise ImageError(f'cannot write {path}{why}: use a name that ends in {suffixes[0]}')
    folder = path.parent
    if not folder.is_dir():
        raise ImageError(f'cannot write {path}: there is no folder {folder}, make it first')
    if path.is_dir():
        raise ImageError(f'cannot write {path}: it is a folder')
    allowed = os.access(folder, os.W_OK | os.X_OK)  # the file is replaced as a whole
    if not allowed or (path.exists() and not os.access(path, os.W_OK)):
        raise ImageError(f'cannot write {path}: you have no permission to write there')


def write_image(path: Path, image: Image) -> None:
    """Write (H, W, 3) uint8 RGB to a file; its suffix names the format, see ``FORMATS``.

    Raises:
        ImageError: The file cannot be written.
    """
    _write(path, PilImage.fromarray(image))


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask (H, W) bool as a grey picture of one channel: 255 is the object, 0 the rest.

    Raises:
        ImageError: The file cannot be written.
    """
    _write(path, PilImage.fromarray(mask.astype(np.uint8) * 255))


def _write(path: Path, picture: PilImage.Image) -> None:
    file = io.BytesIO()
    try:
        picture.save(file, FORMATS[path.suffix.lower()])
        with atomic_file(path) as draft:
            draft.write_bytes(file.getvalue())
    except (OSError, ValueError) as error:
        why = getattr(error, 'strerror', None) or one_line(error)
        raise ImageError(f'cannot write {path}: {why}') from error
