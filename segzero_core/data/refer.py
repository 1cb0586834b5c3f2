# SPDX-License-Identifier: Apache-2.0
"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO in their published layout.

One folder holds ``refcoco/refs(unc).p``, ``refcoco+/refs(unc).p``, ``refcocog/refs(umd).p``,
``grefcoco/grefs(unc).json`` (or ``.p``), an ``instances.json`` in COCO's format next to each, and
COCO's images in ``images/mscoco/images/train2014`` or ``images/train2014``. Layout:
lichengunc/refer and henghuiding/gRefCOCO.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from segzero_core.data.annotations import load_json, load_plain_pickle, rows_of, text_of
from segzero_core.data.image_io import PictureHeader, load_rgb, read_header
from segzero_core.data.rle import parse_segmentation, unite
from segzero_core.data.samples import Level, Sample, SampleRow, Samples
from segzero_core.data.size_mismatch import explain_mismatch
from segzero_core.errors import DataError, quoted
from segzero_core.prompts import check_query
from segzero_core.types import Size

# The published files with the splits that the papers use.
FILES = {
    'refcoco': ('refs(unc).p',),
    'refcoco+': ('refs(unc).p',),
    'refcocog': ('refs(umd).p',),
    'grefcoco': ('grefs(unc).json', 'grefs(unc).p'),
}
_IMAGES = ('images/mscoco/images/train2014', 'images/train2014', 'train2014')
_NO_TARGET = -1


class _Source(NamedTuple):
    """Images and annotations of one dataset, by id."""

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
        split: ``train``, ``val``, ``test``, ``testA`` or ``testB``, depending on the dataset.
        root: The folder with the dataset's own folder and the images.
        level: ``instance``: the first sentence of every reference; ``expression``: all sentences.
        raw: Return the sentences as people typed them, and not in lower case without punctuation.

    Raises:
        DataError: A file is missing or damaged, or the dataset has no such split.
    """
    folder = root / name
    refs_file = _refs_file(name, folder)
    refs = _load_refs(refs_file)
    splits = sorted({str(ref.get('split')) for ref in refs})
    if split not in splits:
        raise DataError(f'{name} has no split {split!r}, only {quoted(", ".join(splits))[1:-1]}')
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
    chosen = [ref for ref in refs if ref.get('split') == split]
    asked = [_sentences(ref) for ref in chosen]
    rows = [
        row
        for number, (ref, sentences) in enumerate(zip(chosen, asked, strict=True))
        for row in _rows(source, ref, sentences, number, level)
    ]
    files = [refs_file, instances_file]
    return Samples(name, split, level, rows, files, without_task=asked.count([]))


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
    """Return the entries by id; ``None`` for an id that two different entries share."""
    found: dict[Any, dict[str, Any] | None] = {}
    for row in rows_of(instances.get(key), folder / f'instances.json ({key})'):
        name = row.get('id')
        if isinstance(name, (int, str)):
            found[name] = row if found.get(name, row) == row else None
    return found


def _find(table: dict[Any, dict[str, Any] | None], name: Any, what: str) -> dict[str, Any]:
    if not isinstance(name, (int, str)) or name not in table:
        raise DataError(f'instances.json has no {what} {quoted(name)}')
    found = table[name]
    if found is None:
        raise DataError(f'instances.json has several different entries for {what} {quoted(name)}')
    return found


def _sentences(ref: dict[str, Any]) -> list[tuple[int, Any]]:
    """Return place and content of each sentence that asks for something.

    gRefCOCO has references without a sentence. They ask for nothing, so they are not rows. A
    damaged sentence is returned, because its row reports the damage.
    """
    sentences = ref.get('sentences', 'missing')
    if sentences is None:
        return []
    if not isinstance(sentences, list):
        return [(0, None)]
    return [(place, content) for place, content in enumerate(sentences) if not _is_blank(content)]


def _is_blank(sentence: Any) -> bool:
    """Return whether a sentence has texts, but no letter, digit or symbol in them."""
    if not isinstance(sentence, dict):
        return False
    texts = [sentence[key] for key in ('sent', 'raw') if sentence.get(key) is not None]
    if not texts or not all(isinstance(text, (str, bytes)) for text in texts):
        return False
    written = ''.join(map(text_of, texts))
    return not any(unicodedata.category(character)[0] in 'LNS' for character in written)


def _rows(
    source: _Source,
    ref: dict[str, Any],
    sentences: list[tuple[int, Any]],
    number: int,
    level: Level,
) -> Iterator[SampleRow]:
    name = str(ref.get('ref_id', f'reference {number}'))
    for place, sentence in sentences[:1] if level == 'instance' else sentences:
        own = sentence.get('sent_id', place) if isinstance(sentence, dict) else place
        row_id = name if level == 'instance' else f'{name}/{own}'
        make = functools.partial(_make, source, ref, sentence, row_id)
        yield SampleRow(row_id, str(ref.get('image_id')), make)


def _make(source: _Source, ref: dict[str, Any], sentence: Any, row_id: str) -> Sample:
    if not isinstance(sentence, dict):
        raise DataError("the reference has no 'sentences'")
    image = _find(source.images, ref.get('image_id'), 'image')
    path = source.image_folder / str(image.get('file_name'))
    header = read_header(path)
    size = header.size
    _check_stated_size(image, header, path)
    objects = [
        parse_segmentation(annotation.get('segmentation'), size, header)
        for annotation in _meant(source, ref)
    ]
    return Sample(
        id=row_id,
        query=check_query(_text(sentence, source.raw)),
        image_id=str(ref['image_id']),
        size=size,
        load_image=functools.partial(load_rgb, path, row_id),
        truth=unite(objects, size),
        boxes=tuple(box for box in (mask.box for mask in objects) if box is not None),
    )


def _check_stated_size(image: dict[str, Any], header: PictureHeader, path: Path) -> None:
    width, height = image.get('width'), image.get('height')
    if (width, height) == header.size:
        return
    if not isinstance(width, int) or not isinstance(height, int):
        raise DataError(f'instances.json gives {path} the size {quoted((width, height))}')
    raise DataError(
        f'{path} is {header.size.width} x {header.size.height} pixels, instances.json says '
        f'{width} x {height}: {explain_mismatch(header, Size(width, height))}'
    )


def _text(sentence: dict[str, Any], raw: bool) -> str:
    first, second = ('raw', 'sent') if raw else ('sent', 'raw')
    text = sentence.get(first)
    blank = text is None or (isinstance(text, (str, bytes)) and not text_of(text).strip())
    return text_of(sentence.get(second, text) if blank else text)


def _annotation_ids(ref: dict[str, Any]) -> list[Any]:
    """Return the ids of the objects that a reference names; none for gRefCOCO's -1."""
    found = ref.get('ann_id')
    ids = found if isinstance(found, list) else [found]
    if not ids:
        raise DataError(f"'ann_id' is empty: it must name objects, or be [{_NO_TARGET}] for none")
    return [] if ids == [_NO_TARGET] else ids


def _meant(source: _Source, ref: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations of the objects that a reference names.

    Crowds are left out if there are other objects, as in gRefCOCO's own interface.
    """
    found = []
    for ann_id in _annotation_ids(ref):
        annotation = _find(source.annotations, ann_id, 'annotation')
        if annotation.get('image_id') != ref.get('image_id'):
            raise DataError(
                f'the annotation {ann_id} belongs to image {quoted(annotation.get("image_id"))}'
            )
        found.append(annotation)
    single = [annotation for annotation in found if annotation.get('iscrowd') != 1]
    return single or found
