# SPDX-License-Identifier: Apache-2.0
"""Masks as run lengths: exact, and no segmentation that can crash the library underneath."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segzero_core.data.rle import Rle, encode_mask, parse_segmentation, unite
from segzero_core.errors import DataError
from segzero_core.geometry import mask_to_box
from segzero_core.types import Size

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30)))
SIZE = Size(20, 10)


@given(MASKS)
def test_mask_survives(mask: np.ndarray) -> None:
    encoded = encode_mask(mask)
    decoded = encoded.mask
    assert decoded.dtype == np.bool_
    assert (decoded == mask).all()
    assert encoded.area == mask.sum()
    assert encoded.size == (mask.shape[1], mask.shape[0])
    assert encoded.box == (mask_to_box(mask) if mask.any() else None)


@given(MASKS)
def test_published_run_lengths_are_read_in_every_coding(mask: np.ndarray) -> None:
    encoded = encode_mask(mask)
    size = encoded.size
    runs, last = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != last:
            runs.append(0)
            last = pixel
        runs[-1] += 1
    for counts in (encoded.counts, encoded.counts.encode(), runs):
        given_ = {'size': [size.height, size.width], 'counts': counts}
        if mask.any():
            assert parse_segmentation(given_, size) == encoded
            assert parse_segmentation([given_], size) == encoded
        else:
            with pytest.raises(DataError, match='the mask is empty'):
                parse_segmentation(given_, size)


def test_overlapping_parts_are_united() -> None:
    left, right = [0, 0, 8, 0, 8, 10, 0, 10], [4, 0, 12, 0, 12, 10, 4, 10]
    found = parse_segmentation([left, right], SIZE)
    assert found.mask[:, :12].all()
    assert found.area == 120


def test_what_reaches_beyond_the_image_is_cut_off() -> None:
    found = parse_segmentation([[-50, -50, 10, -50, 10, 60, -50, 60]], SIZE)
    assert found.mask[:, :10].all()
    assert found.area == 100


def test_union_of_none_is_empty() -> None:
    nothing = unite([], SIZE)
    assert nothing.mask.shape == (10, 20)
    assert (nothing.area, nothing.box) == (0, None)


def test_fits_into_json() -> None:
    mask = encode_mask(np.eye(7, 5, dtype=bool))
    size, counts = json.loads(json.dumps(mask))
    assert Rle(Size(*size), counts) == mask


@pytest.mark.parametrize(
    ('segmentation', 'words'),
    [
        ([], 'no polygon'),
        ([[30, 2, 40, 2, 40, 8]], 'no pixel of the segmentation lies inside the 20 x 10 image'),
        ([[1, 2, 3, 4]], 'at least three points'),  # the library takes it for a box
        ([[1, 2, 3, 4, 5, 6, 7]], 'at least three points'),
        ([[1, 2, 3, float('nan'), 5, 6]], 'a coordinate that is none'),
        ([[1, 2, 3, 1e12, 5, 6]], 'a coordinate that is none'),
        ([['1', 2, 3, 4, 5, 6]], 'a coordinate that is none'),
        ('polygon', 'must be a list of x, y'),
        (None, 'must be a list of x, y'),
        ({'size': [10, 21], 'counts': [210]}, r'of size \[10, 21\]'),
        ({'size': [10, 20], 'counts': [10, 20]}, 'add up to 30 pixels, the image has 200'),
        ({'size': [10, 20], 'counts': [300, -100]}, 'do not describe a mask'),
        ({'size': [10, 20], 'counts': 'zzzz'}, 'do not describe a mask'),
        ({'size': [10, 20], 'counts': '\u00e9'}, 'do not describe a mask'),
        ({'size': [10, 20]}, 'do not describe a mask'),
    ],
)
def test_bad_segmentation(segmentation: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_segmentation(segmentation, SIZE)
