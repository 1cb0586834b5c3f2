# SPDX-License-Identifier: Apache-2.0
"""Readers: the released formats, user folders, synthetic scenes; bad rows are reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero_core.data import Record, read_dataset
from segzero_core.data.hub_train import read_hub
from segzero_core.data.scenes import (
    HELD_OUT_COLOURS,
    HELD_OUT_RELATION,
    HELD_OUT_SHAPES,
    parse_name,
)
from segzero_core.data.solutions import parse_solution
from segzero_core.errors import DataError, ImageError
from segzero_core.geometry import mask_to_box
from segzero_core.types import Box, Point, Size

SIZE = Size(840, 840)
SMALL = Size(60, 40)
SINGLE = '<box>(35,60),(354,423)</box><points>(183,235),(168,305)</points>'
MULTI = (
    '[{"bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6]}, '
    '{"bbox_2d": [50, 2, 60, 40], "point_2d": [55, 6]}]'
)


def test_single_solution() -> None:
    (target,) = parse_solution(SINGLE, SIZE)
    assert target.box == Box(35, 60, 354, 423)
    assert target.points == (Point(183, 235), Point(168, 305))


def test_multi_solution() -> None:
    first, second = parse_solution(MULTI, SIZE)
    assert first.box == Box(1, 2, 30, 40)
    assert second.points == (Point(55, 6),)


def test_far_edge_belongs_to_the_image() -> None:
    assert parse_solution(SINGLE.replace('354,423', '840,840'), SIZE)[0].box.x2 == 840


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('<box>(35,60)</box>', 'is neither'),
        (SINGLE.replace('354', '34'), 'has no area'),
        (SINGLE.replace('354', '841'), r'\(841, 423\) lies outside the 840 x 840 image'),
        (SINGLE.replace('183', '-1'), r'\(-1, 235\) lies outside'),
        ('[]', 'is neither'),
        ('[{"bbox_2d": [1, 2, 3, 4]}]', 'lacks bbox_2d or point_2d'),
        ('[{"bbox_2d": [1, 2, 3], "point_2d": [1, 1]}]', 'must be 4 finite numbers'),
        ('[{"bbox_2d": [1, 2, 3, true], "point_2d": [1, 1]}]', 'must be 4 finite numbers'),
        ('[{"bbox_2d": [1, 2, 3, NaN], "point_2d": [1, 1]}]', 'must be 4 finite numbers'),
    ],
)
def test_bad_solution(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_solution(text, SIZE)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A 60 x 40 picture, and a mask with a 20 x 10 rectangle at (5, 8)."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    mask = np.zeros((40, 60), np.uint8)
    mask[8:18, 5:25] = 255
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    return tmp_path


def write(folder: Path, *rows: object) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / 'records.jsonl').write_text('\n'.join(lines) + '\n')
    return str(folder)


def test_folder_with_a_mask(photo: Path) -> None:
    row = {'id': 'a', 'image': 'photo.png', 'query': ' The  Mug ', 'mask': 'mask.png'}
    records, skipped = read_dataset(write(photo, row))
    assert skipped == []
    record = records[0]
    assert (record.id, record.query, record.size) == ('a', 'The Mug', Size(60, 40))
    assert record.targets[0].box == Box(5, 8, 24, 17)
    assert all(5 <= p.x <= 24 and 8 <= p.y <= 17 for p in record.targets[0].points)
    assert record.load_image().shape == (40, 60, 3)
    assert record.load_mask is not None
    assert mask_to_box(record.load_mask()) == Box(5, 8, 24, 17)


def test_every_bad_row_is_skipped_with_its_reason(photo: Path) -> None:
    good = {'image': 'photo.png', 'query': 'x', 'box': [1, 1, 9, 9], 'points': [[2, 2], [3, 3]]}
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(photo / 'small.png')
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(photo / 'empty.png')
    masked = {'image': 'photo.png', 'query': 'x'}
    rows = [
        {**good, 'id': 'good'},
        '{broken',
        '[1]',
        {**good, 'id': 'image', 'image': 'nowhere.png'},
        {**good, 'id': 'query', 'query': ' '},
        {**good, 'id': 'points', 'points': [[2, 2]]},
        {**good, 'id': 'outside', 'box': [1, 1, 99, 9]},
        {**masked, 'id': 'nothing'},
        {**masked, 'id': 'size', 'mask': 'small.png'},
        {**masked, 'id': 'empty', 'mask': 'empty.png'},
    ]
    records, skipped = read_dataset(write(photo, *rows))
    assert [record.id for record in records] == ['good']
    reasons = dict(skipped)
    assert 'no JSON' in reasons.pop('records.jsonl:2')
    assert 'no JSON object' in reasons.pop('records.jsonl:3')
    assert 'cannot be read as an image' in reasons.pop('image')
    assert 'empty' in reasons.pop('query')
    assert 'two points' in reasons.pop('points')
    assert 'outside' in reasons.pop('outside')
    assert "needs 'box' and 'points'" in reasons.pop('nothing')
    assert 'the mask is (9, 9), the image (60, 40) pixels' in reasons.pop('size')
    assert 'no pixel set' in reasons.pop('empty')
    assert reasons == {}


def test_image_that_breaks_later_names_its_row(photo: Path) -> None:
    row = {'id': 'r7', 'image': 'photo.png', 'query': 'x', 'mask': 'mask.png'}
    records, _ = read_dataset(write(photo, row))
    (photo / 'photo.png').write_bytes(b'no image')
    with pytest.raises(ImageError, match="row 'r7'"):
        records[0].load_image()


@pytest.mark.parametrize('separator', ['\u2028', '\x85', '\r\n'])
def test_only_the_end_of_a_line_ends_a_row(photo: Path, separator: str) -> None:
    row = {'image': 'photo.png', 'query': f'the{separator}mug', 'mask': 'mask.png'}
    line = json.dumps(row, ensure_ascii=False)
    records, skipped = read_dataset(write(photo, line + '\r', line))
    assert [record.query for record in records] == ['the mug'] * 2
    assert skipped == []


def test_limit(photo: Path) -> None:
    row = {'image': 'photo.png', 'query': 'x', 'mask': 'mask.png'}
    assert len(read_dataset(write(photo, row, row, row), limit=2).records) == 2


def test_held_out_files_of_a_folder_are_not_trained_on(photo: Path) -> None:
    datasets = pytest.importorskip('datasets', reason='needs datasets: requirements/train.txt')
    for split in ('train', 'val'):
        row = {'id': split, 'problem': split, 'solution': SINGLE, 'image': None}
        table = datasets.Dataset.from_list(
            [{**row, 'image': {'bytes': (photo / 'photo.png').read_bytes(), 'path': None}}]
        ).cast_column('image', datasets.Image())
        (photo / split).mkdir()
        table.to_parquet(photo / split / 'part-00000.parquet')
    found = {
        place: [row.id for row in read_hub(str(photo / place))] for place in ('', 'train', 'val')
    }
    assert found == {'': ['train'], 'train': ['train'], 'val': ['val']}


@pytest.mark.parametrize('form', ['parquet', 'arrow'])
def test_released_columns(tmp_path: Path, form: str) -> None:
    datasets = pytest.importorskip('datasets', reason='needs datasets: requirements/train.txt')
    images = [Image.new('RGB', (840, 840), (i, 0, 0)) for i in range(4)]
    table = datasets.Dataset.from_dict(
        {
            'id': [10, 11, 12, 13],
            'problem': ['the man', 'the dogs', 'the hat', None],
            'solution': [SINGLE, MULTI, 'none', SINGLE],
            'image': images,
            'img_height': [480] * 4,
            'img_width': [640] * 4,
        },
        features=datasets.Features(
            {
                'id': datasets.Value('int64'),
                'problem': datasets.Value('string'),
                'solution': datasets.Value('string'),
                'image': datasets.Image(),
                'img_height': datasets.Value('int64'),
                'img_width': datasets.Value('int64'),
            }
        ),
    )
    if form == 'parquet':
        table.to_parquet(tmp_path / 'train.parquet')
    else:
        table.save_to_disk(str(tmp_path))
    records, skipped = read_dataset(str(tmp_path))
    assert [record.query for record in records] == ['the man', 'the dogs']
    assert len(records[1].targets) == 2
    assert records[1].load_image()[0, 0].tolist() == [1, 0, 0]
    reasons = {row.id: row.reason for row in skipped}
    assert 'is neither' in reasons.pop('12')
    assert reasons == {'13': 'a sentence must be text, got None'}


def same(a: Record, b: Record) -> bool:
    return a == b and bool((a.load_image() == b.load_image()).all())


def test_synthetic_records_are_exact_and_repeatable() -> None:
    name = 'synthetic:train?size=64&count=6&objects=2-3'
    records, again = read_dataset(name).records, read_dataset(name).records
    assert len(records) == 6
    for record, other in zip(records, again, strict=True):
        assert same(record, other)
        assert record.load_mask is not None
        assert record.targets[0].box == mask_to_box(record.load_mask())
        assert record.reasoning
    assert records[-1].id == 'train/5'
    with pytest.raises(IndexError):
        records[6]


def test_synthetic_size() -> None:
    assert parse_name('val?size=64').size == Size(64, 64)
    (record,) = read_dataset('synthetic:val?size=64x48&count=1').records
    assert record.size == Size(64, 48)
    assert record.load_image().shape == (48, 64, 3)


def test_train_never_shows_what_is_held_out() -> None:
    records = read_dataset('synthetic:train?size=48&count=25').records
    words = ' '.join(f'{record.query} {record.reasoning}' for record in records)
    assert not any(word in words for word in (*HELD_OUT_COLOURS, *HELD_OUT_SHAPES))
    assert HELD_OUT_RELATION not in words


@pytest.mark.parametrize(
    ('split', 'words'),
    [
        ('unseen_colours', HELD_OUT_COLOURS),
        ('unseen_shapes', HELD_OUT_SHAPES),
        ('unseen_relations', (HELD_OUT_RELATION,)),
    ],
)
def test_unseen_splits_mean_what_train_lacks(split: str, words: tuple[str, ...]) -> None:
    for record in read_dataset(f'synthetic:{split}?size=48', limit=4).records:
        meant = record.reasoning.rpartition('. ')[2] + record.query
        assert any(word in meant for word in words)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('trian', "unknown split of the synthetic data 'trian'. Did you mean 'train'?"),
        ('train?sise=3', "'sise'. Did you mean 'size'?"),
        ('train?kinds=relations', "Did you mean 'relation'?"),
        ('train?objects=5-2', 'objects=5-2'),
        ('train?size=big', 'big'),
        ('train?size=64x8', 'at least 32 pixels'),
        ('train?size', 'cannot read'),
        ('train?count=20000001', 'count=20000001: 1 to 20000000'),
    ],
)
def test_bad_synthetic_name(name: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_name(name)
    assert words in str(caught.value)


def test_missing_folder() -> None:
    with pytest.raises(DataError, match='no such dataset folder'):
        read_dataset('./nowhere')
