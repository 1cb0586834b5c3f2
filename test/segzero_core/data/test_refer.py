# SPDX-License-Identifier: Apache-2.0
"""RefCOCO and gRefCOCO in the layout they were published in, sound and damaged."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segzero_core.data import Sample, Samples, Skipped, read_samples
from segzero_core.data.annotations import load_plain_pickle
from segzero_core.errors import DataError, ImageError
from segzero_core.types import Box, Size

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')

SQUARE = [10, 10, 30, 10, 30, 20, 10, 20]  # pixels 10..29 x 10..19
CORNER = [40, 30, 60, 30, 60, 40, 40, 40]


def python2_pickle(value: Any) -> bytes:
    """Write opcodes as Python 2 did, whose texts are bytes: the published files are such."""

    def write(value: Any) -> bytes:
        if isinstance(value, dict):
            return b'}(' + b''.join(write(k) + write(v) for k, v in value.items()) + b'u'
        if isinstance(value, list):
            return b'](' + b''.join(map(write, value)) + b'e'
        if isinstance(value, bytes):
            return b'T' + struct.pack('<i', len(value)) + value
        if isinstance(value, str):
            return write(value.encode())
        return b'J' + struct.pack('<i', value)

    return b'\x80\x02' + write(value) + b'.'


def make_ref(ref_id: int, ann_id: Any, *texts: Any, **changes: Any) -> dict[str, Any]:
    sentences = [
        {'sent_id': 100 * ref_id + i, 'sent': text, 'raw': text, 'tokens': []}
        for i, text in enumerate(texts)
    ]
    return {
        'ref_id': ref_id,
        'ann_id': ann_id,
        'image_id': 7,
        'category_id': 1,
        'file_name': 'COCO_train2014_000000000007_1.jpg',
        'sent_ids': [sentence['sent_id'] for sentence in sentences],
        'sentences': sentences,
        'split': 'val',
        **changes,
    }


class Root:
    """The folder that holds ``refcoco/`` and ``images/``; two images of 60 x 40."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images = path / 'images/mscoco/images/train2014'
        self.images.mkdir(parents=True)
        for number in (7, 8):
            pixels = np.full((40, 60, 3), number, np.uint8)
            Image.fromarray(pixels).save(self.images / f'COCO_train2014_{number:012}.jpg')
        self.instances: dict[str, Any] = {
            'info': {},
            'licenses': [],
            'images': [
                {'id': n, 'file_name': f'COCO_train2014_{n:012}.jpg', 'width': 60, 'height': 40}
                for n in (7, 8)
            ],
            'annotations': [
                annotation(1, [SQUARE]),
                annotation(2, [CORNER]),
                annotation(3, [SQUARE], image_id=8),
            ],
            'categories': [{'supercategory': 'kitchen', 'id': 1, 'name': 'cup'}],
        }

    def read(self, *refs: Any, name: str = 'refcoco', **options: Any) -> Samples:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        if name == 'grefcoco':
            (folder / 'grefs(unc).json').write_text(json.dumps(refs))
        else:
            by = 'umd' if name == 'refcocog' else 'unc'
            (folder / f'refs({by}).p').write_bytes(python2_pickle(list(refs)))
        (folder / 'instances.json').write_text(json.dumps(self.instances))
        return read_samples(f'{name}:val', self.path, **options)


def annotation(ann_id: int, segmentation: Any, image_id: int = 7) -> dict[str, Any]:
    return {
        'id': ann_id,
        'image_id': image_id,
        'category_id': 1,
        'segmentation': segmentation,
        'iscrowd': 0,
        'area': 200.0,
        'bbox': [10, 10, 20, 10],
    }


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def only(samples: Samples) -> Sample:
    (sample,) = samples
    assert isinstance(sample, Sample), sample
    return sample


@pytest.mark.parametrize('name', ['refcoco', 'refcoco+', 'refcocog'])
def test_one_reference(root: Root, name: str) -> None:
    sample = only(root.read(make_ref(5, 1, 'left cup', 'cup'), name=name))
    assert (sample.id, sample.query, sample.image_id) == ('5', 'left cup', '7')
    assert sample.size == Size(60, 40)
    assert sample.truth is not None
    mask = sample.truth.mask
    assert mask[10:20, 10:30].all()
    assert mask.sum() == 200
    assert sample.boxes == (Box(10, 10, 29, 19),)
    assert sample.ignore is None
    assert abs(int(sample.load_image()[20, 20, 0]) - 7) <= 2


def test_levels(root: Root) -> None:
    refs = [make_ref(5, 1, 'left cup', 'cup'), make_ref(6, 2, 'right')]
    assert [row.id for row in root.read(*refs)] == ['5', '6']
    every = root.read(*refs, level='expression')
    assert [row.id for row in every] == ['5/500', '5/501', '6/600']
    assert (every.dataset, every.split, every.level) == ('refcoco', 'val', 'expression')


def test_samples_of_one_image_follow_each_other(root: Root) -> None:
    refs = [make_ref(1, 1, 'a'), make_ref(2, 3, 'b', image_id=8), make_ref(3, 2, 'c')]
    samples = root.read(*refs)
    assert [row.id for row in samples] == ['1', '3', '2']
    assert samples.image_ids == ['7', '7', '8']


def test_other_splits_are_left_out(root: Root) -> None:
    refs = [make_ref(1, 1, 'a'), make_ref(2, 1, 'b', split='train')]
    assert only(root.read(*refs)).id == '1'
    with pytest.raises(DataError, match="no split 'tset', only train, val"):
        read_samples('refcoco:tset', root.path)


def test_texts_of_python_2(root: Root) -> None:
    texts = 'le caf\u00e9', 'caf\u00e9'.encode('cp1252'), '\u5de6\u8fb9\u7684\u676f\u5b50'
    samples = root.read(make_ref(1, 1, *texts), level='expression')
    queries = [row.query for row in samples if isinstance(row, Sample)]
    assert queries == ['le caf\u00e9', 'caf\u00e9', '\u5de6\u8fb9\u7684\u676f\u5b50']


def test_several_targets_and_none(root: Root) -> None:
    refs = [
        make_ref(1, [1, 2], 'both'),
        make_ref(2, [-1], 'the elephant', category_id=[-1], no_target=True),
    ]
    both, none = root.read(*refs, name='grefcoco')
    assert isinstance(both, Sample)
    assert isinstance(none, Sample)
    assert both.truth is not None
    assert both.truth.area == 400
    assert both.boxes == (Box(10, 10, 29, 19), Box(40, 30, 59, 39))
    assert none.truth is not None
    assert (none.truth.area, none.truth.size, none.boxes) == (0, Size(60, 40), ())


def test_crowds_among_several_targets_are_left_out(root: Root) -> None:
    crowd = {'size': [40, 60], 'counts': [0, 2400]}
    root.instances['annotations'].append({**annotation(4, crowd), 'iscrowd': 1})
    refs = [make_ref(1, [1, 4], 'both'), make_ref(2, [4], 'the crowd')]
    both, alone = root.read(*refs, name='grefcoco')
    assert isinstance(both, Sample)
    assert isinstance(alone, Sample)
    assert both.truth is not None
    assert alone.truth is not None
    assert (both.truth.area, alone.truth.area) == (200, 2400)
    assert both.boxes == (Box(10, 10, 29, 19),)


def test_parts_of_two_points_are_passed_over(root: Root) -> None:
    root.instances['annotations'][0]['segmentation'] = [[1, 2, 3, 4], SQUARE, [5, 6]]
    sample = only(root.read(make_ref(5, 1, 'cup')))
    assert sample.truth is not None
    assert sample.truth.area == 200


def test_every_bad_row_keeps_its_place_and_says_why(root: Root) -> None:
    root.instances['annotations'] += [
        annotation(4, [[100, 100, 120, 100, 120, 120]]),
        annotation(5, []),
        annotation(6, [[1, 2, 3, 4]]),
        annotation(7, [SQUARE]),
        annotation(7, [CORNER]),
        annotation(8, 5),
        {'id': [9]},
    ]
    root.instances['images'] += [
        {'id': 9, 'file_name': 'COCO_train2014_000000000009.jpg', 'width': 60, 'height': 40},
        {'id': 10, 'file_name': 'COCO_train2014_000000000007.jpg', 'width': 640, 'height': 480},
    ]
    refs = [
        make_ref(1, 1, 'good'),
        make_ref(2, 4, 'outside'),
        make_ref(3, 5, 'empty'),
        make_ref(4, 6, 'degenerate'),
        make_ref(5, 99, 'no annotation'),
        make_ref(6, 3, 'of another image'),
        make_ref(7, 1, 'unknown image', image_id=99),
        make_ref(8, 1, 'missing image', image_id=9),
        make_ref(9, 1, 'wrong size', image_id=10),
        make_ref(10, 1, '  '),  # these two ask for nothing
        make_ref(11, 1),
        make_ref(18, 1, 5, 'a second sentence'),
        make_ref(12, 1, 5),
        make_ref(1, 2, 'twice'),
        make_ref(13, 7, 'two annotations'),
        make_ref(14, {'a': 1}, 'no id'),
        make_ref(15, 8, 'no segmentation'),
        make_ref(16, 1, 'no image id', image_id=[7]),
        make_ref(17, [], 'no list of objects'),
    ]
    samples = root.read(*refs)
    assert (len(samples), samples.without_task) == (len(refs) - 2, 2)
    kept = [row.id for row in samples if isinstance(row, Sample)]
    assert kept == ['1']
    reasons = {row.id: row.reason for row in samples if isinstance(row, Skipped)}
    for name, words in {
        '2': 'no pixel of the segmentation lies inside the 60 x 40 image',
        '3': 'no polygon',
        '4': 'at least three points',
        '5': 'no annotation 99',
        '6': 'belongs to image 8',
        '7': 'no image 99',
        '8': 'COCO_train2014_000000000009.jpg cannot be read as an image',
        '9': 'is 60 x 40 pixels, instances.json says 640 x 480',
        '18': 'must be text',
        '12': 'must be text',
        '1#2': "the id '1' is there 2 times",
        '13': 'several different entries for annotation 7',
        '14': "no annotation {'a': 1}",
        '15': 'must be a list of x, y',
        '16': 'no image [7]',
        '17': "'ann_id' is empty",
    }.items():
        assert words in reasons.pop(name), name
    assert reasons == {}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 99)
    | st.sampled_from([10**400, 1e300, float('nan'), '', 'x\0', '\ud800', '..', [-1], [[1] * 6]])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(
        [
            *(('refs', key) for key in ('ref_id', 'ann_id', 'image_id', 'sentences')),
            *(('sentence', key) for key in ('sent', 'raw', 'sent_id')),
            *(('annotations', key) for key in ('id', 'image_id', 'segmentation')),
            *(('images', key) for key in ('id', 'file_name', 'width')),
            ('rle', 'size'),
            ('rle', 'counts'),
        ]
    ),
    value=JSON,
)
def test_whatever_stands_in_a_row_the_others_are_read(
    root: Root, place: tuple[str, str], value: Any
) -> None:
    refs = [make_ref(1, 1, 'odd'), make_ref(2, 3, 'good', image_id=8)]
    instances = {key: [dict(row) for row in root.instances[key]] for key in root.instances if key}
    rle = {'size': [40, 60], 'counts': [10, 2390]}
    kind, key = place
    changed: dict[str, Any] = {
        'refs': refs[0],
        'sentence': refs[0]['sentences'][0],
        'rle': rle,
    }.get(kind) or instances[kind][0]
    changed[key] = value
    if kind == 'rle':
        instances['annotations'][0]['segmentation'] = rle
    before, root.instances = root.instances, instances
    try:
        samples = root.read(*refs, name='grefcoco')
        assert any(isinstance(row, Sample) and row.query == 'good' for row in samples)
    finally:
        root.instances = before
    assert len(samples) + samples.without_task == 2


def test_image_that_breaks_later_names_its_row(root: Root) -> None:
    sample = only(root.read(make_ref(5, 1, 'cup')))
    (root.images / 'COCO_train2014_000000000007.jpg').write_bytes(b'no image')
    with pytest.raises(ImageError, match="row '5'"):
        sample.load_image()


def test_truncated_json(root: Root) -> None:
    root.read(make_ref(5, 1, 'cup'))
    file = root.path / 'refcoco/instances.json'
    file.write_text(file.read_text()[:-50])
    with pytest.raises(DataError, match=r'instances\.json is not complete JSON'):
        read_samples('refcoco:val', root.path)


def test_missing_files(root: Root) -> None:
    with pytest.raises(DataError, match=r'there is no .*refs\(unc\)\.p: root must be'):
        read_samples('refcoco:val', root.path)
    root.read(make_ref(5, 1, 'cup'))
    (root.path / 'refcoco/instances.json').unlink()
    with pytest.raises(DataError, match=r'cannot read .*instances\.json'):
        read_samples('refcoco:val', root.path)


def test_missing_images(root: Root) -> None:
    samples = root.read(make_ref(5, 1, 'cup'))
    assert isinstance(samples[0], Sample)
    root.images.rename(root.path / 'train2014')
    assert isinstance(read_samples('refcoco:val', root.path)[0], Sample)
    (root.path / 'train2014').rename(root.path / 'elsewhere')
    with pytest.raises(DataError, match=r"no .*images/train2014: unpack \(or link\) COCO's"):
        read_samples('refcoco:val', root.path)


class Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.target}',)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickle_is_refused(root: Root, protocol: int) -> None:
    root.read(make_ref(5, 1, 'cup'))
    mark = root.path / 'touched'
    file = root.path / 'refcoco/refs(unc).p'
    file.write_bytes(pickle.dumps([{'ref_id': Harmful(mark)}], protocol))
    with pytest.raises(DataError, match=r'asks for \w+\.system, which is refused'):
        read_samples('refcoco:val', root.path)
    assert not mark.exists()
    pickle.loads(file.read_bytes())  # what it would have done
    assert mark.exists()


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    value = [{'a': (1, 2.5, None, True), 'b': ['\u00e9', {'c': []}]}, 2**80]
    file = tmp_path / 'plain.p'
    file.write_bytes(pickle.dumps(value, protocol))
    assert load_plain_pickle(file) == value


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'garbage',
        b'\x80\x02](',
        b'\x80\x05\x8c\x02os\x8c\x06system\x93.',  # a global by name from the stack
        b'cbuiltins\neval\n.',
        b'P1\n.',  # an object from elsewhere
        b'}}b.',  # sets the state of a dictionary
    ],
)
def test_damaged_pickle(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / 'refs.p'
    file.write_bytes(content)
    with pytest.raises(DataError, match='no pickle of plain containers'):
        load_plain_pickle(file)
