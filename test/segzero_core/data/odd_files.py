# SPDX-License-Identifier: Apache-2.0
"""A corpus of odd pictures, masks and annotations, and ways to damage them further."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, features

SIZE = (60, 40)
WHOLE_IMAGE = [0, 0, 60, 0, 60, 40, 0, 40]
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 255, 2**31, 2**63, 10**30, -(10**30)),
    *(0.5, -0.0, 1e-9, 1e308, float('nan'), float('inf'), float('-inf')),
    *('', ' ', '.', '..', '/', '\0', '\ud800', '\u2028', 'x' * 5000, '<|im_end|>', 'photo.png'),
    *([], {}, [[]], [None], [[0, 0]], [1, 2, 3, 4], [[1, 2], [3, 4]], [0.1, 0.2, 0.3, 0.4]),
    *([-(10**4), -(10**4), 10**4, -(10**4), 10**4, 10**4, -(10**4), 10**4], [[]] * 9),
    *({'size': [40, 60], 'counts': [0, 2400]}, {'size': [60, 40], 'counts': 'PPYo0'}, b'\xff'),
)


def pictures() -> list[bytes]:
    """Return one small picture of each format, mode and place of an orientation."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    rgb = Image.fromarray(photo)
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    found: list[bytes] = []

    def add(image: Image.Image, kind: str, **options: Any) -> None:
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append(file.getvalue())

    for kind in ('png', 'jpeg', 'webp', 'tiff', 'bmp', 'gif', 'ppm', 'tga', 'pcx', 'sgi'):
        add(rgb, kind)
    for kind in ('png', 'jpeg', 'webp', 'tiff', *(['avif'] if features.check('avif') else [])):
        add(rgb, kind, exif=exif)
    for kind in ('jpeg', 'webp'):
        add(rgb, kind, xmp=xmp)
    for mode in ('1', 'L', 'LA', 'P', 'RGBA', 'I;16'):
        add(rgb.convert('L').convert(mode) if mode == 'I;16' else rgb.convert(mode), 'png')
    for mode in ('CMYK', 'YCbCr', 'L'):
        add(rgb.convert(mode), 'jpeg', progressive=True)
    for compression in ('tiff_lzw', 'tiff_adobe_deflate', 'packbits'):
        add(rgb, 'tiff', compression=compression, exif=exif)
    add(rgb, 'gif', save_all=True, append_images=[rgb.rotate(90)])
    add(rgb, 'png', save_all=True, append_images=[rgb.rotate(90)])
    plain = found[0]
    late = struct.pack('>I4s', len(xmp) + 22, b'iTXt')
    body = b'iTXtXML:com.adobe.xmp\0\0\0\0\0' + xmp
    late += body[4:] + struct.pack('>I', zlib.crc32(body))
    found.append(plain[:-12] + late + plain[-12:])
    return found


def masks() -> list[bytes]:
    """Return masks that are plain, and masks that are not."""
    disc = Image.new('L', SIZE)
    ImageDraw.Draw(disc).ellipse([15, 8, 40, 30], fill=255)
    white = Image.new('RGB', SIZE, (255, 255, 255))
    clear = white.copy()
    clear.putalpha(disc)
    labels = np.asarray(disc) // 255
    found = []
    for image, kind, options in (
        (disc, 'png', {}),
        (disc, 'jpeg', {'quality': 90}),
        (disc, 'jpeg', {'quality': 20}),
        (disc, 'webp', {'quality': 50}),
        (disc.convert('1'), 'tiff', {}),
        (disc.convert('P'), 'gif', {}),
        (disc.convert('RGB'), 'bmp', {}),
        (clear, 'png', {}),
        (white, 'png', {}),
        (Image.new('L', SIZE), 'png', {}),
        (Image.fromarray(labels), 'png', {}),
        (Image.fromarray(labels + 1), 'png', {}),
        (Image.fromarray(labels.astype(np.uint16) * 700), 'png', {}),
        (disc.resize((120, 80)), 'png', {}),
    ):
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append(file.getvalue())
    return found


def records() -> list[dict[str, Any]]:
    """Return rows of ``records.jsonl`` in each of its forms; all can be used."""
    base = {'image': 'photo.png', 'query': 'the red mug', 'reasoning': 'It is red.'}
    solution = '<box>(5,6),(30,31)</box><points>(9,9),(12,20)</points>'
    several = [{'bbox_2d': [5, 6, 30, 31], 'point_2d': [9, 9]}]
    rows = [
        {**base, 'box': [5, 6, 30, 31], 'points': [[9, 9], [12, 20]]},
        {**base, 'box': [5, 6, 30, 31], 'points': [[9, 9], [12, 20]], 'mask': 'mask.png'},
        {**base, 'mask': 'mask.png', 'width': 60, 'height': 40},
        {**base, 'solution': solution},
        {**base, 'solution': several},
        {**base, 'solution': json.dumps(several)},
    ]
    return [{**row, 'id': f'{number}'} for number, row in enumerate(rows)]


def grefcoco() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return references and instances in gRefCOCO's layout."""
    polygon = [10.0, 5.0, 40.0, 5.0, 40.0, 30.0, 10.0, 30.0]
    counts = {'size': [40, 60], 'counts': [400, 200, 1800]}
    instances = {
        'images': [{'id': 1, 'file_name': 'photo.jpg', 'width': 60, 'height': 40}],
        'annotations': [
            {'id': 1, 'image_id': 1, 'iscrowd': 0, 'segmentation': [polygon]},
            {'id': 2, 'image_id': 1, 'iscrowd': 1, 'segmentation': counts},
            {'id': 3, 'image_id': 1, 'iscrowd': 0, 'segmentation': [polygon, [1, 1, 2, 2]]},
        ],
    }
    sentence = {'sent': 'the mug', 'raw': 'The mug', 'sent_id': 7}
    refs = [
        {'ref_id': 1, 'ann_id': [1, 3], 'image_id': 1, 'split': 'val', 'sentences': [sentence]},
        {'ref_id': 2, 'ann_id': [2], 'image_id': 1, 'split': 'val', 'sentences': [sentence] * 2},
        {'ref_id': 3, 'ann_id': [-1], 'image_id': 1, 'split': 'val', 'sentences': []},
        {'ref_id': 4, 'ann_id': 1, 'image_id': 1, 'split': 'val', 'sentences': [sentence]},
    ]
    return refs, instances


def reasonseg() -> dict[str, Any]:
    """Return an annotation in LISA's layout."""
    points = [[10, 5], [30, 5], [30, 25], [10, 25]]
    return {
        'text': ['Which of them keeps soup hot?'],
        'is_sentence': True,
        'shapes': [
            {'label': 'target', 'points': points},
            {'label': 'ignore', 'points': [[40, 5], [50, 5], [50, 15]]},
            {'label': 'flag', 'points': [[1, 1]]},
        ],
    }


def parquet() -> bytes:
    """Return a table that can be trained on and measured."""
    import pyarrow
    from pyarrow import parquet as files

    mask = np.zeros((40, 60), bool)
    mask[5:31, 5:31] = True
    rows = [
        {
            'id': name,
            'image_id': name,
            'ann_id': name,
            'problem': 'a mug',
            'text': 'a mug',
            'solution': '<box>(5,6),(30,31)</box><points>(9,9),(12,20)</points>',
            'image': {'bytes': pictures()[0], 'path': None},
            'mask': mask.tolist(),
        }
        for name in ('a', 'b')
    ]
    out = io.BytesIO()
    files.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def damage_bytes(content: bytes, chance: random.Random) -> bytes:
    """Return ``content`` with one to four places changed, cut, doubled or moved."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        if not data:
            break
        start = chance.randrange(len(data))
        end = min(len(data), start + chance.choice((1, 2, 4, 16, 200)))
        way = chance.randrange(6)
        if way == 0:
            data[start] = chance.randrange(256)
        elif way == 1:
            data[start:end] = chance.randbytes(end - start)
        elif way == 2:
            del data[start:end]
        elif way == 3:
            del data[start:]
        elif way == 4:
            data[start:start] = data[start:end]
        else:
            data[start:end] = struct.pack('>I', chance.choice((0, 1, 2**16, 2**31, 2**32 - 1)))
    return bytes(data)


def damage_content(content: Any, chance: random.Random, most: int = 3) -> Any:
    """Return JSON content with one to ``most`` of its values, keys or items changed."""
    content = copy.deepcopy(content)
    for _ in range(chance.randint(1, most)):
        places = list(_places(content))
        if not places:
            break
        holder, key = chance.choice(places)
        way = chance.randrange(8)
        if way == 0 and isinstance(holder, dict):
            del holder[key]
        elif way == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif way == 2 and isinstance(holder[key], (int, float)):
            factor = chance.choice((-1, 0.001, 0.5, 2, 7, 1000))
            holder[key] = holder[key] * factor
        elif way == 3:
            holder[key] = [copy.deepcopy(holder[key])]
        else:
            holder[key] = copy.deepcopy(chance.choice(ODD_VALUES))
    return content


def _places(content: Any) -> Any:
    """Yield each container of ``content`` with each of its keys or places."""
    if isinstance(content, dict):
        keys: Any = list(content)
    elif isinstance(content, list):
        keys = range(len(content))
    else:
        return
    for key in keys:
        yield content, key
        yield from _places(content[key])


def as_json(content: Any, chance: random.Random) -> bytes:
    """Return content as JSON, sometimes with a byte order mark or damaged bytes."""

    def plain(value: Any) -> Any:
        return value.decode('latin-1') if isinstance(value, bytes) else str(value)

    text = json.dumps(content, default=plain)
    encode: Callable[[], bytes] = chance.choice(
        (text.encode, text.encode, lambda: text.encode('utf-8-sig'), lambda: text.encode('utf-16'))
    )
    written = encode()
    return damage_bytes(written, chance) if chance.random() < 0.15 else written


def as_pickle(content: Any, chance: random.Random) -> bytes:
    """Return content as a pickle, sometimes with damaged bytes."""
    written = pickle.dumps(content, protocol=chance.choice((0, 2, 4)))
    return damage_bytes(written, chance) if chance.random() < 0.3 else written
