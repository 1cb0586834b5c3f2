# SPDX-License-Identifier: Apache-2.0
"""Image messages read and written by our codec, and by cv_bridge where it works."""

import struct

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from segzero_core.errors import ImageError
from segzero_ros.images import (
    ENCODINGS,
    TO_RGB,
    CodecError,
    NumpyCodec,
    array_to_image,
    image_to_array,
    load_codec,
)

HEIGHT, WIDTH = 5, 8  # even: two pixels of YUV share their colours


def pixels_of(encoding):
    """Return an array with a different value in every element."""
    dtype, channels = ENCODINGS[encoding]
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    values = np.arange(np.prod(shape)).reshape(shape)
    return (values * 401 if dtype == 'u2' else values).astype(dtype)


def message_of(encoding, padding=0, big_endian=False):
    pixels = pixels_of(encoding)
    stored = pixels.astype(pixels.dtype.newbyteorder('>' if big_endian else '<'))
    rows = [row.tobytes() + b'\xaa' * padding for row in stored]
    return Image(
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=len(rows[0]),
        data=b''.join(rows),
    )


def compressed(image, suffix='.png'):
    ok, data = cv2.imencode(suffix, image)
    assert ok
    return CompressedImage(format=suffix[1:], data=data.tobytes())


@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('padding', [0, 1, 6])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_encoding_padding_and_byte_order(encoding, padding, big_endian):
    pixels = image_to_array(message_of(encoding, padding, big_endian))
    assert pixels.dtype == pixels_of(encoding).dtype
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, pixels_of(encoding))


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_writing_and_reading_are_inverse(encoding):
    header = Header(frame_id='camera')
    message = array_to_image(pixels_of(encoding), encoding, header)
    assert message.header == header
    assert message.step * message.height == len(message.data)
    np.testing.assert_array_equal(image_to_array(message), pixels_of(encoding))


def test_writing_an_array_that_is_a_view():
    pixels = pixels_of('rgb8')[::-1, ::-1, ::-1]
    message = array_to_image(pixels, 'rgb8', Header())
    np.testing.assert_array_equal(image_to_array(message), pixels)


def test_reading_shares_the_messages_memory():
    message = message_of('rgb8')
    assert np.shares_memory(NumpyCodec().rgb(message), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize(
    ('encoding', 'pixel'),
    [
        ('rgb8', [1, 2, 3]),
        ('bgr8', [3, 2, 1]),
        ('8UC3', [3, 2, 1]),
        ('rgba8', [1, 2, 3, 9]),
        ('bgra8', [3, 2, 1, 9]),
    ],
)
def test_colours_become_rgb(encoding, pixel):
    rgb = NumpyCodec().rgb(array_to_image(np.array([[pixel]], np.uint8), encoding, Header()))
    assert rgb.tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_grey_becomes_rgb(encoding):
    rgb = NumpyCodec().rgb(message_of(encoding))
    np.testing.assert_array_equal(rgb, np.stack([pixels_of(encoding)] * 3, axis=2))


def test_16_bit_grey_becomes_rgb_over_its_whole_range():
    grey = np.array([[0, 65535 // 2, 65535]], np.uint16)
    rgb = NumpyCodec().rgb(array_to_image(grey, 'mono16', Header()))
    assert rgb[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize(
    ('order', 'pattern'),
    [('rggb', 'RGGB'), ('bggr', 'BGGR'), ('gbrg', 'GBRG'), ('grbg', 'GRBG')],
)
def test_bayer_patterns_become_rgb(order, pattern, bits):
    colour = {'R': 200, 'G': 120, 'B': 40}
    cell = np.array([colour[letter] for letter in pattern]).reshape(2, 2)
    mosaic = np.tile(cell, (4, 5)) * (257 if bits == 16 else 1)
    message = array_to_image(mosaic.astype(f'u{bits // 8}'), f'bayer_{order}{bits}', Header())
    rgb = NumpyCodec().rgb(message)
    assert rgb.shape == (8, 10, 3)
    assert (rgb == [200, 120, 40]).all()


@pytest.mark.parametrize(
    ('encoding', 'stored'),
    [
        ('yuv422', [[90, 81], [240, 145]]),  # U Y, V Y
        ('uyvy', [[90, 81], [240, 145]]),
        ('yuv422_yuy2', [[81, 90], [145, 240]]),  # Y U, Y V
        ('yuyv', [[81, 90], [145, 240]]),
    ],
)
def test_yuv_becomes_rgb(encoding, stored):
    """By BT.601 with 16 to 235 for black to white, Y 81, U 90, V 240 is pure red."""
    rgb = NumpyCodec().rgb(array_to_image(np.array([stored], np.uint8), encoding, Header()))
    red, brighter = rgb[0].astype(int)
    np.testing.assert_allclose(red, [255, 0, 0], atol=2)
    np.testing.assert_allclose(brighter, [255, 74, 73], atol=3)


def test_depth_in_millimetres_and_metres():
    millimetres = array_to_image(np.array([[0, 500, 65535]], np.uint16), '16UC1', Header())
    metres = array_to_image(np.array([[np.nan, 0.5, np.inf]], np.float32), '32FC1', Header())
    depth = NumpyCodec().depth(millimetres)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0, 0.5, 65.535]], rtol=1e-6)
    np.testing.assert_array_equal(NumpyCodec().depth(metres), [[np.nan, np.float32(0.5), np.inf]])


def test_a_picture_is_no_depth_and_depth_no_picture():
    with pytest.raises(ImageError, match="'rgb8' is not one of depth"):
        NumpyCodec().depth(message_of('rgb8'))
    with pytest.raises(ImageError, match="'32FC1' is not one of pictures"):
        NumpyCodec().rgb(message_of('32FC1'))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'encoding': 'nonsense'}, "unknown image encoding 'nonsense'"),
        ({'step': 20}, 'step 20 is too small: 8 pixels of rgb8 take 24 bytes'),
        ({'step': 25}, '5 rows of 25 bytes make 125, not 120 bytes'),
        ({'height': 4}, '4 rows of 24 bytes make 96, not 120 bytes'),
        ({'height': 6}, '6 rows of 24 bytes make 144, not 120 bytes'),
        ({'width': 9}, 'step 24 is too small'),
        ({'height': 0}, 'the image is empty: 8 x 0'),
        ({'width': 0}, 'the image is empty: 0 x 5'),
        ({'data': b''}, '120, not 0 bytes'),
        (
            {'encoding': 'yuv422', 'width': 7},
            'yuv422 stores two pixels together, so the width 7 must be even',
        ),
    ],
)
def test_broken_messages_are_refused(change, message):
    image = message_of('rgb8')
    for name, value in change.items():
        setattr(image, name, value)
    with pytest.raises(ImageError, match=message):
        image_to_array(image)


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_compressed_images_become_rgb(suffix):
    bgr = np.zeros((32, 48, 3), np.uint8)
    bgr[:, :24] = (200, 40, 10)
    rgb = NumpyCodec().rgb(compressed(bgr, suffix))
    assert rgb.shape == (32, 48, 3)
    assert np.abs(rgb[16, 8].astype(int) - (10, 40, 200)).max() < 12


def test_compressed_grey_becomes_rgb():
    rgb = NumpyCodec().rgb(compressed(pixels_of('mono8')))
    np.testing.assert_array_equal(rgb[..., 0], pixels_of('mono8'))
    assert rgb.shape[2] == 3


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
@pytest.mark.parametrize('keep', [0.0, 0.02, 0.5, 0.98])
def test_truncated_compressed_images_are_refused(suffix, keep):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    message = compressed(noise, suffix)
    message.data = message.data[: int(keep * len(message.data))]
    with pytest.raises(ImageError, match=r'compressed image|ends too early'):
        NumpyCodec().rgb(message)


def test_a_picture_is_not_turned_as_its_exif_data_asks():
    message = compressed(np.zeros((32, 48, 3), np.uint8), '.jpg')
    tag = struct.pack('>HHIHH', 0x0112, 3, 1, 6, 0)  # orientation: to be turned by a quarter
    exif = b'Exif\0\0MM\0*' + struct.pack('>IH', 8, 1) + tag + bytes(4)
    segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
    message.data = bytes(message.data[:2]) + segment + bytes(message.data[2:])
    assert NumpyCodec().rgb(message).shape == (32, 48, 3)


def test_compressed_nonsense_is_refused():
    with pytest.raises(ImageError, match='corrupt'):
        NumpyCodec().rgb(CompressedImage(format='jpeg', data=b'this is no image'))


def test_only_known_codecs_are_loaded():
    assert isinstance(load_codec('numpy'), NumpyCodec)
    with pytest.raises(ValueError, match='nonsense'):
        load_codec('nonsense')


@pytest.mark.parametrize(
    ('body', 'reason'),
    [
        ('raise ImportError("no boost here")', 'no boost here'),
        ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', r'crashes .* \(signal 11\)'),
    ],
)
def test_a_cv_bridge_that_does_not_work_is_one_clear_error(tmp_path, monkeypatch, body, reason):
    (tmp_path / 'cv_bridge.py').write_text(body)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=':')
    with pytest.raises(CodecError, match=f'{reason}.*Set image.codec to numpy'):
        load_codec('cv_bridge')


@pytest.fixture(scope='module')
def bridge():
    pytest.importorskip('cv_bridge', reason='cv_bridge is not installed', exc_type=ImportError)
    try:
        return load_codec('cv_bridge')
    except CodecError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('padding', [0, 1, 6])
@pytest.mark.parametrize('encoding', TO_RGB)
def test_cv_bridge_reads_the_same_pictures(bridge, encoding, padding, big_endian):
    message = message_of(encoding, padding, big_endian)
    np.testing.assert_array_equal(bridge.rgb(message), NumpyCodec().rgb(message))


@pytest.mark.parametrize('encoding', ['16UC1', 'mono16', '32FC1'])
def test_cv_bridge_reads_the_same_depth(bridge, encoding):
    message = message_of(encoding, padding=6, big_endian=True)
    np.testing.assert_array_equal(bridge.depth(message), NumpyCodec().depth(message))


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_cv_bridge_reads_the_same_compressed_pictures(bridge, suffix):
    message = compressed(pixels_of('rgb8'), suffix)
    np.testing.assert_array_equal(bridge.rgb(message), NumpyCodec().rgb(message))


@pytest.mark.parametrize('change', [{'encoding': 'nonsense'}, {'step': 20}, {'data': b''}])
def test_cv_bridge_refuses_the_same_messages(bridge, change):
    image = message_of('rgb8')
    for name, value in change.items():
        setattr(image, name, value)
    with pytest.raises(ImageError):
        bridge.rgb(image)


@pytest.mark.parametrize('encoding', ['rgb8', 'mono16', '32FC1', 'yuyv'])
def test_a_step_that_a_driver_left_empty_means_rows_without_padding(encoding):
    image = message_of(encoding)
    expected = image_to_array(image)
    image.step = 0
    np.testing.assert_array_equal(image_to_array(image), expected)


def test_an_encoding_that_a_driver_left_empty_is_named_as_the_reason():
    image = message_of('rgb8')
    image.encoding = ''
    for read in (image_to_array, NumpyCodec().rgb, NumpyCodec().depth):
        with pytest.raises(ImageError, match='no encoding'):
            read(image)
