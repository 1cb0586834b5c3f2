# SPDX-License-Identifier: Apache-2.0
"""Splits that lie in folders in any layout; columns of any Arrow type; short messages."""

from __future__ import annotations

import base64
import datetime
import decimal
import io
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segzero_core.data import Sample, Skipped, read_dataset, read_samples
from segzero_core.data.splits import split_in, split_of
from segzero_core.errors import DataError

pa = pytest.importorskip('pyarrow', reason='needs pyarrow: requirements/train.txt')
pq = pytest.importorskip('pyarrow.parquet')
datasets = pytest.importorskip('datasets', reason='needs datasets: requirements/train.txt')
pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')

ANSWER = '<box>(10,8),(24,22)</box><points>(15,14),(19,16)</points>'


def png() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, 'png')
    return file.getvalue()


PNG = png()
IMAGE = {'bytes': PNG, 'path': None}
MASK = (np.pad(np.ones((10, 10), bool), ((8, 12), (10, 20)))).tolist()


def both(row_id: str) -> dict[str, Any]:
    """Return a row that can be trained on and measured."""
    return {
        'id': row_id,
        'problem': 'the ball',
        'solution': ANSWER,
        'image': IMAGE,
        'text': 'the ball',
        'mask': MASK,
        'image_id': row_id,
        'ann_id': row_id,
    }


def write(file: Path, *ids: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([both(row_id) for row_id in ids]), file)


@pytest.mark.parametrize(
    ('name', 'split'),
    [
        ('train-00000-of-00002.parquet', 'train'),
        ('training_set.parquet', 'train'),
        ('MyTrainData.parquet', 'train'),
        ('train2017.parquet', 'train'),
        ('a/validation/part-0.parquet', 'validation'),
        ('split=dev/0.parquet', 'validation'),
        ('VAL/0.parquet', 'validation'),
        ('trainval.parquet', 'train+validation'),
        ('minival.parquet', 'validation'),
        ('testA/0.parquet', 'testA'),
        ('refcoco_testB.parquet', 'testB'),
        ('tests/0.parquet', 'test'),
        ('train/eval-0.parquet', 'test'),
        ('part-0.parquet', ''),
        ('constraint/latest-contest.parquet', ''),
        ('pretrained/valley.parquet', ''),
    ],
)
def test_names_of_splits(name: str, split: str) -> None:
    assert split_of(PurePath(name)) == split


LAYOUTS = {
    'files': 'data/{}-00000-of-00001.parquet',
    'folders': '{}/part-0.parquet',
    'hive': 'split={}/a.parquet',
    'suffix': 'balls_{}.parquet',
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('other', ['validation', 'val', 'dev', 'valid'])
def test_another_split_is_never_taken(tmp_path: Path, layout: str, other: str) -> None:
    for split in ('train', other):
        write(tmp_path / 'no_test' / LAYOUTS[layout].format(split), split)
    for split in (other, 'test'):
        write(tmp_path / 'no_train' / LAYOUTS[layout].format(split), split)
    with pytest.raises(DataError, match="no split 'test', only train, validation"):
        read_samples(str(tmp_path / 'no_test'))
    with pytest.raises(DataError, match="no split 'train', only test, validation"):
        read_dataset(str(tmp_path / 'no_train'))
    for name in (other, 'validation'):
        samples = read_samples(f'{tmp_path / "no_test"}:{name}')
        assert (samples.ids, samples.split, samples.dataset) == ([other], name, 'no_test')
    records = read_dataset(f'{tmp_path / "no_train"}:test').records
    assert [record.id for record in records] == ['test']


@pytest.mark.parametrize('name', ['eval', 'testing', 'evaluation', 'test'])
def test_the_usual_names_of_a_split(tmp_path: Path, name: str) -> None:
    write(tmp_path / f'{name}-0.parquet', 'x')
    write(tmp_path / 'training-0.parquet', 'y')
    assert read_samples(str(tmp_path)).ids == ['x']
    assert [record.id for record in read_dataset(str(tmp_path)).records] == ['y']


def test_two_parts_of_a_test_are_asked_for_by_name(tmp_path: Path) -> None:
    for split in ('testA', 'testB'):
        write(tmp_path / f'{split}.parquet', split)
    with pytest.raises(DataError, match='only testA, testB'):
        read_samples(str(tmp_path))
    assert read_samples(f'{tmp_path}:testA').ids == ['testA']


def test_files_without_a_split_are_all_read(tmp_path: Path) -> None:
    write(tmp_path / 'part-0.parquet', 'a')
    write(tmp_path / 'part-1.parquet', 'b')
    assert read_samples(str(tmp_path)).ids == ['a', 'b']
    assert len(read_dataset(str(tmp_path)).records) == 2


@pytest.mark.parametrize('layout', ['dict', 'folders', 'state', 'arrow'])
def test_splits_as_arrow(tmp_path: Path, layout: str) -> None:
    table = pa.Table.from_pylist([both('v')])
    if layout == 'dict':
        saved = datasets.DatasetDict({'val': datasets.Dataset(table)})
        saved.save_to_disk(str(tmp_path))
    elif layout == 'folders':
        datasets.Dataset(table).save_to_disk(str(tmp_path / 'val'))
        (tmp_path / 'train').mkdir()
    elif layout == 'state':
        split = datasets.NamedSplit('validation')
        datasets.Dataset(table, split=split).save_to_disk(str(tmp_path))
    else:
        with pa.ipc.new_file(str(tmp_path / 'val-0.arrow'), table.schema) as writer:
            writer.write_table(table)
    for read in (read_dataset, read_samples):
        with pytest.raises(DataError, match='has no split'):
            read(str(tmp_path))
    assert read_samples(f'{tmp_path}:validation').ids == ['v']
    assert [record.id for record in read_dataset(f'{tmp_path}:val').records] == ['v']


def convert(column: str, kind: Any, values: list[Any] | None = None) -> Any:
    """Return the columns with one of another type."""
    table = pa.Table.from_pylist([both('a'), both('b')])
    cells = values if values is not None else table[column].to_pylist()
    new = pa.array(cells, kind) if not isinstance(kind, pa.Array) else kind
    return table.set_column(table.schema.get_field_index(column), column, new)


B64 = base64.b64encode(PNG).decode()
READ = {
    'base64': ('image', pa.string(), [B64] * 2),
    'base64 in lines': ('image', pa.large_string(), ['\n'.join([B64[:76], B64[76:]])] * 2),
    'data address': ('image', pa.string(), [f'data:image/png;base64,{B64}'] * 2),
    'bytes': ('image', pa.binary(), [PNG] * 2),
    'large bytes': ('image', pa.large_binary(), [PNG] * 2),
    'struct of base64': ('image', pa.struct({'bytes': pa.string()}), [{'bytes': B64}] * 2),
    'views': ('problem', pa.string_view(), None),
    'dictionary': ('text', pa.array(['x', 'x']).dictionary_encode(), None),
    'numbers as ids': ('id', pa.uint8(), [1, 2]),
    'no ids': ('id', pa.null(), [None, None]),
    'large lists': ('mask', pa.large_list(pa.large_list(pa.bool_())), None),
    'lists of a size': ('mask', pa.list_(pa.list_(pa.uint8(), 40), 30),
                        [np.array(MASK, np.uint8).tolist()] * 2),
}  # fmt: skip


@pytest.mark.parametrize('name', READ)
def test_columns_that_can_be_read(tmp_path: Path, name: str) -> None:
    column, kind, values = READ[name]
    pq.write_table(convert(column, kind, values), tmp_path / 'a.parquet')
    records, skipped = read_dataset(str(tmp_path))
    assert skipped == []
    assert (records[1].load_image() == np.asarray(Image.open(io.BytesIO(PNG)))).all()
    for sample in read_samples(str(tmp_path)):
        assert isinstance(sample, Sample)
        assert sample.truth is not None
        assert sample.truth.area == 100
        assert sample.load_image().shape == (30, 40, 3)


def test_paths_begin_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / 'a.png').write_bytes(PNG)
    for values in (['a.png', 'gone.png'], [{'path': 'a.png'}, {'path': 'gone.png'}]):
        table = convert('image', None, values)
        pq.write_table(table, tmp_path / 'a.parquet')
        records, skipped = read_dataset(str(tmp_path))
        assert [record.id for record in records] == ['a']
        assert [row.reason for row in skipped] == [
            'gone.png cannot be read as an image (No such file or directory)'
        ]


REFUSED: dict[str, tuple[str, Any, list[Any]]] = {
    'number': ('image', pa.int64(), [1, 2]),
    'pixels': ('image', pa.list_(pa.list_(pa.uint8())), [[[1]]] * 2),
    'map': ('image', pa.map_(pa.string(), pa.binary()), [[('bytes', PNG)]] * 2),
    'null': ('image', pa.null(), [None] * 2),
    'other struct': ('image', pa.struct({'data': pa.binary()}), [{'data': PNG}] * 2),
    'time': ('problem', pa.timestamp('us'), [datetime.datetime(2026, 1, 1)] * 2),
    'decimal': ('solution', pa.decimal128(9, 2), [decimal.Decimal('1.5')] * 2),
    'list of text': ('problem', pa.list_(pa.string()), [['a']] * 2),
    'id of a list': ('id', pa.list_(pa.int8()), [[1]] * 2),
    'duration': ('id', pa.duration('s'), [datetime.timedelta(1)] * 2),
}


@pytest.mark.parametrize('name', REFUSED)
def test_columns_that_cannot_be_read_are_named(tmp_path: Path, name: str) -> None:
    column, kind, values = REFUSED[name]
    pq.write_table(convert(column, kind, values), tmp_path / 'a.parquet')
    with pytest.raises(DataError) as caught:
        read_dataset(str(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"the column '{column}' of {tmp_path}")
    assert f'has the type {str(kind).partition(chr(60))[0]}' in message
    assert 'it must be ' in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ('kind', 'values'),
    [
        (pa.string(), ['x', 'x']),
        (pa.list_(pa.bool_()), [[True]] * 2),
        (pa.binary(), [PNG] * 2),
        (pa.list_(pa.list_(pa.string())), [[['1']]] * 2),
        (pa.struct({'counts': pa.string()}), [{'counts': 'x'}] * 2),
    ],
)
def test_masks_that_cannot_be_read_are_named(tmp_path: Path, kind: Any, values: Any) -> None:
    pq.write_table(convert('mask', kind, values), tmp_path / 'a.parquet')
    with pytest.raises(DataError, match=r"the column 'mask' of .* it must be lists of lists"):
        read_samples(str(tmp_path))


def test_a_column_nobody_asked_for_may_be_of_any_type(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([both('a')])
    for kind, value in (
        (pa.map_(pa.string(), pa.int8()), [('k', 1)]),
        (pa.month_day_nano_interval(), (1, 2, 3)),
        (pa.decimal256(40, 3), decimal.Decimal('1.5')),
        (pa.duration('ns'), datetime.timedelta(1)),
    ):
        if not pa.types.is_interval(kind):  # parquet has no such type
            table = table.append_column(str(kind), pa.array([value], kind))
    pq.write_table(table, tmp_path / 'a.parquet')
    assert len(read_dataset(str(tmp_path)).records) == 1


@pytest.mark.parametrize('value', ['x' * 100_000, 'x\ny' * 5000, 'Zm9v' * 50_000])
def test_a_value_is_quoted_in_a_line(tmp_path: Path, value: str) -> None:
    for column in ('image', 'solution', 'id'):
        pq.write_table(convert(column, pa.string(), [value] * 2), tmp_path / 'a.parquet')
        try:
            _, skipped = read_dataset(str(tmp_path))
            messages = [part for row in skipped for part in row]
        except DataError as error:
            messages = [str(error)]
        assert all(len(message) < 600 and '\n' not in message for message in messages)


def test_a_mask_of_another_size_says_why(tmp_path: Path) -> None:
    mask = np.zeros((40, 30), bool)
    mask[3:9, 3:9] = True
    pq.write_table(convert('mask', None, [mask.tolist()] * 2), tmp_path / 'a.parquet')
    (sample, _) = read_samples(str(tmp_path))
    assert isinstance(sample, Sample)
    assert 'turned by a quarter' in sample.mismatch


@pytest.mark.parametrize('value', [2, 255])
def test_masks_of_numbers(tmp_path: Path, value: int) -> None:
    cells = [(np.array(MASK) * value).tolist()] * 2
    pq.write_table(convert('mask', None, cells), tmp_path / 'a.parquet')
    (sample, _) = read_samples(str(tmp_path))
    if value == 255:
        assert isinstance(sample, Sample)
    else:
        assert isinstance(sample, Skipped)
        assert 'holds the values 0, 2' in sample.reason


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / 'good.parquet', 'a')
    (tmp_path / 'bad.parquet').write_bytes(b'PAR1 and nothing')
    with pytest.raises(DataError, match=r'cannot read .*bad\.parquet'):
        read_dataset(str(tmp_path))


def test_a_folder_of_folders_with_records(tmp_path: Path) -> None:
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / 'records.jsonl').write_text('')
    with pytest.raises(DataError, match=r'Give one of its folders: .*train'):
        read_dataset(str(tmp_path))


def test_split_in_examples() -> None:
    names = ('train-00000-of-00002', 'my_val2017', 'testA', 'rows')
    assert [split_in(name) for name in names] == ['train', 'validation', 'testA', '']


def test_rows_of_one_image_id_have_one_image(tmp_path: Path) -> None:
    def encoded(pixels: Any, kind: str) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        return {'bytes': file.getvalue(), 'path': None}

    smooth = np.full((30, 40, 3), 90, np.uint8)
    other = smooth.copy()
    other[:, 20:] = 200
    cells = [encoded(smooth, 'png'), encoded(smooth, 'jpeg'), encoded(other, 'png')]
    rows = [{**both(f'{i}'), 'image_id': 7, 'image': cell} for i, cell in enumerate(cells)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / 'a.parquet')
    found = list(read_samples(str(tmp_path)))
    assert [isinstance(row, Sample) for row in found] == [True, True, False]
    assert isinstance(found[2], Skipped)
    assert 'also belongs to another image' in found[2].reason


def test_held_out_rows_and_rows_to_prepare_are_of_their_split(tmp_path: Path) -> None:
    for split in ('train', 'val', 'test'):
        write(tmp_path / f'{split}.parquet', split)
    held_out = read_dataset(str(tmp_path), split='validation').records
    assert [record.id for record in held_out] == ['val']
    assert read_samples(str(tmp_path), split='train').ids == ['train']
    (tmp_path / 'train.parquet').unlink()
    with pytest.raises(DataError, match="no split 'train', only test, validation"):
        read_samples(str(tmp_path), split='train')
