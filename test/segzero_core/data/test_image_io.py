# SPDX-License-Identifier: Apache-2.0
"""One rule for size and orientation, wherever a file states it; annotations in another one."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin, features

from segzero_core.data import Skipped, read_dataset, read_samples
from segzero_core.data.image_io import (
    check_image_file,
    decode_rgb,
    image_file_size,
    load_rgb,
    read_header,
)
from segzero_core.data.mask_files import load_mask
from segzero_core.data.size_mismatch import explain_mismatch
from segzero_core.errors import DataError, ImageError
from segzero_core.types import Size

SMALL = Size(60, 40)
TURNS: dict[int, Any] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}


def pixels() -> np.ndarray[Any, Any]:
    """Return a 60 x 40 picture that looks different in every orientation."""
    drawn = np.full((40, 60, 3), 90, np.uint8)
    drawn[:20, :10] = (220, 20, 20)
    drawn[:8, 30:] = (20, 220, 20)
    return drawn


def exif(orientation: int, **tags: Any) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    for name, value in tags.items():
        block[getattr(TiffImagePlugin, name)] = value
    return block.tobytes()


def xmp(orientation: int, element: bool = False) -> bytes:
    said = (
        f'<rdf:Description><tiff:Orientation>{orientation}</tiff:Orientation></rdf:Description>'
        if element
        else f'<rdf:Description tiff:Orientation="{orientation}"/>'
    )
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{said}</rdf:RDF></x:xmpmeta>'.encode()


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack('>I4s', len(content), kind)
        + content
        + struct.pack('>I', zlib.crc32(kind + content))
    )


def png(*chunks: bytes, late: bool) -> bytes:
    """Return the picture as PNG with chunks directly after the header, or after the pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, 'png')
    plain = file.getvalue()
    end = len(plain) - 12 if late else 8 + 25
    return plain[:end] + b''.join(chunks) + plain[end:]


def itxt(content: bytes) -> bytes:
    return chunk(b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + content)


def raw_profile(orientation: int) -> bytes:
    block = b'Exif\0\0' + exif(orientation)[6:]
    text = f'\nexif\n{len(block):8}\n{block.hex()}\n'
    return chunk(b'zTXt', b'Raw profile type exif\0\0' + zlib.compress(text.encode()))


def saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, kind, **options)
    return file.getvalue()


def tiff(orientation: int, by_xmp: bool = False, **options: Any) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if by_xmp:
        tags[700] = xmp(orientation)
        tags.tagtype[700] = 1
    else:
        tags[0x0112] = orientation
    return saved('tiff', tiffinfo=tags, **options)


WAYS = {
    'jpeg exif': lambda o: saved('jpeg', exif=exif(o), quality=95),
    'jpeg xmp': lambda o: saved('jpeg', xmp=xmp(o), quality=95),
    'jpeg exif before xmp': lambda o: saved('jpeg', exif=exif(o), xmp=xmp(3), quality=95),
    'webp exif': lambda o: saved('webp', exif=exif(o), lossless=True),
    'webp xmp': lambda o: saved('webp', xmp=xmp(o), lossless=True),
    'png exif': lambda o: saved('png', exif=exif(o)),
    'png eXIf late': lambda o: png(chunk(b'eXIf', exif(o)[6:]), late=True),
    'png xmp': lambda o: png(itxt(xmp(o)), late=False),
    'png xmp element': lambda o: png(itxt(xmp(o, element=True)), late=False),
    'png xmp late': lambda o: png(itxt(xmp(o)), late=True),
    'png raw profile': lambda o: png(raw_profile(o), late=False),
    'png raw profile late': lambda o: png(raw_profile(o), late=True),
    'tiff tag': lambda o: tiff(o),
    'tiff tag deflate': lambda o: tiff(o, compression='tiff_adobe_deflate'),
    'tiff xmp': lambda o: tiff(o, by_xmp=True),
    'tiff xmp lzw': lambda o: tiff(o, by_xmp=True, compression='tiff_lzw'),
}
if features.check('avif'):
    WAYS['avif exif'] = lambda o: saved('avif', exif=exif(o), quality=95)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('orientation', range(1, 9))
def test_size_and_pixels_are_turned_by_one_rule(
    tmp_path: Path, way: str, orientation: int
) -> None:
    content = WAYS[way](orientation)
    file = tmp_path / 'photo'
    file.write_bytes(content)
    shown = TURNS[orientation](pixels())
    for source in (file, content):
        header = read_header(source)
        assert header == (shown.shape[1::-1], SMALL, orientation)
        assert check_image_file(source) == header.size
        decoded = decode_rgb(source)
        assert decoded.shape == shown.shape
        assert np.abs(decoded.astype(int) - shown).mean() < 6  # JPEG, AVIF
    assert image_file_size(file) == header.size


@pytest.mark.parametrize('way', ['jpeg exif', 'png exif', 'png eXIf late', 'tiff tag'])
@pytest.mark.parametrize('orientation', [0, 9, 200])
def test_orientations_that_do_not_exist_turn_nothing(way: str, orientation: int) -> None:
    content = WAYS[way](orientation)
    assert read_header(content) == (SMALL, SMALL, 1)
    assert decode_rgb(content).shape == (40, 60, 3)


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp'])
def test_a_damaged_exif_block_costs_the_orientation_only(kind: str) -> None:
    content = saved(kind, exif=b'Exif\0\0' + b'no TIFF header')
    assert read_header(content) == (SMALL, SMALL, 1)
    assert decode_rgb(content).shape == (40, 60, 3)


def test_masks_are_turned_like_pictures(tmp_path: Path) -> None:
    mask = Image.fromarray((pixels()[..., 0] > 200).astype(np.uint8) * 255)
    mask.save(tmp_path / 'mask.png', exif=exif(6))
    assert (load_mask(tmp_path / 'mask.png') == TURNS[6](pixels())[..., 0].__gt__(200)).all()


def test_pictures_of_16_bits_look_as_they_do_to_opencv(tmp_path: Path) -> None:
    values = np.linspace(0, 2**16 - 1, 60 * 40).reshape(40, 60).astype(np.uint16)
    file = tmp_path / 'thermal.png'
    Image.fromarray(values).save(file)
    assert check_image_file(file) == image_file_size(file) == SMALL
    assert load_rgb(file, 'x').tolist() == cv2.imread(str(file)).tolist()


def test_pictures_of_32_bits_are_refused(tmp_path: Path) -> None:
    file = tmp_path / 'metres.tiff'
    Image.fromarray(np.zeros((40, 60), np.float32)).save(file)
    for read in (check_image_file, image_file_size):
        with pytest.raises(DataError, match='32 bits: save it with 8 bits'):
            read(file)
    with pytest.raises(ImageError, match='32 bits'):
        load_rgb(file, 'x')


def test_a_format_that_another_program_draws_is_refused(tmp_path: Path) -> None:
    file = tmp_path / 'a.eps'
    Image.fromarray(pixels()).save(file)
    with pytest.raises(DataError, match='no picture of a known format'):
        read_header(file)


def test_a_text_chunk_of_a_png_may_be_long() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text('Comment', 'x' * 500_000, zip=True)
    text.add_itxt('XML:com.adobe.xmp', xmp(8).decode())
    assert read_header(saved('png', pnginfo=text)).orientation == 8


@pytest.mark.parametrize(
    ('orientation', 'given', 'words'),
    [
        (6, Size(60, 40), 'turned by its EXIF orientation 6 and was annotated as stored'),
        (1, Size(40, 60), 'turned by a quarter, and the file states no orientation'),
        (1, Size(600, 400), 'the same picture scaled by 10'),
        (3, Size(30, 20), 'the same picture scaled by 0.5'),
        (8, Size(120, 80), 'turned by its EXIF orientation 8 and scaled by 2'),
        (6, Size(33, 47), 'another image'),
        (1, Size(640, 480), 'another image'),
    ],
)
def test_turned_and_scaled_are_told_from_another_image(
    orientation: int, given: Size, words: str
) -> None:
    header = read_header(WAYS['jpeg exif'](orientation))
    explained = explain_mismatch(header, given)
    assert words in explained
    for size in (header.size, given):
        assert f'{size.width} x {size.height}' in explained


def reasons(folder: Path, *rows: dict[str, Any]) -> dict[str, str]:
    (folder / 'photo.png').write_bytes(WAYS['png xmp'](6))
    good = {'id': 'good', 'box': [1, 1, 20, 30], 'points': [[5, 5], [9, 20]]}
    lines = [json.dumps({'image': 'photo.png', 'query': 'x', **row}) for row in (good, *rows)]
    (folder / 'records.jsonl').write_text('\n'.join(lines))
    records, skipped = read_dataset(str(folder))
    assert [record.id for record in records] == ['good']
    return dict(skipped)


def test_annotations_of_a_turned_picture_as_stored(tmp_path: Path) -> None:
    stored, other = np.zeros((40, 60), np.uint8), np.zeros((400, 601), np.uint8)
    stored[5:20, 5:20] = other[5:20, 5:20] = 255
    Image.fromarray(stored).save(tmp_path / 'stored.png')
    Image.fromarray(other).save(tmp_path / 'other.png')
    said = reasons(
        tmp_path,
        {'id': 'box', 'box': [10, 10, 55, 30], 'points': [[20, 20], [40, 25]]},
        {'id': 'text', 'solution': '<box>(1,2),(50,30)</box><points>(9,9),(45,15)</points>'},
        {'id': 'mask', 'mask': 'stored.png'},
        {'id': 'stated', 'box': [1, 1, 9, 9], 'points': [[2, 2], [3, 3]], 'width': 60,
         'height': 40},
        {'id': 'scaled', 'mask': 'other.png'},
    )  # fmt: skip
    for name in ('box', 'text', 'mask', 'stated'):
        assert 'orientation' in said[name], name
        assert '60 x 40' in said[name], name
        assert '40 x 60' in said[name], name
    assert 'scaled by 10' in said['scaled']
    samples = {row.id: row for row in read_samples(str(tmp_path))}
    assert isinstance(samples['mask'], Skipped)
    assert samples['mask'].reason == said['mask']


@pytest.mark.parametrize(
    ('row', 'words'),
    [
        ({'box': [0.1, 0.2, 0.5, 0.6], 'points': [[0.2, 0.3], [0.3, 0.4]]}, 'shares'),
        ({'box': [5, 5, 25, 30], 'points': [[0.3, 0.3], [0.4, 0.4]]}, 'points were shares'),
        ({'box': [5, 5, 12, 12], 'points': [[30, 30], [8, 8]]}, 'far from its box'),
        ({'box': [5, 50, 25, 30], 'points': [[6, 52], [8, 60]]}, 'has no area'),
        ({'box': [100, 100, 900, 900], 'points': [[300, 300], [400, 400]]}, 'thousandths'),
        ({'box': [5, 5, 55, 30], 'points': [[6, 6], [70, 7]]}, 'outside the 40 x 60 image'),
        ({'mask': 7}, "'mask' must be the path"),
        ({'id': [1], 'box': [1, 1, 9, 9], 'points': [[2, 2], [3, 3]]}, "'id' must be text"),
    ],
)
def test_numbers_in_another_space_are_never_used(
    tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    (reason,) = reasons(tmp_path, row).values()
    assert words in reason
