# SPDX-License-Identifier: Apache-2.0
"""Image messages to arrays, and arrays to image messages.

The codec ``numpy`` needs only NumPy and OpenCV and shares the message's memory where it can. The
codec ``cv_bridge`` gives the same arrays, but a cv_bridge that was built for NumPy 1 crashes the
process under the NumPy 2 that torch requires. Therefore it is tried in another process first.
"""

from __future__ import annotations

import array
import copy
import subprocess
import sys
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from segzero_core.errors import CodecError, ImageError, quoted
from segzero_core.grasping.roi import Depth
from segzero_core.types import Image as RgbImage
from segzero_ros.compressed_depth import decode_compressed_depth

Array = npt.NDArray[Any]

JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
PROBE_S = 60.0  # to import OpenCV from a cold disk


class Encoding(NamedTuple):
    """Type (as NumPy writes it) and channels of a stored pixel."""

    dtype: str
    channels: int


# ROS names a Bayer pattern by its first two rows, OpenCV by the second row from the second pixel.
BAYER = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}

ENCODINGS = {
    'mono8': Encoding('u1', 1),
    '8UC1': Encoding('u1', 1),
    'rgb8': Encoding('u1', 3),
    'bgr8': Encoding('u1', 3),
    '8UC3': Encoding('u1', 3),
    'rgba8': Encoding('u1', 4),
    'bgra8': Encoding('u1', 4),
    'mono16': Encoding('u2', 1),
    '16UC1': Encoding('u2', 1),
    '32FC1': Encoding('f4', 1),
    'yuv422': Encoding('u1', 2),
    'uyvy': Encoding('u1', 2),
    'yuv422_yuy2': Encoding('u1', 2),
    'yuyv': Encoding('u1', 2),
    **{f'bayer_{order}8': Encoding('u1', 1) for order in BAYER},
    **{f'bayer_{order}16': Encoding('u2', 1) for order in BAYER},
}

# None: it is RGB already. 8UC3 names no colour order, so OpenCV's own order is the convention.
TO_RGB = {
    'rgb8': None,
    'bgr8': cv2.COLOR_BGR2RGB,
    '8UC3': cv2.COLOR_BGR2RGB,
    'rgba8': cv2.COLOR_RGBA2RGB,
    'bgra8': cv2.COLOR_BGRA2RGB,
    'mono8': cv2.COLOR_GRAY2RGB,
    '8UC1': cv2.COLOR_GRAY2RGB,
    'mono16': cv2.COLOR_GRAY2RGB,
    'yuv422': cv2.COLOR_YUV2RGB_UYVY,
    'uyvy': cv2.COLOR_YUV2RGB_UYVY,  # what newer drivers call yuv422
    'yuv422_yuy2': cv2.COLOR_YUV2RGB_YUY2,
    'yuyv': cv2.COLOR_YUV2RGB_YUY2,
    **{f'bayer_{order}{bits}': code for order, code in BAYER.items() for bits in (8, 16)},
}


# cv_bridge converts colours only if the encoding names them, and only knows the older names.
CV_BRIDGE_NAMES = {'8UC1': 'mono8', '8UC3': 'bgr8', 'uyvy': 'yuv422', 'yuyv': 'yuv422_yuy2'}


class Codec(Protocol):
    """Decodes the images that the node subscribes to."""

    def rgb(self, message: Image | CompressedImage) -> RgbImage:
        """Return (H, W, 3) uint8 RGB. It may share the message's memory: do not write to it.

        Raises:
            ImageError: The message is broken, or its encoding is not one of pictures.
        """
        ...

    def depth(self, message: Image | CompressedImage) -> Depth:
        """Return (H, W) float32 metres; invalid pixels stay 0, NaN or infinite.

        Args:
            message: Raw, or compressed as image_transport's ``compressedDepth``.

        Raises:
            ImageError: The message is broken, or its encoding is not one of depth (REP 118).
        """
        ...


class NumpyCodec:
    """The codec of this package."""

    def rgb(self, message: Image | CompressedImage) -> RgbImage:
        """See ``Codec.rgb``."""
        if isinstance(message, CompressedImage):
            return decode_compressed(message)
        if message.encoding not in TO_RGB and message.encoding:
            raise ImageError(
                f'the encoding {quoted(message.encoding)} is not one of pictures; '
                f'publish one of {", ".join(TO_RGB)}, or set image.codec to cv_bridge'
            )
        pixels, code = image_to_array(message), TO_RGB[message.encoding]
        rgb = pixels if code is None else cv2.cvtColor(pixels, code)
        return cv2.convertScaleAbs(rgb, alpha=255 / 65535) if rgb.dtype == np.uint16 else rgb

    def depth(self, message: Image | CompressedImage) -> Depth:
        """See ``Codec.depth``."""
        if isinstance(message, CompressedImage):
            return _decompress_depth(message)
        return _in_metres(image_to_array(message), message.encoding)


class CvBridgeCodec:
    """The ROS package cv_bridge."""

    def __init__(self) -> None:
        """Import cv_bridge.

        Raises:
            CodecError: It is not installed, or does not work with this NumPy and OpenCV.
        """
        probe_cv_bridge()
        import cv_bridge

        self._bridge = cv_bridge.CvBridge()

    def rgb(self, message: Image | CompressedImage) -> RgbImage:
        """See ``Codec.rgb``."""
        if isinstance(message, CompressedImage):
            return self._read(self._bridge.compressed_imgmsg_to_cv2, _checked(message), 'rgb8')
        message = _tight(message)
        message = copy.copy(message)
        message.encoding = CV_BRIDGE_NAMES.get(message.encoding, message.encoding)
        return self._read(self._bridge.imgmsg_to_cv2, message, 'rgb8')

    def depth(self, message: Image | CompressedImage) -> Depth:
        """See ``Codec.depth``; cv_bridge's Python interface cannot decode compressed depth."""
        if isinstance(message, CompressedImage):
            return _decompress_depth(message)
        pixels = self._read(self._bridge.imgmsg_to_cv2, _tight(message), 'passthrough')
        return _in_metres(pixels, message.encoding)

    def _read(self, read: Any, message: Any, encoding: str) -> Array:
        try:
            return np.asarray(read(message, encoding))
        except Exception as error:  # cv_bridge passes on any error of its libraries
            raise ImageError(f'cv_bridge cannot read the image: {error}') from error


def load_codec(name: str) -> Codec:
    """Return the codec called ``numpy`` or ``cv_bridge``.

    Raises:
        CodecError: cv_bridge cannot be used here.
        ValueError: Another name.
    """
    if name == 'cv_bridge':
        return CvBridgeCodec()
    if name == 'numpy':
        return NumpyCodec()
    raise ValueError(f'unknown codec {name!r}; one of numpy, cv_bridge')


def image_to_array(message: Image) -> Array:
    """Return the pixels as they are stored, (H, W) or (H, W, C), in the machine's byte order.

    The array shares the message's memory unless rows are padded or bytes must be swapped. A step
    of 0 was left empty by the driver, and stands for rows without padding.

    Raises:
        ImageError: Unknown encoding, no pixels, or a step or size that does not fit.
    """
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        unknown = f'unknown image encoding {quoted(message.encoding)}'
        if not message.encoding:
            unknown = 'the image has no encoding: let the driver fill it in'
        raise ImageError(f'{unknown}; known are {", ".join(ENCODINGS)}')
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ImageError(f'the image is empty: {width} x {height} pixels')
    if encoding.channels == 2 and width % 2:
        raise ImageError(
            f'{message.encoding} stores two pixels together, so the width {width} must be even'
        )
    dtype = np.dtype(encoding.dtype)
    row = width * encoding.channels * dtype.itemsize
    step = step or row
    if step < row:
        raise ImageError(
            f'step {step} is too small: {width} pixels of {message.encoding} take {row} bytes'
        )
    if len(message.data) != height * step:
        raise ImageError(
            f'{height} rows of {step} bytes make {height * step}, not {len(message.data)} bytes'
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)
    stored = dtype.newbyteorder('>' if message.is_bigendian else '<')
    pixels = np.ascontiguousarray(rows[:, :row]).view(stored).astype(dtype, copy=False)
    return pixels if encoding.channels == 1 else pixels.reshape(height, width, -1)


def array_to_image(pixels: Array, encoding: str, header: Header) -> Image:
    """Return a message with a copy of ``pixels``.

    Args:
        pixels: (H, W) or (H, W, C), as ``encoding`` wants them, in the machine's byte order.
        encoding: One of ``ENCODINGS``.
        header: The message's own.
    """
    data = array.array('B')
    data.frombytes(np.ascontiguousarray(pixels).data.cast('B'))
    height, width = pixels.shape[:2]
    message = Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == 'big'),
        step=len(data) // height,
    )
    # rclpy copies an array.array as a whole. It checks anything else, and anything given to the
    # constructor, element by element: up to 100 ms for an image.
    message.data = data
    return message


def decode_compressed(message: CompressedImage) -> RgbImage:
    """Return the picture of a JPEG or PNG message, (H, W, 3) uint8 RGB.

    Raises:
        ImageError: It is truncated or corrupt, or in a format that OpenCV does not know.
    """
    # Rotated as its EXIF data says, it would no longer fit camera_info and depth.
    as_stored = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(_checked(message).data, np.uint8), as_stored)
    if pixels is None:
        raise ImageError(
            f'the compressed image ({message.format!r}, {len(message.data)} bytes) is corrupt or '
            'in a format that OpenCV does not know; publish jpeg or png'
        )
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _checked(message: CompressedImage) -> CompressedImage:
    data = memoryview(message.data)
    if not data:
        raise ImageError('the compressed image is empty')
    # OpenCV before 4.11 fills missing parts with grey and reports success. In compressed data an
    # 0xff byte is never followed by 0xd9, so that pair marks the end.
    if data[:2] == JPEG_START and JPEG_END not in bytes(data):
        raise ImageError(f'the JPEG image ends too early, after {len(data)} bytes')
    return message


def _decompress_depth(message: CompressedImage) -> Depth:
    return _in_metres(*decode_compressed_depth(bytes(message.data), message.format))


def _in_metres(pixels: Array, encoding: str) -> Depth:
    if encoding in ('16UC1', 'mono16'):
        return pixels * np.float32(0.001)
    if encoding == '32FC1':
        return pixels
    raise ImageError(
        f'the encoding {quoted(encoding)} is not one of depth; publish 16UC1 (millimetres) or '
        '32FC1 (metres)'
    )


def _tight(message: Image) -> Image:
    """Return the message without row padding and in the machine's byte order.

    cv_bridge's Python code misreads padding that is not a whole number of pixels, and its way
    of swapping bytes no longer exists in NumPy 2.
    """
    if message.encoding not in ENCODINGS:
        return message
    return array_to_image(image_to_array(message), message.encoding, message.header)


PROBE = """
import numpy as np
from cv_bridge import CvBridge
from sensor_msgs.msg import Image
message = Image(height=1, width=1, encoding='bgr8', step=3, data=[1, 2, 3])
assert CvBridge().imgmsg_to_cv2(message, 'rgb8').tolist() == [[[3, 2, 1]]]
"""


def probe_cv_bridge() -> None:
    """Convert one pixel with cv_bridge in a separate process, because cv_bridge may crash.

    Raises:
        CodecError: cv_bridge is not installed, or does not work with this NumPy and OpenCV.
    """
    try:
        probe = subprocess.run(
            [sys.executable, '-c', PROBE], capture_output=True, text=True, timeout=PROBE_S
        )
    except subprocess.TimeoutExpired:
        reason = f'converting one pixel took longer than {PROBE_S:.0f} s'
    else:
        if probe.returncode == 0:
            return
        lines = probe.stderr.strip().splitlines()
        crashed = f'it crashes with NumPy {np.__version__} (signal {-probe.returncode})'
        reason = crashed if probe.returncode < 0 else (lines or ['no message'])[-1]
    raise CodecError(f'cv_bridge cannot be used here: {reason}. Set image.codec to numpy')
