# SPDX-License-Identifier: Apache-2.0
"""Damaged pictures and annotations: typed errors only, and never a whole-image mask in silence.

A few hundred run with all tests, ten thousand with ``make fuzz``.
"""

from __future__ import annotations

import importlib.util
import io
import json
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segzero_core.data import Sample, Samples, Skipped, read_dataset, read_samples
from segzero_core.data.image_io import check_image_file, decode_rgb, read_header
from segzero_core.data.mask_files import load_mask
from segzero_core.errors import DataError, EmptyMaskError, ImageError

# Modules of tests are no package: the corpus is loaded by its path.
_SPEC = importlib.util.spec_from_file_location(
    'odd_files', Path(__file__).with_name('odd_files.py')
)
assert _SPEC is not None
odd_files: Any = importlib.util.module_from_spec(_SPEC)
assert _SPEC.loader is not None
_SPEC.loader.exec_module(odd_files)

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')

pytestmark = pytest.mark.filterwarnings('ignore')
QUICK = {
    'pictures': 300,
    'masks': 200,
    'records': 100,
    'grefcoco': 80,
    'reasonseg': 60,
    'parquet': 5,
}
FULL = {
    'pictures': 4000,
    'masks': 2500,
    'records': 1600,
    'grefcoco': 1200,
    'reasonseg': 900,
    'parquet': 60,
}
LONGEST = 900  # characters of a message, the file's path aside


class Fuzzer:
    """Damages one file after the other and counts the outcomes of the readers."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.ends: Counter[str] = Counter()
        photo = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        for place in ('photo.png', 'images/train2014/photo.jpg', 'val/a.jpg'):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).save(folder / place)
        (folder / 'mask.png').write_bytes(odd_files.masks()[0])
        (folder / 'grefcoco').mkdir()
        self.pictures, self.masks = odd_files.pictures(), odd_files.masks()

    def run(self, kind: str, count: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Pillow's, about large and odd pictures
            for _ in range(count):
                getattr(self, f'try_{kind}')()

    def end(self, kind: str, how: str, message: str = '') -> None:
        self.ends[f'{kind}: {how}'] += 1
        assert '\n' not in message, message
        assert len(message.replace(str(self.folder), '')) < LONGEST, message

    def try_pictures(self) -> None:
        content = odd_files.damage_bytes(self.chance.choice(self.pictures), self.chance)
        size = None
        for read in (read_header, check_image_file):
            try:
                found = read(content)
                size = found if read is check_image_file else found.size
            except DataError as error:
                self.end('pictures', 'no header', str(error))
        try:
            decoded = decode_rgb(content)
        except ImageError as error:
            self.end('pictures', 'refused', str(error))
            return
        self.end('pictures', 'read')
        assert decoded.dtype == np.uint8
        assert read_header(content).size == decoded.shape[1::-1]
        assert size in (None, decoded.shape[1::-1])

    def try_masks(self) -> None:
        content = self.chance.choice(self.masks)
        if self.chance.random() < 0.3:
            content = self.redrawn(content)
        else:
            content = odd_files.damage_bytes(content, self.chance)
        file = self.folder / 'odd_mask'
        file.write_bytes(content)
        try:
            mask = load_mask(file)
        except (DataError, ImageError) as error:
            self.end('masks', type(error).__name__, str(error))
            return
        self.end('masks', 'read')
        assert mask.ndim == 2
        assert not mask.all()

    def redrawn(self, content: bytes) -> bytes:
        """Return a mask whose pixels, not bytes, are damaged."""
        try:
            pixels = np.array(Image.open(io.BytesIO(content)).convert('L'))
        except OSError:
            return content
        values = self.chance.choice(([0], [255], [1, 2], [0, 1, 2], [0, 15, 255], [0, 128, 255]))
        for value in values:
            x, y = self.chance.randrange(60), self.chance.randrange(40)
            pixels[y:, x:] = value
        file = io.BytesIO()
        kind = self.chance.choice(('png', 'jpeg', 'webp', 'bmp'))
        Image.fromarray(pixels).save(file, kind)
        return file.getvalue()

    def try_records(self) -> None:
        rows = odd_files.records()
        lines = [json.dumps({**rows[0], 'id': 'good'}).encode()]
        for row in rows:
            damaged = odd_files.damage_content(row, self.chance, most=1)
            line = json.dumps(damaged, default=str).encode()
            if self.chance.random() < 0.1:
                line = odd_files.damage_bytes(line, self.chance)
            lines.append(line)
        mark = self.chance.choice((b'', b'\xef\xbb\xbf'))
        (self.folder / 'records.jsonl').write_bytes(mark + b'\n'.join(lines))
        try:
            records, skipped = read_dataset(str(self.folder))
        except DataError as error:
            self.end('records', 'refused', str(error))
            return
        for record in records:
            self.end('records', 'read')
            width, height = record.size
            for box, points in record.targets:
                assert 0 <= box.x1 < box.x2 <= width
                assert 0 <= box.y1 < box.y2 <= height
                assert box.x2 - box.x1 >= 1
                assert points
            if record.load_mask is not None:
                mask = record.load_mask()
                assert mask.shape == (height, width)
                assert 0 < mask.sum() < mask.size
        for row in skipped:
            self.end('records', 'skipped', row.reason)
        self.check(read_samples(str(self.folder)), 'records', whole=False)

    def try_grefcoco(self) -> None:
        refs, instances = odd_files.grefcoco()
        if self.chance.random() < 0.5:
            refs = odd_files.damage_content(refs, self.chance)
        else:
            instances = odd_files.damage_content(instances, self.chance)
        folder = self.folder / 'grefcoco'
        for old in folder.glob('grefs*'):
            old.unlink()
        if self.chance.random() < 0.5:
            (folder / 'grefs(unc).json').write_bytes(odd_files.as_json(refs, self.chance))
        else:
            (folder / 'grefs(unc).p').write_bytes(odd_files.as_pickle(refs, self.chance))
        (folder / 'instances.json').write_bytes(odd_files.as_json(instances, self.chance))
        level = self.chance.choice(('instance', 'expression'))
        try:
            samples = read_samples('grefcoco:val', self.folder, level)
        except DataError as error:
            self.end('grefcoco', 'refused', str(error))
            return
        self.check(samples, 'grefcoco', whole='[0, 2400]' in json.dumps(instances, default=str))

    def try_reasonseg(self) -> None:
        content = odd_files.damage_content(odd_files.reasonseg(), self.chance)
        (self.folder / 'val' / 'a.json').write_bytes(odd_files.as_json(content, self.chance))
        try:
            samples = read_samples('reasonseg:val', self.folder, 'expression')
        except DataError as error:
            self.end('reasonseg', 'refused', str(error))
            return
        self.check(samples, 'reasonseg', whole=False)

    def try_parquet(self) -> None:
        folder = self.folder / 'tables'
        folder.mkdir(exist_ok=True)
        table = odd_files.parquet()
        (folder / 'a.parquet').write_bytes(odd_files.damage_bytes(table, self.chance))
        if self.ends.total() < 2:  # the first one is whole
            (folder / 'a.parquet').write_bytes(table)
        try:
            records, skipped = read_dataset(str(folder))
            self.check(read_samples(str(folder)), 'parquet', whole=False)
        except DataError as error:
            self.end('parquet', 'refused', str(error))
            return
        for _ in records:
            self.end('parquet', 'read')
        for row in skipped:
            self.end('parquet', 'skipped', row.reason)

    def check(self, samples: Samples, kind: str, whole: bool) -> None:
        """Check each row; ``whole`` is whether the file says in run lengths that all is meant."""
        for row in samples:
            if isinstance(row, Skipped):
                self.end(kind, 'skipped', row.reason)
                continue
            assert isinstance(row, Sample)
            self.end(kind, 'measured')
            assert row.truth is not None
            width, height = row.size
            assert row.truth.size == row.size
            assert whole or row.truth.area < width * height
            assert row.load_image().shape == (height, width, 3)


@pytest.mark.parametrize('kind', QUICK)
def test_a_few_hundred(tmp_path: Path, kind: str) -> None:
    fuzzer = Fuzzer(tmp_path, seed=5)
    fuzzer.run(kind, QUICK[kind])
    assert len(fuzzer.ends) > 1  # some are read, some are not


@pytest.mark.fuzz
@pytest.mark.parametrize('kind', FULL)
def test_ten_thousand(tmp_path: Path, kind: str) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f'\n{kind}: {FULL[kind]} files, seed {seed}')
    fuzzer = Fuzzer(tmp_path, seed)
    fuzzer.run(kind, FULL[kind])
    for end, count in sorted(fuzzer.ends.items()):
        print(f'  {end}: {count}')


def test_an_empty_mask_is_no_answer(tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path, seed=0)
    Image.new('L', (60, 40)).save(fuzzer.folder / 'mask.png')
    row: Any = odd_files.records()[2]
    (tmp_path / 'records.jsonl').write_text(json.dumps(row))
    with pytest.raises((DataError, EmptyMaskError), match='no pixel set'):
        read_dataset(str(tmp_path))
