# SPDX-License-Identifier: Apache-2.0
"""Mask files: understood or refused by name, never wrong in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from segzero_core.data import Skipped, read_dataset, read_samples
from segzero_core.data.mask_files import load_mask, plain_values
from segzero_core.errors import DataError, ImageError
from segzero_core.geometry import mask_to_box
from segzero_core.types import Box

SIZE = (120, 90)
DISC = (20, 15, 80, 75)


def disc(ground: Any = 0, thing: Any = 255, mode: str = 'L', scale: int = 1) -> Image.Image:
    image = Image.new(mode, (SIZE[0] * scale, SIZE[1] * scale), ground)
    ImageDraw.Draw(image).ellipse([value * scale for value in DISC], fill=thing)
    return image


TRUTH = np.asarray(disc()) > 0


def save(folder: Path, image: Any, kind: str = 'png', **options: Any) -> Path:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = folder / f'mask.{kind}'
    image.save(file, **options)
    return file


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'RGBA', 'I;16'])
def test_zero_and_one_other_value(tmp_path: Path, mode: str) -> None:
    dark = {'RGB': (0, 0, 1), 'RGBA': (1, 0, 0, 255)}.get(mode, 1)
    mask = Image.new(mode, (60, 40), (0, 0, 0, 255) if mode == 'RGBA' else 0)
    if mode == 'P':
        mask.putpalette([0, 0, 0, 0, 0, 1])
    mask.paste(dark, (5, 8, 25, 18))
    mask.save(tmp_path / 'mask.png')
    found = load_mask(tmp_path / 'mask.png')
    assert found.dtype == np.bool_
    assert (mask_to_box(found), int(found.sum())) == (Box(5, 8, 24, 17), 200)


def premultiplied() -> Image.Image:
    image = Image.new('RGBA', SIZE, (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0), disc())
    return image


@pytest.mark.parametrize(
    ('image', 'kind', 'options'),
    [
        (lambda: disc(), 'jpg', {'quality': 95}),
        (lambda: disc(), 'jpg', {'quality': 40}),
        (lambda: disc(mode='RGB', ground=(0,) * 3, thing=(255,) * 3), 'jpg', {'quality': 75}),
        (lambda: disc(), 'webp', {'quality': 60}),
        (lambda: disc(scale=4).resize(SIZE, Image.Resampling.BOX), 'png', {}),
        (lambda: disc(scale=4).resize(SIZE, Image.Resampling.LANCZOS), 'png', {}),
        (lambda: disc().convert('LA'), 'png', {}),
        (premultiplied, 'png', {}),
        (lambda: disc(thing=3), 'tiff', {}),
        (lambda: disc(mode='RGB', ground=(0, 0, 0), thing=(0, 128, 0)), 'png', {}),
        (lambda: disc(), 'bmp', {}),
        (lambda: disc(), 'gif', {}),
    ],
)
def test_understood(tmp_path: Path, image: Any, kind: str, options: dict[str, Any]) -> None:
    found = load_mask(save(tmp_path, image(), kind, **options))
    assert np.count_nonzero(found ^ TRUTH) < 0.04 * TRUTH.sum()


def label_image() -> np.ndarray[Any, Any]:
    labels = TRUTH.astype(np.uint8)
    labels[:20, 90:] = 2
    return labels


def voc() -> np.ndarray[Any, Any]:
    """Return class 15 with the outline that VOC ignores, 255."""
    labels = np.asarray(disc(thing=15)).copy()
    wide = np.asarray(disc())
    ring = np.zeros_like(labels, bool)
    for dy, dx in ((0, 2), (2, 0), (0, -2), (-2, 0)):
        ring |= np.roll(wide, (dy, dx), (0, 1)) != wide
    labels[ring] = 255
    return labels


def palette(first: tuple[int, ...], second: tuple[int, ...]) -> Image.Image:
    image = Image.fromarray(TRUTH.astype(np.uint8), 'P')
    image.putpalette([*first, *second])
    return image


def with_alpha(colour: tuple[int, ...], alpha: Image.Image) -> Image.Image:
    image = Image.new('RGB', SIZE, colour)
    image.putalpha(alpha)
    return image


def cut_out() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.putalpha(disc())
    return image


REFUSED = {
    'white with the shape in alpha': (lambda: with_alpha((255,) * 3, disc()), 'transparent'),
    'black with the shape in alpha': (lambda: with_alpha((0,) * 3, disc()), 'transparent'),
    'hole in alpha': (lambda: with_alpha((255,) * 3, disc(255, 0)), 'transparent'),
    'cut-out': (cut_out, 'transparent'),
    'half transparent': (lambda: with_alpha((0,) * 3, disc(9, 90)), 'transparent'),
    'all white': (lambda: Image.new('L', SIZE, 255), 'every pixel is 255'),
    'all one': (lambda: Image.new('L', SIZE, 1), 'every pixel is 1'),
    'no zero': (lambda: disc(1, 2), 'the values 1, 2'),
    'labels': (label_image, 'the values 0, 1, 2'),
    'trimap': (lambda: np.where(voc() == 255, 128, TRUTH * 255).astype(np.uint8), '0, 128, 255'),
    'voc': (voc, 'the values 0, 15, 255'),
    'soft': (lambda: np.tile(np.arange(120, dtype=np.uint8) * 2, (90, 1)), 'the values 0, 2, 4'),
    'red on white': (lambda: disc((255,) * 3, (220, 20, 20), 'RGB'), '#dc1414, #ffffff'),
    'two colours': (
        lambda: (
            np.stack([label_image() == 1, label_image() == 2, TRUTH * 0], 2).astype(np.uint8) * 200
        ),
        'colours #000000, #00c800, #c80000',
    ),
    'palette without black': (lambda: palette((9, 9, 200), (200, 9, 9)), '#0909c8'),
    'palette inverted': (lambda: palette((255,) * 3, (0,) * 3), 'palette'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_by_name(tmp_path: Path, name: str) -> None:
    image, words = REFUSED[name]
    with pytest.raises(DataError) as caught:
        load_mask(save(tmp_path, image()))
    assert words in str(caught.value)
    assert 'mask.png is not plain' in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize('name', ['labels', 'voc', 'two colours', 'soft', 'all white'])
def test_refused_as_jpeg_too(tmp_path: Path, name: str) -> None:
    image = REFUSED[name][0]()
    with pytest.raises(DataError, match='not plain'):
        load_mask(save(tmp_path, image, 'jpg', quality=90))


def test_several_pages_and_no_picture(tmp_path: Path) -> None:
    file = save(tmp_path, disc(), 'tiff', save_all=True, append_images=[disc()])
    with pytest.raises(DataError, match='it holds 2 pictures'):
        load_mask(file)
    (tmp_path / 'mask.png').write_bytes(b'nothing')
    with pytest.raises(ImageError, match=r'mask\.png cannot be decoded'):
        load_mask(tmp_path / 'mask.png')


def test_a_mask_without_a_pixel(tmp_path: Path) -> None:
    assert not load_mask(save(tmp_path, Image.new('L', SIZE))).any()


def test_a_wrong_mask_is_never_a_truth(tmp_path: Path) -> None:
    Image.new('RGB', SIZE).save(tmp_path / 'photo.png')
    disc().save(tmp_path / 'good.png')
    Image.new('L', SIZE, 255).save(tmp_path / 'all.png')
    Image.new('L', SIZE).save(tmp_path / 'none.png')
    boxed = {'box': [100, 1, 118, 9], 'points': [[105, 5], [110, 5]]}
    inside = {'box': [20, 15, 80, 75], 'points': [[50, 40], [50, 60]]}
    rows = [
        {'id': 'good', 'mask': 'good.png', **inside},
        {'id': 'all', 'mask': 'all.png', **inside},
        {'id': 'none', 'mask': 'none.png', **inside},
        {'id': 'other', 'mask': 'good.png', **boxed},
        {'id': 'gone', 'mask': 'gone.png', **inside},
    ]
    lines = [json.dumps({'image': 'photo.png', 'query': 'x', **row}) for row in rows]
    (tmp_path / 'records.jsonl').write_text('\n'.join(lines))
    records, skipped = read_dataset(str(tmp_path))
    assert [record.id for record in records] == ['good']
    reasons = dict(skipped)
    assert 'every pixel is 255' in reasons['all']
    assert 'no pixel set' in reasons['none']
    assert 'different objects' in reasons['other']
    assert 'No such file' in reasons['gone']
    for row in read_samples(str(tmp_path)):
        assert isinstance(row, Skipped) == (row.id != 'good')


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ([[0, 2]], '0, 2'),
        ([[1, 2]], '1, 2'),
        ([[0.5, 1.0]], r'0\.5, 1'),
        ([[-1, 0]], '-1, 0'),
        ([[float('nan'), 0.0]], 'nan'),
    ],
)
def test_values_that_are_no_mask(values: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        plain_values(np.array(values))
    assert plain_values(np.array([[0, 255]])).tolist() == [[False, True]]
    assert plain_values(np.array([[True, False]])).tolist() == [[True, False]]
