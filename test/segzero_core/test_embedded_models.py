# SPDX-License-Identifier: Apache-2.0
"""The embedded models: small, found by name, and useful on synthetic scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

from safetensors import safe_open

from segzero_core import SegZero
from segzero_core.answers.parse import parse_answer
from segzero_core.geometry import box_iou, largest_inscribed_circles, mask_to_box, rescale_box
from segzero_core.reasoners import load_reasoner
from segzero_core.reasoners.base import Reasoner
from segzero_core.runtime.checkpoint_metadata import synthetic_only
from segzero_core.runtime.checkpoints import EMBEDDED, find_checkpoint
from segzero_core.segmenters import load_segmenter
from segzero_core.synthetic import Scene, make_scene
from segzero_core.types import Size, image_size

SIZE = Size(320, 240)
SEEDS = range(1_000_000, 1_000_008)  # never trained on


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return [make_scene(seed, SIZE, count=(2, 4)) for seed in SEEDS]


@pytest.fixture(scope='module')
def reasoner() -> Iterator[Reasoner]:
    engine = load_reasoner('transformers', model='tiny', device='cpu')
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ('name', 'most'), [('tiny', 10e6), ('tiny_base', 10e6), ('tiny_sam2', 10e6)]
)
def test_embedded_models_are_small_and_say_what_they_are(name: str, most: float) -> None:
    folder = find_checkpoint(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= most
    with safe_open(folder / 'model.safetensors', 'pt') as weights:
        shapes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118
    assert sum(int(np.prod(shape)) for shape in shapes) <= 10e6
    card = (folder / 'README.md').read_text(encoding='utf-8')
    assert 'synthetic' in card
    assert '/train.py --config' in card


def test_every_name_has_a_folder() -> None:
    assert {find_checkpoint(name).name for name in EMBEDDED} == set(EMBEDDED)


def test_a_folder_of_ones_own_comes_before_an_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint('tiny') != Path('tiny')
    (tmp_path / 'tiny').mkdir()
    assert find_checkpoint('tiny') == Path('tiny')


def test_the_reasoner_finds_most_of_what_is_asked_for(
    reasoner: Reasoner, scenes: list[Scene]
) -> None:
    overlaps = []
    for scene in scenes:
        query = next(query for query in scene.queries() if query.kind == 'attribute')
        text = reasoner.reason(scene.image, query.text).text
        space = reasoner.task.answer_size(image_size(scene.image))
        answer = parse_answer(text, space)
        assert answer.repairs == ()
        assert answer.reasoning.startswith('The ')
        truth = mask_to_box(scene.mask(query.target))
        overlaps.append(box_iou(rescale_box(answer.box, space, SIZE), truth))
    assert np.mean(np.array(overlaps) > 0.5) >= 0.6


def test_the_segmenter_cuts_out_what_a_box_and_points_are_on(scenes: list[Scene]) -> None:
    segmenter = load_segmenter('sam2', model='tiny_sam2', device='cpu')
    overlaps = []
    for scene in scenes:
        embedding = segmenter.embed(scene.image)
        for i in range(len(scene.objects)):
            truth = scene.mask(i)
            points = tuple(circle.center for circle in largest_inscribed_circles(truth))
            found = segmenter.segment(embedding, mask_to_box(truth), points).mask
            overlaps.append((found & truth).sum() / (found | truth).sum())
    segmenter.close()
    assert np.mean(overlaps) > 0.8


def test_embedded_models_say_that_they_know_synthetic_scenes_only(
    reasoner: Reasoner, scenes: list[Scene]
) -> None:
    segmenter = load_segmenter('sam2', model='tiny_sam2', device='cpu')
    found = SegZero(reasoner, segmenter)(scenes[0].image, scenes[0].queries()[0].text)
    segmenter.close()
    (warning,) = (each for each in found.warnings if each.kind == 'synthetic_only')
    assert 'the reasoner and the segmenter in use know' in warning.message
    assert synthetic_only(find_checkpoint('tiny_base'))
