# SPDX-License-Identifier: Apache-2.0
"""Datasets by name: which reader, which errors; questions that are answered in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segzero_core.data import Sample, Skipped, read_dataset, read_samples
from segzero_core.errors import DataError

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (60, 40), (9, 9, 9)).save(path)


def test_synthetic_samples_are_the_records_in_order() -> None:
    name = 'synthetic:val?size=64&count=5'
    samples, records = read_samples(name, limit=3), read_dataset(name).records
    assert len(samples) == 3
    for sample, record in zip(samples, records, strict=False):
        assert isinstance(sample, Sample)
        assert sample.truth is not None
        assert record.load_mask is not None
        assert (sample.id, sample.query, sample.size) == (record.id, record.query, record.size)
        assert (sample.truth.mask == record.load_mask()).all()
        assert sample.boxes == (record.targets[0].box,)
        assert (sample.load_image() == record.load_image()).all()


def test_own_folder(tmp_path: Path) -> None:
    picture(tmp_path / 'photo.png')
    mask = np.zeros((40, 60), np.uint8)
    mask[8:18, 5:25] = 255
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    row = {'image': 'photo.png', 'query': 'mug', 'mask': 'mask.png'}
    boxed = {'image': 'photo.png', 'query': 'x', 'box': [1, 1, 9, 9], 'points': [[2, 2], [3, 3]]}
    rows = [{**row, 'id': 'a'}, {**boxed, 'id': 'b'}, {**row, 'id': 'c', 'image': 'no.png'}]
    rows.append({**row, 'id': 'd'})
    (tmp_path / 'records.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    samples = read_samples(str(tmp_path))
    by_id = {row.id: row for row in samples}
    assert list(by_id) == ['a', 'b', 'd', 'c']
    good = by_id['a']
    assert isinstance(good, Sample)
    assert good.truth is not None
    assert good.truth.area == 200
    assert samples.image_ids[:3] == ['photo.png'] * 3
    assert isinstance(by_id['b'], Skipped)
    assert "no 'mask'" in by_id['b'].reason
    assert isinstance(by_id['c'], Skipped)


@pytest.fixture
def charts(tmp_path: Path) -> Path:
    for part, rows in {
        'human': [('a.png', 'How many bars?', '3'), ('b.png', 'Which is red?', 'UK')],
        'augmented': [('a.png', 'What is 2\u00b2?', '4'), ('no.png', 'x', '1')],
    }.items():
        content = [{'imgname': i, 'query': q, 'label': a} for i, q, a in rows]
        file = tmp_path / f'test/test_{part}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    picture(tmp_path / 'test/png/a.png')
    picture(tmp_path / 'test/png/b.png')
    return tmp_path


def test_chartqa(charts: Path) -> None:
    samples = read_samples('chartqa:test', charts)
    assert [row.id for row in samples] == ['human/0', 'augmented/0', 'human/1', 'augmented/1']
    found = [row for row in samples if isinstance(row, Sample)]
    assert [row.query for row in found] == ['How many bars?', 'What is 2\u00b2?', 'Which is red?']
    assert [row.answers for row in found] == [('3',), ('4',), ('UK',)]
    assert [row.group for row in found] == ['human', 'augmented', 'human']
    assert all(row.truth is None for row in found)
    assert found[0].load_image().shape == (40, 60, 3)
    (bad,) = [row for row in samples if isinstance(row, Skipped)]
    assert 'cannot be read as an image' in bad.reason


def test_one_part_of_chartqa(charts: Path) -> None:
    assert len(read_samples('chartqa:test_human', charts)) == 2
    with pytest.raises(DataError, match=r'there is no .*val_human\.json'):
        read_samples('chartqa:val', charts)


def test_textvqa(tmp_path: Path) -> None:
    entry: dict[str, Any] = {
        'image_id': '003a8ae2ef43b901',
        'image_classes': ['Cassette deck'],
        'image_width': 60,
        'image_height': 40,
        'question': 'what is the brand?',
        'question_id': 34602,
        'question_tokens': ['what', 'is', 'the', 'brand'],
        'answers': ['nous les gosses', *['dakota'] * 9],
        'set_name': 'val',
    }
    rows = [entry, {**entry, 'question_id': 34603, 'answers': []}, entry]
    content = {'dataset_type': 'val', 'dataset_name': 'textvqa', 'data': rows}
    (tmp_path / 'TextVQA_0.5.1_val.json').write_text(json.dumps(content))
    picture(tmp_path / 'train_images/003a8ae2ef43b901.jpg')
    good, unanswered, twice = read_samples('textvqa:val', tmp_path)
    assert isinstance(good, Sample)
    assert (good.id, good.query) == ('34602', 'what is the brand?')
    assert good.answers == ('nous les gosses', *['dakota'] * 9)
    assert isinstance(unanswered, Skipped)
    assert 'no answer' in unanswered.reason
    assert isinstance(twice, Skipped)
    assert 'there 2 times' in twice.reason
    with pytest.raises(DataError, match=r'no .*TextVQA_0\.5\.1_test\.json'):
        read_samples('textvqa:test', tmp_path)


def test_limit_keeps_the_order(charts: Path) -> None:
    samples = read_samples('chartqa:test', charts, limit=2)
    assert [row.id for row in samples] == ['human/0', 'augmented/0']
    assert samples[-1].id == 'augmented/0'
    assert [row.id for row in samples[1:]] == ['augmented/0']
    with pytest.raises(IndexError):
        samples[2]


@pytest.mark.parametrize(
    ('name', 'root', 'level', 'words'),
    [
        ('refcocco:val', '', '', "Did you mean 'refcoco'?"),
        ('', '', '', 'unknown dataset'),
        ('./nowhere', '', '', 'unknown dataset'),
        ('refcoco', '.', '', "needs a split: write for instance 'refcoco:val'"),
        ('refcoco:val', '', '', 'give the root folder'),
        ('refcoco:val', './nowhere', '', "there is none at './nowhere'"),
        ('refcoco:val', '.', 'instances', "Did you mean 'instance'?"),
        ('synthetic:vla', '', '', "Did you mean 'val'?"),
    ],
)
def test_unusable_names(name: str, root: str, level: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_samples(name, root, level)
    assert words in str(caught.value)
