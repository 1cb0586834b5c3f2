# SPDX-License-Identifier: Apache-2.0
"""ChartQA and TextVQA in their published layout: questions that are answered in words.

ChartQA (vis-nlp/ChartQA): ``SPLIT/SPLIT_human.json`` and ``SPLIT/SPLIT_augmented.json``, lists of
``imgname``, ``query`` and ``label``, images in ``SPLIT/png``. TextVQA (0.5.1):
``TextVQA_0.5.1_SPLIT.json`` whose ``data`` has ``question_id``, ``image_id``, ``question`` and ten
``answers``; the images of ``train`` and ``val`` are in ``train_images``, the others in
``test_images``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segzero_core.data.annotations import load_json, rows_of, text_of
from segzero_core.data.image_io import image_file_size, load_rgb
from segzero_core.data.samples import Sample, SampleRow, Samples
from segzero_core.errors import DataError
from segzero_core.prompts import check_query

PARTS = ('human', 'augmented')


def chartqa_samples(split: str, root: Path) -> Samples:
    """Return the questions of ``train``, ``val`` or ``test``, or of one part: ``test_human``.

    Raises:
        DataError: A file is missing or damaged.
    """
    folder_name, _, part = split.partition('_')
    folder = root / folder_name
    files = [folder / f'{folder_name}_{name}.json' for name in ((part,) if part else PARTS)]
    found = [path for path in files if path.is_file()]
    if not found:
        raise DataError(
            f'there is no {files[0]}: root must be the folder that holds {folder_name}'
        )
    rows = (row for file in found for row in _charts(file))
    return Samples('chartqa', split, 'expression', rows, found)


def _charts(path: Path) -> Iterator[SampleRow]:
    group = path.stem.rpartition('_')[2]
    for number, entry in enumerate(rows_of(load_json(path), path)):
        row_id, image = f'{group}/{number}', str(entry.get('imgname'))
        file = path.parent / 'png' / image
        arguments = (row_id, image, file, entry.get('query'), [entry.get('label')], group)
        yield SampleRow(row_id, image, functools.partial(_make, *arguments))


def textvqa_samples(split: str, root: Path) -> Samples:
    """Return the questions of ``train``, ``val`` or ``test`` (which has no answers).

    Raises:
        DataError: A file is missing or damaged.
    """
    path = root / f'TextVQA_0.5.1_{split}.json'
    if not path.is_file():
        raise DataError(f'there is no {path}: root must be the folder that holds it')
    content = load_json(path)
    entries = rows_of(content.get('data') if isinstance(content, dict) else None, path)
    folder = root / ('test_images' if split == 'test' else 'train_images')
    rows = (_reading(folder, entry) for entry in entries)
    return Samples('textvqa', split, 'expression', rows, [path])


def _reading(folder: Path, entry: dict[str, Any]) -> SampleRow:
    row_id, image = str(entry.get('question_id')), str(entry.get('image_id'))
    file = folder / f'{image}.jpg'
    arguments = (row_id, image, file, entry.get('question'), entry.get('answers'), '')
    return SampleRow(row_id, image, functools.partial(_make, *arguments))


def _make(row_id: str, image: str, path: Path, query: Any, answers: Any, group: str) -> Sample:
    if not isinstance(answers, list) or not answers:
        raise DataError('the question has no answer: evaluation needs one')
    return Sample(
        id=row_id,
        query=check_query(text_of(query)),
        image_id=image,
        size=image_file_size(path),
        load_image=functools.partial(load_rgb, path, row_id),
        answers=tuple(text_of(answer) for answer in answers),
        group=group,
    )
