# SPDX-License-Identifier: Apache-2.0
"""Models in folders whose names are not UTF-8, read by the real libraries."""

import os
import shutil
from pathlib import Path

import pytest

from segzero_core.runtime.utf8_path import utf8_path

MODELS = Path(__file__).parents[3] / 'segzero_core' / 'models'


def test_a_path_in_utf8_stays_as_it_is(tmp_path):
    folder = tmp_path / 'größe 杯'
    folder.mkdir()
    assert utf8_path(folder) == folder


@pytest.mark.parametrize('name', [b'd\xe9', b'\xff\xfe model', b'mod\xe8le/v\xb2'])
def test_another_path_leads_to_the_same_files(tmp_path, name):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir(parents=True)
    (folder / 'file').write_text('x')
    found = utf8_path(folder)
    str(found).encode()
    assert (found / 'file').read_text() == 'x'


def test_a_relative_path_in_such_a_folder(tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b'd\xe9')
    (folder / 'model').mkdir(parents=True)
    monkeypatch.chdir(folder)
    str(utf8_path(Path('model'))).encode()
    assert utf8_path(Path('model')).samefile(folder / 'model')


def test_a_model_there_answers(tmp_path):
    pytest.importorskip('transformers', reason='needs transformers: requirements/models.txt')
    from segzero_core import load_segmenter
    from segzero_core.synthetic import make_scene
    from segzero_core.types import Box

    folder = tmp_path / os.fsdecode(b'd\xe9')
    shutil.copytree(MODELS / 'tiny_sam2', folder)
    segmenter = load_segmenter('sam2', model=str(folder), device='cpu')
    embedding = segmenter.embed(make_scene(11).image)
    found = segmenter.segment(embedding, Box(10, 10, 200, 200), ())
    assert found.mask.shape == make_scene(11).image.shape[:2]
