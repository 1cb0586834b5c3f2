# SPDX-License-Identifier: Apache-2.0
"""One annotated sentence -> one row: the released columns, or the reason why there is none."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segzero_core.data import Sample, Skipped, read_samples
from segzero_core.data.rle import Rle, encode_mask
from segzero_core.errors import ImageError
from segzero_core.geometry import largest_inscribed_circles
from segzero_core.segmenters import load_segmenter
from segzero_core.types import Box, Size
from training.dataset_builder.parts import choose_images
from training.dataset_builder.rows import (
    Dropped,
    RowOptions,
    TrainingRow,
    clean,
    make_rows,
    resize,
)

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')
pytest.importorskip('datasets', reason='needs datasets: requirements/train.txt')

SIZE = Size(64, 48)
FOREIGN = '\u00c9tag\u00e8re \u5de6'


@functools.cache
def scene() -> Sample:
    (sample,) = read_samples('synthetic:val?size=256x192&count=1')
    assert isinstance(sample, Sample)
    return sample


def made(sample: Any, **making: Any) -> TrainingRow | Dropped:
    segmenter = load_segmenter('grabcut') if making.get('least_iou') else None
    (row,) = make_rows([sample], RowOptions(**making), segmenter)
    return row


def sample_of(truth: Rle | None, *boxes: Box, query: str = 'The Mug.') -> Sample:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Sample('7', query, '1', SIZE, lambda: image, truth, None, boxes)


def square() -> Sample:
    mask = np.zeros((48, 64), bool)
    mask[10:20, 30:50] = True
    return sample_of(encode_mask(mask), Box(30, 10, 49, 19))


def test_row_has_what_the_released_sets_have() -> None:
    row = made(square())
    assert isinstance(row, TrainingRow)
    assert (row.id, row.problem, row.img_width, row.img_height) == ('7', 'the mug', 64, 48)
    mask = square().truth
    assert mask is not None
    points = [circle.center for circle in largest_inscribed_circles(mask.mask)]
    spots = ','.join(f'({int(p.x * 840 / 64 + 0.5)},{int(p.y * 840 / 48 + 0.5)})' for p in points)
    box = f'({int(30 * 840 / 64 + 0.5)},{int(10 * 17.5 + 0.5)}),({int(49 * 13.125 + 0.5)},333)'
    assert row.solution == f'<box>{box}</box><points>{spots}</points>'


@pytest.mark.parametrize(
    ('sentence', 'problem'),
    [
        ('The Mug.', 'the mug'),
        (' man, left?! ', 'man, left'),
        (FOREIGN, FOREIGN.lower()),
        ('??', '??'),
    ],
)
def test_sentences_are_cleaned_as_the_released_ones(sentence: str, problem: str) -> None:
    assert clean(sentence) == problem


def test_resizing() -> None:
    image = scene().load_image()
    area = cv2.resize(image, (112, 112), interpolation=cv2.INTER_AREA)
    seen = Image.fromarray(image).resize((112, 112), Image.Resampling.BILINEAR)
    assert (resize(image, RowOptions(112, 'area')) == area).all()
    assert (resize(image, RowOptions(112, 'bilinear')) == np.asarray(seen)).all()
    row = made(scene(), size=112)
    assert isinstance(row, TrainingRow)
    assert cv2.imdecode(np.frombuffer(row.image, np.uint8), 1)[..., ::-1].tolist() == area.tolist()


def test_what_makes_no_row_says_why() -> None:
    nothing = encode_mask(np.zeros((48, 64), bool))
    pixel = np.zeros((48, 64), bool)
    pixel[5, 5] = True
    wrong = Sample('7', 'x', '1', Size(60, 40), square().load_image, square().truth)
    for sample, kind, words in [
        (Skipped('7', 'no JSON'), 'unusable', 'no JSON'),
        (sample_of(None), 'unusable', 'no masks'),
        (sample_of(nothing), 'no_target', 'means 0 objects'),
        (sample_of(square().truth, Box(1, 1, 2, 2), Box(3, 3, 4, 4)), 'several_targets', '2 ob'),
        (sample_of(encode_mask(pixel), Box(5, 5, 5, 5)), 'too_small', 'no area'),
        (sample_of(nothing, Box(1, 1, 2, 2)), 'unusable', 'no pixel set'),
        (wrong, 'unusable', 'the image is (64, 48), not (60, 40)'),
        (Sample('7', 'x', '1', SIZE, broken, square().truth, None, (Box(1, 1, 2, 2),)), 'unusable',
         'cannot be decoded'),
    ]:  # fmt: skip
        dropped = made(sample)
        assert isinstance(dropped, Dropped), kind
        assert (dropped.id, dropped.kind) == ('7', kind)
        assert words in dropped.reason


def broken() -> Any:
    raise ImageError('it cannot be decoded')


def test_filter_keeps_what_the_segmenter_finds() -> None:
    assert isinstance(made(scene(), least_iou=0.6), TrainingRow)
    dropped = made(square(), least_iou=0.95)  # nothing is there but noise
    assert isinstance(dropped, Dropped)
    assert dropped.kind == 'filtered'
    assert 'less than 0.95' in dropped.reason


def test_held_out_images_do_not_depend_on_order_or_sentences() -> None:
    images = [str(i) for i in range(100)]
    chosen = choose_images(images, 0.1, seed=0)
    assert len(chosen) == 10
    assert choose_images(images[::-1] + images, 0.1, seed=0) == chosen
    assert choose_images(images, 0.1, seed=1) != chosen
    assert choose_images(images, 0.0, seed=0) == set()
