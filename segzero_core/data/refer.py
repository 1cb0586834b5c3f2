# SPDX-License-Identifier: Apache-2.0
"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO as they were published.

In one folder: ``refcoco/refs(unc).p``, ``refcoco+/refs(unc).p``, ``refcocog/refs(umd).p``,
``grefcoco/grefs(unc).json`` (or ``.p``), an ``instances.json`` in COCO's format beside each, and
COCO's images in ``images/mscoco/images/train2014`` or ``images/train2014``. Layout:
lichengunc/refer and henghuiding/gRefCOCO.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from segzero_core.data.annotations import load_json, load_plain_pickle, rows_of, text_of
from segzero_core.data.image_io import image_file_size, load_rgb
from segzero_core.data.rle import parse_segmentation, unite
from segzero_core.data.samples import Level, Sample, SampleRow, Samples
from segzero_core.errors import DataError
from segzero_core.prompts import check_query

# Which of the published splits of the sentences the papers use.
FILES = {
    'refcoco': ('refs(unc).p',),
    'refcoco+': ('refs(unc).p',),
    'refcocog': ('refs(umd).p',),
    'grefcoco': ('grefs(unc).json', 'grefs(unc).p'),
}
_IMAGES = ('images/mscoco/images/train2014', 'images/train2014', 'train2014')
_NO_TARGET = -1


class _Source(NamedTuple):
    """What the rows of one dataset are made from."""

    image_folder: Path
    images: dict[Any, dict[str, Any] | None]
    annotations: dict[Any, dict[str, Any] | None]
    raw: bool


def refer_samples(
    name: str, split: str, root: Path, level: Level = 'instance', raw: bool = False
) -> Samples:
    """Return the samples of one split.

    Args:
        name: One of ``FILES``.
        split: ``train``, ``val``, ``test``, ``testA`` or ``testB``, whichever the dataset has.
        root: The folder with the dataset's own folder and the images.
        level: ``instance``: the first sentence of every reference; ``expression``: every one.
        raw: The sentences as people typed them, not lower-cased and without punctuation.

    Raises:
        DataError: A file is missing or damaged, or there is no such split.
    """
    folder = root / name
    refs_file = _refs_file(name, folder)
    refs = _load_refs(refs_file)
    splits = sorted({str(ref.get('split')) for ref in refs})
    if split not in splits:
        raise DataError(f'{name} has no split {split!r}, only {", ".join(splits)}')
    instances_file = folder / 'instances.json'
    instances = load_json(instances_file)
    if not isinstance(instances, dict):
        raise DataError(f'{instances_file} is not in the format of COCO')
    source = _Source(
        _image_folder(root),
        _by_id(instances, 'images', folder),
        _by_id(instances, 'annotations', folder),
        raw,
    )
    chosen = (ref for ref in refs if ref.get('split') == split)
    rows = (row for number, ref in enumerate(chosen) for row in _rows(source, ref, number, level))
    return Samples(name, split, level, rows, [refs_file, instances_file])


def _image_folder(root: Path) -> Path:
    for place in _IMAGES:
        if (root / place).is_dir():
            return root / place
    raise DataError(
        f"there is no {root / _IMAGES[1]}: unpack (or link) COCO's train2014 images there"
    )


def _load_refs(path: Path) -> list[dict[str, Any]]:
    content = load_json(path) if path.suffix == '.json' else load_plain_pickle(path)
    return rows_of(content, path)


def _refs_file(name: str, folder: Path) -> Path:
    for file in FILES[name]:
        if (folder / file).is_file():
            return folder / file
    raise DataError(
        f'there is no {folder / FILES[name][0]}: root must be the folder that holds {name}/ '
        'and images/'
    )


def _by_id(instances: dict[str, Any], key: str, folder: Path) -> dict[Any, dict[str, Any] | None]:
    """Return the entries by their id; None where two that differ have the same."""
    found: dict[Any, dict[str, Any] | None] = {}
    for row in rows_of(instances.get(key), folder / f'instances.json ({key})'):
        name = row.get('id')
        if isinstance(name, (int, str)):
            found[name] = row if found.get(name, row) == row else None
    return found


def _find(table: dict[Any, dict[str, Any] | None], name: Any, what: str) -> dict[str, Any]:
    if not isinstance(name, (int, str)) or name not in table:
        raise DataError(f'instances.json has no {what} {name!r}')
    found = table[name]
    if found is None:
        raise DataError(f'instances.json has several different entries for {what} {name!r}')
    return found


def _rows(source: _Source, ref: dict[str, Any], number: int, level: Level) -> Iterator[SampleRow]:
    name = str(ref.get('ref_id', f'reference {number}'))
    sentences = ref.get('sentences')
    if not isinstance(sentences, list) or not sentences:
        sentences = [None]  # one row, which says what is wrong
    for place, sentence in enumerate(sentences[:1] if level == 'instance' else sentences):
        own = sentence.get('sent_id', place) if isinstance(sentence, dict) else place
        row_id = name if level == 'instance' else f'{name}/{own}'
        make = functools.partial(_make, source, ref, sentence, row_id)
        yield SampleRow(row_id, str(ref.get('image_id')), make)


def _make(source: _Source, ref: dict[str, Any], sentence: Any, row_id: str) -> Sample:
    if not isinstance(sentence, dict):
        raise DataError("the reference has no 'sentences'")
    image = _find(source.images, ref.get('image_id'), 'image')
    path = source.image_folder / str(image.get('file_name'))
    size = image_file_size(path)
    if tuple(size) != (image.get('width'), image.get('height')):
        raise DataError(
            f'{path} is {size.width} x {size.height} pixels, instances.json says '
            f'{image.get("width")} x {image.get("height")}: it is another image'
        )
    objects = [parse_segmentation(ann.get('segmentation'), size) for ann in _meant(source, ref)]
    return Sample(
        id=row_id,
        query=check_query(_text(sentence, source.raw)),
        image_id=str(ref['image_id']),
        size=size,
        load_image=functools.partial(load_rgb, path, row_id),
        truth=unite(objects, size),
        boxes=tuple(box for box in (mask.box for mask in objects) if box is not None),
    )


def _text(sentence: dict[str, Any], raw: bool) -> str:
    first, second = ('raw', 'sent') if raw else ('sent', 'raw')
    return text_of(sentence.get(first, sentence.get(second)))


def _annotation_ids(ref: dict[str, Any]) -> list[Any]:
    """Return the objects a reference means; none where gRefCOCO has -1."""
    found = ref.get('ann_id')
    ids = found if isinstance(found, list) else [found]
    if not ids:
        raise DataError(f"'ann_id' is empty: it must name objects, or be [{_NO_TARGET}] for none")
    return [] if ids == [_NO_TARGET] else ids


def _meant(source: _Source, ref: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations of the objects a reference means.

    Of several, those of crowds are left out, as in gRefCOCO's own interface.
    """
    found = []
    for ann_id in _annotation_ids(ref):
        annotation = _find(source.annotations, ann_id, 'annotation')
        if annotation.get('image_id') != ref.get('image_id'):
            raise DataError(
                f'the annotation {ann_id} belongs to image {annotation.get("image_id")}'
            )
        found.append(annotation)
    single = [annotation for annotation in found if annotation.get('iscrowd') != 1]
    return single or found
