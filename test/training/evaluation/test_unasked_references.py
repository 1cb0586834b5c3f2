# SPDX-License-Identifier: Apache-2.0
"""References without a sentence are no rows; what is broken goes on counting as zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from training.evaluate import main

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')


def sentence(number: int, text: Any) -> dict[str, Any]:
    return {'sent': text, 'raw': text, 'sent_id': number}


def reference(number: int, *sentences: Any, target: bool = True) -> dict[str, Any]:
    return {
        'ref_id': number,
        'ann_id': [1] if target else [-1],
        'image_id': 1,
        'split': 'val',
        'sentences': [sentence(place, text) for place, text in enumerate(sentences)],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return gRefCOCO's layout with one picture of a red ball; its polygon is a circle."""
    image = Image.new('RGB', (200, 150), (205, 205, 200))
    ImageDraw.Draw(image).ellipse([40, 40, 110, 110], fill=(220, 20, 20))
    file = tmp_path / 'images/train2014/ball.jpg'
    file.parent.mkdir(parents=True)
    image.save(file, quality=95)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([75.5 + 35.5 * np.cos(angles), 75.5 + 35.5 * np.sin(angles)], 1)
    instances = {
        'images': [{'id': 1, 'file_name': 'ball.jpg', 'width': 200, 'height': 150}],
        'annotations': [
            {'id': 1, 'image_id': 1, 'iscrowd': 0, 'segmentation': [circle.ravel().tolist()]}
        ],
    }
    (tmp_path / 'grefcoco').mkdir()
    (tmp_path / 'grefcoco/instances.json').write_text(json.dumps(instances))
    return tmp_path


def measure(
    root: Path, capsys: pytest.CaptureFixture[str], level: str, *refs: Any
) -> tuple[dict[str, Any], str]:
    (root / 'grefcoco/grefs(unc).json').write_text(json.dumps(refs))
    flags = ['--dataset', 'grefcoco:val', '--root', str(root), '--level', level]
    assert main([*flags, '--output', str(root / f'run_{level}')]) == 0
    said = capsys.readouterr()
    summary = json.loads((root / f'run_{level}/summary.json').read_text())
    return summary, said.out + said.err


@pytest.mark.parametrize('level', ['instance', 'expression'])
def test_nobody_asked(root: Path, capsys: pytest.CaptureFixture[str], level: str) -> None:
    refs = [
        reference(1, 'the red ball'),
        reference(2),
        reference(3, 'the green car', target=False),
        reference(4, '', ' '),
        {**reference(5), 'sentences': None},
        reference(6, '...', 'the red ball'),
    ]
    summary, said = measure(root, capsys, level, *refs)
    assert summary['rows'] == 3
    assert summary['counts']['error'] == 0
    assert summary['standard']['giou']['value'] > 0.95
    assert said.count('grefcoco:val has 3 references without a sentence') == 1


def test_what_is_broken_counts_as_zero(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refs = [
        reference(1, 'the red ball'),
        reference(2, 5),
        {**reference(3), 'sentences': 'the red ball'},
        reference(4),
    ]
    summary, said = measure(root, capsys, 'expression', *refs)
    assert (summary['rows'], summary['counts']['error']) == (3, 2)
    assert 0.3 < summary['standard']['giou']['value'] < 0.34
    assert '2 rows could not be measured and count as zero' in said
