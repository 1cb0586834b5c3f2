# SPDX-License-Identifier: Apache-2.0
"""Decodes depth images of image_transport's ``compressedDepth``. Imports no ROS.

The format is that of compressed_depth_image_transport: a header of twelve bytes (kind of
compression, two parameters), then 16-bit values as PNG or RVL (Wilson, "Fast Lossless Depth Image
Compression", 2017).
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

from segzero_core.errors import ImageError

HEADER = struct.Struct('<iff')  # kind of compression, and the two parameters of 32FC1
RVL_SIZE = struct.Struct('<II')  # width, height
MAX_PIXELS = 2**26  # a larger size means that the data is corrupt
WORD_NIBBLES = 8
NUMBER_NIBBLES = 11  # 32 bits, three to a nibble

Depth16 = npt.NDArray[np.uint16]


def decode_compressed_depth(
    data: bytes, description: str
) -> tuple[npt.NDArray[np.uint16] | npt.NDArray[np.float32], str]:
    """Return the depth image and its encoding: 16UC1 (H, W) uint16, or 32FC1 (H, W) float32.

    Args:
        data: As in ``sensor_msgs/CompressedImage``.
        description: ``format`` of the message: ``16UC1; compressedDepth png``, or with 32FC1, or
            with rvl. Older publishers leave out ``png``.

    Raises:
        ImageError: The format is another one, or the data is truncated or corrupt.
    """
    encoding, _, transport = (part.strip() for part in description.partition(';'))
    name, _, codec = transport.partition(' ')
    if encoding not in ('16UC1', '32FC1') or name != 'compressedDepth':
        raise ImageError(
            f'format {description!r} is not compressed depth; subscribe a topic that ends in '
            '/compressedDepth, or set depth.transport to raw'
        )
    if len(data) <= HEADER.size:
        raise ImageError(f'the compressed depth image ends after {len(data)} bytes')
    _, a, b = HEADER.unpack_from(data)
    payload = data[HEADER.size :]
    if codec in ('png', ''):
        values = _decode_png(payload)
    elif codec == 'rvl':
        values = _decode_rvl(payload)
    else:
        raise ImageError(f'unknown depth compression {codec!r} in {description!r}; png or rvl')
    return (values, encoding) if encoding == '16UC1' else (_from_inverse(values, a, b), encoding)


def _from_inverse(values: Depth16, a: float, b: float) -> npt.NDArray[np.float32]:
    """Return metres: 32FC1 is sent as quantised inverse depth, coarser at larger distances."""
    with np.errstate(divide='ignore', invalid='ignore'):  # of a corrupt header
        metres = np.float32(a) / (values.astype(np.float32) - np.float32(b))
    return np.where(values > 0, metres, np.float32(np.nan))


def _decode_png(data: bytes) -> Depth16:
    # OpenCV fills missing parts with zeros and reports success.
    if not data.endswith(b'IEND\xaeB\x60\x82'):
        raise ImageError(f'the compressed depth image is no PNG, or cut off at {len(data)} bytes')
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 2:
        raise ImageError('the compressed depth image holds no PNG of 16-bit grey')
    return np.asarray(values, np.uint16)


def _decode_rvl(data: bytes) -> Depth16:
    """Decode alternating runs of zeros and of non-zeros, stored as differences."""
    if len(data) < RVL_SIZE.size:
        raise ImageError(f'the RVL depth image ends after {len(data)} bytes')
    width, height = RVL_SIZE.unpack_from(data)
    numbers = _rvl_numbers(data[RVL_SIZE.size :])
    count = width * height
    if not 0 < count <= MAX_PIXELS:
        raise ImageError(f'the RVL depth image is corrupt: {width} x {height} pixels')
    differences = (numbers >> 1) ^ -(numbers & 1)
    values, lengths = np.zeros(count, np.int64), numbers.tolist()
    filled = np.zeros(count, bool)
    at = pixel = 0
    while pixel < count:
        if at + 2 > len(lengths):
            raise ImageError(f'the RVL depth image ends at pixel {pixel} of {count}')
        zeros, run = lengths[at : at + 2]
        start, end = pixel + zeros, pixel + zeros + run
        if end > count or at + 2 + run > len(lengths):
            raise ImageError(f'the RVL depth image is corrupt at pixel {pixel} of {count}')
        values[start:end] = differences[at + 2 : at + 2 + run]
        filled[start:end] = True
        at, pixel = at + 2 + run, end
    values[filled] = np.cumsum(values[filled])
    return values.astype(np.uint16).reshape(height, width)


def _rvl_numbers(data: bytes) -> npt.NDArray[np.int64]:
    """Read numbers of one or more nibbles, lowest first: three bits and a flag for more."""
    words = np.frombuffer(data[: len(data) // 4 * 4], '<u4')
    shifts = np.arange(4 * (WORD_NIBBLES - 1), -1, -4, dtype=np.uint32)
    nibbles = (words[:, None] >> shifts & 15).ravel().astype(np.int64)
    last = np.flatnonzero(nibbles < 8)
    if not len(last):
        raise ImageError('the RVL depth image holds no number')
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > NUMBER_NIBBLES:
        raise ImageError('the RVL depth image is corrupt: it holds a number beyond 32 bits')
    place = np.arange(last[-1] + 1) - np.repeat(first, lengths)
    return np.add.reduceat((nibbles[: last[-1] + 1] & 7) << 3 * place, first)
