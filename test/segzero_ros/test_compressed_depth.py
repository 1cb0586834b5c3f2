# SPDX-License-Identifier: Apache-2.0
"""Depth as compressedDepth topics carry it."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage

from segzero_core.errors import ImageError
from segzero_ros.compressed_depth import HEADER, RVL_SIZE, decode_compressed_depth
from segzero_ros.images import NumpyCodec

PNG, RVL = '16UC1; compressedDepth png', '16UC1; compressedDepth rvl'

# 4 x 6 pixels, and what the RVL encoder of compressed_depth_image_transport makes of them.
DEPTH = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2731
DEPTH[1, 2:] = 0
DEPTH_RVL = bytes.fromhex(
    '06000000040000001edaea17daeaa1adeaa1ad1ea1ad1edac114daeaad6eaded1edaeaa1'
    'daeaa1adeaa1ad1ea1ad1edaad1edaea1edaeaa10000a1ad'
)


def png(depth):
    ok, data = cv2.imencode('.png', depth)
    assert ok
    return HEADER.pack(0, 0.0, 0.0) + data.tobytes()


def _length(inside):
    return int(np.argmin(np.append(inside, False)))


def rvl(depth):
    """Encode as the paper does: runs of zeros and of differences, in groups of three bits."""
    flat, numbers, at, before = depth.ravel().astype(int), [], 0, 0
    while at < flat.size:
        zeros = _length(flat[at:] == 0)
        run = _length(flat[at + zeros :] != 0)
        values = flat[at + zeros : at + zeros + run]
        steps = np.diff(values, prepend=before).tolist()
        numbers += [zeros, run, *(2 * s if s >= 0 else -2 * s - 1 for s in steps)]
        at += zeros + run
        before = values[-1] if run else before
    nibbles = []
    for number in numbers:
        while number > 7:
            nibbles.append(number & 7 | 8)
            number >>= 3
        nibbles.append(number)
    nibbles += [0] * (-len(nibbles) % 8)
    words = np.array(nibbles, np.uint32).reshape(-1, 8)
    packed = (words << np.arange(28, -1, -4, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    height, width = depth.shape
    return HEADER.pack(0, 0.0, 0.0) + RVL_SIZE.pack(width, height) + packed.astype('<u4').tobytes()


def test_rvl_of_the_reference_encoder():
    assert rvl(DEPTH) == HEADER.pack(0, 0.0, 0.0) + DEPTH_RVL
    decoded, encoding = decode_compressed_depth(rvl(DEPTH), RVL)
    assert encoding == '16UC1'
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, DEPTH)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
        lambda size: st.lists(
            st.one_of(st.just(0), st.integers(0, 65535)),
            min_size=size[0] * size[1],
            max_size=size[0] * size[1],
        ).map(lambda values: np.array(values, np.uint16).reshape(size))
    )
)
def test_whatever_the_depth_is_it_survives(depth):
    for data, description in ((png(depth), PNG), (rvl(depth), RVL)):
        np.testing.assert_array_equal(decode_compressed_depth(data, description)[0], depth)


@pytest.mark.parametrize('description', [PNG, '16UC1; compressedDepth'])
def test_millimetres_become_metres(description):
    message = CompressedImage(format=description, data=png(DEPTH))
    np.testing.assert_allclose(NumpyCodec().depth(message), DEPTH / 1000, rtol=1e-6)


def test_an_image_without_any_depth():
    nothing = np.zeros((480, 640), np.uint16)
    np.testing.assert_array_equal(decode_compressed_depth(rvl(nothing), RVL)[0], nothing)


@pytest.mark.parametrize('codec', ['png', 'rvl'])
def test_metres_are_sent_as_inverse_depth(codec):
    quantum, farthest = 100.0, 10.0  # the publisher's defaults
    metres = np.array([[0.4, 0.9, 1.7], [3.2, 8.0, np.nan]], np.float32)
    a = quantum * (quantum + 1)
    b = 1 - a / farthest
    stored = np.where(metres < farthest, a / metres + b, 0).astype(np.uint16)
    data = HEADER.pack(0, a, b) + (png if codec == 'png' else rvl)(stored)[HEADER.size :]
    message = CompressedImage(format=f'32FC1; compressedDepth {codec}', data=data)
    depth = NumpyCodec().depth(message)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, metres, rtol=1e-3)


@pytest.mark.parametrize('description', [PNG, RVL])
def test_truncated_depth_is_refused(description):
    whole = png(DEPTH) if description == PNG else HEADER.pack(0, 0.0, 0.0) + DEPTH_RVL
    for length in range(len(whole) - 4):
        with pytest.raises(ImageError):
            decode_compressed_depth(whole[:length], description)


@settings(max_examples=100, deadline=None)
@given(st.integers(HEADER.size, HEADER.size + len(DEPTH_RVL) - 1), st.integers(0, 255))
def test_corrupt_rvl_is_refused_or_read_but_nothing_worse(at, value):
    data = bytearray(HEADER.pack(0, 0.0, 0.0) + DEPTH_RVL)
    data[at] = value
    try:
        depth, _ = decode_compressed_depth(bytes(data), RVL)
    except ImageError:
        return
    assert depth.ndim == 2


@pytest.mark.parametrize(
    ('description', 'message'),
    [
        ('jpeg', "'jpeg' is not compressed depth.*/compressedDepth"),
        ('16UC1; jpeg compressed bgr8', 'is not compressed depth'),
        ('bgr8; compressedDepth png', 'is not compressed depth'),
        ('16UC1; compressedDepth zip', "unknown depth compression 'zip'"),
    ],
)
def test_other_formats_are_refused(description, message):
    with pytest.raises(ImageError, match=message):
        decode_compressed_depth(png(DEPTH), description)


def test_a_png_of_colours_is_no_depth():
    with pytest.raises(ImageError, match='16-bit grey'):
        decode_compressed_depth(png(np.zeros((4, 4, 3), np.uint8)), PNG)
