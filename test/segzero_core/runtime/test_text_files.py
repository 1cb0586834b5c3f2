# SPDX-License-Identifier: Apache-2.0
"""Text with a byte order mark, in every file that users write; first lines of messages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero_core.data import read_dataset
from segzero_core.data.annotations import load_json
from segzero_core.errors import first_line, quoted
from segzero_core.runtime.checkpoint_metadata import read_json
from segzero_core.runtime.text_files import decode_text, read_text
from training.config import load_config

ENCODINGS = ('utf-8', 'utf-8-sig', 'utf-16', 'utf-32')
TEXT = 'der rote Würfel, 赤い箱\n'


@pytest.mark.parametrize('encoding', [*ENCODINGS, 'utf-16-be', 'utf-32-be'])
def test_every_mark_is_read_and_removed(tmp_path: Path, encoding: str) -> None:
    mark = '\ufeff' if encoding.endswith('-be') else ''
    (tmp_path / 'a.txt').write_bytes((mark + TEXT).encode(encoding))
    assert read_text(tmp_path / 'a.txt') == TEXT


def test_text_that_its_mark_does_not_fit() -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_text(b'\xef\xbb\xbf\xff')


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_records(tmp_path: Path, encoding: str) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / 'a.png')
    row = {'image': 'a.png', 'query': TEXT, 'box': [1, 2, 30, 30], 'points': [[5, 5], [9, 9]]}
    text = '\n'.join(json.dumps({**row, 'id': i}, ensure_ascii=False) for i in 'xyz')
    (tmp_path / 'records.jsonl').write_text(text, encoding=encoding)
    records, skipped = read_dataset(str(tmp_path))
    assert [record.id for record in records] == ['x', 'y', 'z']
    assert {record.query for record in records} == {TEXT.strip()}
    assert skipped == []


@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
def test_one_line_that_is_not_utf_8_costs_one_row(tmp_path: Path, mark: bytes) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / 'a.png')
    row = {'image': 'a.png', 'query': 'x', 'box': [1, 2, 30, 30], 'points': [[5, 5], [9, 9]]}
    line = json.dumps(row).encode()
    (tmp_path / 'records.jsonl').write_bytes(mark + line + b'\n{"query": "\xfc"}\n' + line)
    records, skipped = read_dataset(str(tmp_path))
    assert len(records) == 2
    assert [row.id for row in skipped] == ['records.jsonl:2']
    assert 'not UTF-8' in skipped[0].reason


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_json_beside_models_and_in_annotations(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / 'segzero.json'
    file.write_text(json.dumps({'family': 'würfel'}, ensure_ascii=False), encoding=encoding)
    assert read_json(file) == load_json(file) == {'family': 'würfel'}


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_settings_of_a_training(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / 'mine.yaml'
    file.write_text('method: sft\nmodel: modèle\ndata: synthetic:train\n', encoding=encoding)
    assert load_config(file, ()).model == 'modèle'


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (ValueError(), 'ValueError'),
        (KeyError(''), "''"),
        (OSError('  \n\n the cause \n more'), 'the cause'),
        (RuntimeError('\n'), 'RuntimeError'),
        (ValueError('x' * 1000), 'x' * 297 + '...'),
    ],
)
def test_first_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize('value', ['a\nb' * 9999, b'\n' * 10**6, {'a': 'x' * 500}, [1] * 500])
def test_quoted_values_take_one_short_line(value: object) -> None:
    assert len(quoted(value)) <= 80
    assert '\n' not in quoted(value)
    assert quoted('mug') == "'mug'"
