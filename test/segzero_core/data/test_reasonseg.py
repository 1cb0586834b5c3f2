# SPDX-License-Identifier: Apache-2.0
"""ReasonSeg in LISA's layout and in that of the released sets on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segzero_core.data import Sample, Samples, Skipped, read_samples
from segzero_core.errors import DataError
from segzero_core.types import Box, Size

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')

TARGET = {
    'label': 'target',
    'labels': ['target'],
    'points': [[10, 5], [30, 5], [30, 25], [10, 25]],
}


def shape(label: str, *points: list[float]) -> dict[str, Any]:
    return {
        'label': label,
        'labels': [label],
        'shape_type': 'polygon',
        'image_name': 'a.jpg',
        'points': list(points),
        'group_id': None,
        'group_ids': [None],
        'flags': {},
    }


def square(label: str, x: int, y: int, side: int) -> dict[str, Any]:
    return shape(label, [x, y], [x + side, y], [x + side, y + side], [x, y + side])


def write(folder: Path, name: str, shapes: Any, *texts: Any, is_sentence: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    Image.new('RGB', (60, 40), (9, 9, 9)).save(folder / f'{name}.jpg')
    content = {'text': list(texts), 'is_sentence': is_sentence, 'shapes': shapes}
    file = folder / f'{name}.json'
    file.write_text(json.dumps(content))
    return file


def read(root: Path, **options: Any) -> Samples:
    return read_samples('reasonseg:val', root, **options)


def test_target_and_ignore(tmp_path: Path) -> None:
    shapes = [square('target', 10, 5, 20), square('Ignore', 40, 5, 9), square('flag', 0, 0, 59)]
    write(tmp_path / 'val', 'a', shapes, 'What would keep the soup hot?')
    write(tmp_path / 'val', 'b', [square('target', 0, 0, 5)], 'the lid', is_sentence=False)
    a, b = read(tmp_path)
    assert isinstance(a, Sample)
    assert isinstance(b, Sample)
    assert (a.id, a.image_id, a.query) == ('a', 'a', 'What would keep the soup hot?')
    assert a.size == Size(60, 40)
    assert a.truth is not None
    assert a.ignore is not None
    assert a.boxes == (Box(10, 5, 30, 25),)  # LISA draws the outline too
    assert a.truth.area == 21 * 21
    assert a.ignore.box == Box(40, 5, 49, 14)
    assert b.ignore is None
    assert (a.group, b.group) == ('long', 'short')


def test_smaller_regions_are_drawn_over_larger_ones(tmp_path: Path) -> None:
    """Neither the order in the file nor the label decides, as in LISA."""
    shapes = [square('ignore', 14, 9, 4), square('target', 10, 5, 20), square('target', 15, 10, 1)]
    write(tmp_path / 'val', 'a', shapes, 'x')
    (a,) = read(tmp_path)
    assert isinstance(a, Sample)
    assert a.truth is not None
    assert a.ignore is not None
    assert a.ignore.area == 25 - 4
    assert a.truth.area == 21 * 21 - 25 + 4
    assert not (a.truth.mask & a.ignore.mask).any()


def test_labels_are_those_of_lisa_for_polygons_of_any_kind(tmp_path: Path) -> None:
    """Compared with a second implementation of LISA's published procedure."""
    random = np.random.default_rng(0)
    for case in range(20):
        corners = [random.uniform(-10, 70, (random.integers(3, 9), 2)) for _ in range(5)]
        kinds = ['target', *random.choice(['target', 'ignore'], 4)]
        shapes = [shape(k, *c.tolist()) for k, c in zip(kinds, corners, strict=True)]
        write(tmp_path / 'val', f'{case:02}', shapes, 'x')
        expected = np.zeros((40, 60), np.uint8)
        alone = []
        for points in corners:
            canvas = np.zeros((40, 60), np.uint8)
            cv2.polylines(canvas, np.array([points], np.int32), True, 1, 1)
            cv2.fillPoly(canvas, np.array([points], np.int32), 1)
            alone.append(canvas.sum())
        for i in np.argsort(alone)[::-1]:
            value = 255 if kinds[i] == 'ignore' else 1
            cv2.polylines(expected, np.array([corners[i]], np.int32), True, value, 1)
            cv2.fillPoly(expected, np.array([corners[i]], np.int32), value)
        sample = read(tmp_path)[case]
        assert isinstance(sample, Sample), sample
        assert sample.truth is not None
        assert (sample.truth.mask == (expected == 1)).all()
        ignored = np.zeros((40, 60), bool) if sample.ignore is None else sample.ignore.mask
        assert (ignored == (expected == 255)).all()


def test_a_photograph_is_turned_as_its_orientation_says(tmp_path: Path) -> None:
    """Polygons refer to the image as it is shown."""
    write(tmp_path / 'val', 'a', [square('target', 10, 30, 20)], 'the lower part')
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    Image.fromarray(pixels).save(tmp_path / 'val' / 'a.jpg', exif=exif, quality=95)
    (a,) = read(tmp_path)
    assert isinstance(a, Sample)
    assert a.size == Size(40, 60)
    image = a.load_image()
    assert (image == cv2.imread(str(tmp_path / 'val' / 'a.jpg'))[:, :, ::-1]).all()
    assert a.truth is not None
    assert image[a.truth.mask].mean() > 240
    assert image[~a.truth.mask].mean() < 200


def test_levels(tmp_path: Path) -> None:
    write(tmp_path / 'val', 'a', [TARGET], 'one', 'two')
    write(tmp_path / 'val', 'b', [TARGET], 'three')
    assert [row.id for row in read(tmp_path)] == ['a', 'b']
    every = read(tmp_path, level='expression')
    assert [row.id for row in every] == ['a/0', 'a/1', 'b/0']
    assert every.image_ids == ['a', 'a', 'b']
    assert [row.query for row in every if isinstance(row, Sample)] == ['one', 'two', 'three']


def test_no_polygon_means_that_nothing_is_meant(tmp_path: Path) -> None:
    """The published test split has two files of this kind."""
    write(tmp_path / 'val', 'a', [], 'x')
    (a,) = read(tmp_path)
    assert isinstance(a, Sample)
    assert a.truth is not None
    assert (a.truth.area, a.boxes) == (0, ())


def test_annotations_in_cp1252(tmp_path: Path) -> None:
    """Some of the published files are of this kind."""
    file = write(tmp_path / 'val', 'a', [TARGET], 'caf\u00e9')
    file.write_bytes(json.dumps(json.loads(file.read_text()), ensure_ascii=False).encode('cp1252'))
    (a,) = read(tmp_path)
    assert isinstance(a, Sample)
    assert a.query == 'caf\u00e9'


def test_every_bad_file_keeps_its_place_and_says_why(tmp_path: Path) -> None:
    val = tmp_path / 'val'
    write(val, 'a', [TARGET], 'good')
    cut = write(val, 'b', [TARGET], 'cut off')
    cut.write_text(cut.read_text()[:-30])
    write(val, 'c', [TARGET], 'no image')
    (val / 'c.jpg').unlink()
    write(val, 'd', [square('target', 100, 100, 9)], 'outside')
    write(val, 'e', [shape('target', [1, 2], [3])], 'odd points')
    write(val, 'f', [TARGET])
    write(val, 'g', [shape('target', [1, 2], [float('nan'), 3], [3, 4])], 'not a number')
    write(val, 'h', [TARGET], 'no annotation').unlink()
    write(val, 'i', [TARGET], ' ')
    (val / 'j.json').write_text('[]')
    write(val, 'k', 5, 'shapes that are none')
    write(val, 'l', [{**TARGET, 'shape_type': 'rectangle'}], 'two corners')
    write(val, 'm', [square('target', -900, -900, 4000)], 'all of it, and more')
    samples = read(tmp_path)
    assert len(samples) == 13
    assert [row.id for row in samples if isinstance(row, Sample)] == ['a']
    reasons = {row.id: row.reason for row in samples if isinstance(row, Skipped)}
    for name, words in {
        'b': 'b.json is not complete JSON',
        'c': 'c.jpg cannot be read as an image',
        'd': 'every target polygon lies outside the 60 x 40 image',
        'e': 'no usable points',
        'f': 'has no text',
        'g': 'no usable points',
        'h': 'cannot read',
        'i': 'is empty',
        'j': 'no object with text and shapes',
        'k': "'shapes' must be a list of polygons, got 5",
        'l': "is no polygon, but 'rectangle'",
        'm': 'covers all of the 60 x 40 image',
    }.items():
        assert words in reasons.pop(name), name
    assert reasons == {}
    assert len(read(tmp_path, level='expression')) == 13


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'there is no folder .*val'):
        read(tmp_path)


class Released:
    """A set in the released columns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.datasets = pytest.importorskip(
            'datasets', reason='needs datasets: requirements/train.txt'
        )
        self.columns: dict[str, list[Any]] = {
            name: []
            for name in ('image', 'text', 'mask', 'image_id', 'ann_id', 'img_height', 'img_width')
        }

    def add(self, name: str | None, text: str | None, mask: Any, ann_id: str = '') -> None:
        pixels = np.full((40, 60, 3), len(self.columns['text']), np.uint8)
        row = Image.fromarray(pixels), text, mask, name, ann_id or name, 40, 60
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)

    def save(self, form: str, leave_out: str = '') -> str:
        d = self.datasets
        kinds = {
            'image': d.Image(),
            'text': d.Value('string'),
            'mask': d.Sequence(d.Sequence(d.Value('bool'))),
            'image_id': d.Value('string'),
            'ann_id': d.Value('string'),
            'img_height': d.Value('int64'),
            'img_width': d.Value('int64'),
        }
        kept = [name for name in kinds if name != leave_out]
        table = d.Dataset.from_dict(
            {name: self.columns[name] for name in kept},
            features=d.Features({name: kinds[name] for name in kept}),
        )
        self.folder.mkdir()
        if form == 'parquet':
            (self.folder / 'data').mkdir()
            table.to_parquet(self.folder / 'data/test-00000-of-00001.parquet')
        else:
            d.DatasetDict({'test': table}).save_to_disk(str(self.folder))
        return str(self.folder)


@pytest.mark.parametrize('form', ['parquet', 'arrow'])
def test_released_columns(tmp_path: Path, form: str) -> None:
    released = Released(tmp_path / 'ReasonSeg_val')
    random = np.random.default_rng(0)
    mask = random.random((40, 60)) < 0.5
    released.add('a', 'What is it?', mask.tolist())
    released.add('b', 'nothing', np.zeros((40, 60), bool).tolist())
    released.add('c', 'too small', mask[:30].tolist())
    released.add('d', 'ragged', [[True] * 60] * 39 + [[True] * 59])
    released.add('e', 'without rows', [])
    released.add('f', None, mask.tolist())
    released.add(None, 'Whose image?', mask.tolist(), 'g')
    released.add('a', 'again', mask.tolist())
    samples = read_samples(released.save(form))
    assert (samples.dataset, samples.split, samples.level) == ('ReasonSeg_val', 'test', 'instance')
    first, again, nothing, across, *bad = samples
    assert isinstance(across, Sample)
    assert across.truth is not None
    assert (across.truth.size, across.size) == (Size(60, 30), Size(60, 40))
    assert isinstance(first, Sample)
    assert isinstance(nothing, Sample)
    assert (first.id, first.query, first.size) == ('a', 'What is it?', Size(60, 40))
    assert first.truth is not None
    assert (first.truth.mask == mask).all()
    assert first.load_image()[0, 0, 0] == 0
    assert nothing.truth is not None
    assert (nothing.truth.area, nothing.boxes) == (0, ())
    assert isinstance(again, Skipped)
    assert 'there 2 times' in again.reason
    reasons = {row.id: row.reason for row in bad if isinstance(row, Skipped)}
    assert 'differ in length: [59, 60]' in reasons['d']
    assert 'no row of pixels' in reasons['e']
    assert reasons['f'] == 'a sentence must be text, got None'
    assert "no 'image_id'" in reasons['None/g']


def test_released_expressions(tmp_path: Path) -> None:
    """An object of the sets called _all has a row for each of its sentences."""
    released = Released(tmp_path / 'refcoco_val_all')
    mask = np.ones((40, 60), bool).tolist()
    for image, ann, text in [('7', '1', 'a'), ('8', '2', 'b'), ('7', '1', 'c'), ('7', '3', 'd')]:
        released.add(image, text, mask, ann)
    samples = read_samples(released.save('parquet'))
    assert samples.level == 'expression'
    assert samples.image_ids == ['7', '7', '7', '8']
    assert [row.id for row in samples] == ['7/1', '7/1/1', '7/3', '8/2']
    assert all(isinstance(row, Sample) for row in samples)


def test_released_masks_of_another_kind(tmp_path: Path) -> None:
    datasets = pytest.importorskip('datasets', reason='needs datasets: requirements/train.txt')
    names = ('image', 'text', 'mask', 'image_id', 'ann_id')
    datasets.Dataset.from_dict({name: ['x'] for name in names}).save_to_disk(str(tmp_path))
    with pytest.raises(DataError, match='has the type string: it must be lists of lists'):
        read_samples(str(tmp_path))


def test_released_columns_that_are_missing(tmp_path: Path) -> None:
    released = Released(tmp_path / 'set')
    released.add('a', 'x', [[True] * 60] * 40)
    with pytest.raises(DataError, match="no column 'mask'"):
        read_samples(released.save('parquet', leave_out='mask'))
