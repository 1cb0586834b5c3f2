# SPDX-License-Identifier: Apache-2.0
import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch

from segzero_core.errors import ModelLoadError, TrainingError
from segzero_core.runtime.checkpoints import transformers
from segzero_core.segmenters.sam2 import Sam2Segmenter
from segzero_core.types import Box
from training.tiny_recipe import segmenter_loop as masks
from training.tiny_recipe.mask_batches import SceneCrop, draw, enlarged
from training.tiny_recipe.resume import ResumePoint
from training.tiny_recipe.scene_cache import load_scenes
from training.tiny_recipe.segmenter_loop import SegmenterSettings, mask_losses, train_segmenter
from training.tiny_recipe.train import read_settings

PRESET = Path(__file__).parents[3] / 'config' / 'tiny_recipe' / 'tiny_segmenter.yaml'
SIDE = 256


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('scenes')


@pytest.fixture(scope='module')
def scenes(cache):
    return load_scenes(cache, 7, 3, SIDE, masks.RENDERED)


def settings(folder, cache, **changes):
    base = SegmenterSettings(
        folder, cache, scenes=3, first_scene=7, steps=4, batch=2, save_every=2
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize('zoom', [1.0, 2.0])
def test_exact_prompts_are_on_what_they_mean(scenes, cache, tmp_path, zoom):
    exact = settings(tmp_path, cache, jitter=0.0, batch=12, prompts=5, zoom=zoom)
    batch = draw(scenes, exact, np.random.default_rng(1))
    assert batch.images.shape == (12, 3, SIDE, SIDE)
    for image in range(12):
        for prompt in range(5):
            mask = batch.masks[image, prompt]
            rows, columns = mask.nonzero().T
            seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert torch.allclose(batch.boxes[image, prompt], seen.float(), atol=1.5 * zoom)
            for x, y in batch.points[image, prompt].round().long().tolist():
                assert mask[y, x]


def test_prompts_are_as_imprecise_as_asked_for(scenes, cache, tmp_path):
    exact, jittered = (
        draw(scenes, settings(tmp_path, cache, jitter=jitter, batch=40), np.random.default_rng(1))
        for jitter in (0.0, 0.1)
    )
    extent = (exact.boxes[..., 2:] - exact.boxes[..., :2]).repeat(1, 1, 2)
    off = (jittered.boxes - exact.boxes) / extent
    assert float(off.std()) == pytest.approx(0.1, rel=0.2)
    assert torch.equal(jittered.masks, exact.masks)


def test_a_part_of_a_scene_is_enlarged_with_its_items(scenes):
    rng = np.random.default_rng(3)
    kept = 0
    for image, instances, items in zip(scenes.images, scenes.instances, scenes.items, strict=True):
        whole = SceneCrop(image, instances, dict(enumerate(items, start=1)))
        assert enlarged(whole, 1.0, rng).image.tobytes() == image.tobytes()
        part = enlarged(whole, 1.5, rng)
        assert part.image.shape == image.shape
        assert part.items
        for number, item in part.items.items():
            kept += 1
            share = (part.instances == number).sum() / (instances == number).sum()
            assert share == pytest.approx(1.5**2, rel=0.1)
            before = whole.items[number].box
            assert item.box.x2 - item.box.x1 == pytest.approx(1.5 * (before.x2 - before.x1), 0.01)
    assert kept > 3


def test_what_does_not_fit_is_not_enlarged(scenes):
    item = scenes.items[0][0]._replace(box=Box(10, 10, 200, 60))
    view = SceneCrop(scenes.images[0], scenes.instances[0], {1: item})
    assert enlarged(view, 1.6, np.random.default_rng(0)) is view


def test_losses_ask_for_the_right_mask_and_a_score_that_knows():
    truth = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    truth[..., 16:48, 16:48] = True
    right = (truth[..., ::4, ::4].float() - 0.5) * 20
    sure = mask_losses(torch.stack([right] * 3, dim=2), torch.ones(1, 1, 3), truth)
    assert float(sure['focal']) == pytest.approx(0, abs=1e-3)
    assert float(sure['dice']) == pytest.approx(0, abs=1e-2)
    assert float(sure['score']) == 0
    assert float(sure['iou']) == 1
    one_wrong = torch.stack([-right, right, right], dim=2)
    misled = mask_losses(one_wrong, torch.tensor([[[1.0, 0.5, 0]]]), truth)
    assert float(misled['focal']) > 1
    assert float(misled['dice']) > 0.3
    assert float(misled['score']) == pytest.approx((1 + 0.5 + 1) / 3)
    assert float(misled['iou']) == 0


def test_a_stopped_training_goes_on_as_if_nothing_had_happened(tmp_path, cache, scenes):
    whole = train_segmenter(settings(tmp_path / 'whole', cache))
    update, steps = masks.SegmenterRun.update, []

    def stop_at_fourth(run):
        steps.append(run)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return update(run)

    halves = settings(tmp_path / 'halves', cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks.SegmenterRun, 'update', stop_at_fourth)
        with pytest.raises(KeyboardInterrupt):
            train_segmenter(halves)
        resumed = train_segmenter(halves)
        assert len(steps) == 4 + 2  # from step 2 on
        assert train_segmenter(halves) == resumed  # is done
        assert len(steps) == 4 + 2
    first, second = (
        transformers.Sam2Model.from_pretrained(folder).state_dict() for folder in (whole, resumed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(file.stat().st_size for file in resumed.iterdir()) < 10e6
    image, item = scenes.images[0], scenes.items[0][0]
    segmenter = Sam2Segmenter(str(resumed), device='cpu')
    assert segmenter.segment(segmenter.embed(image), item.box, item.points).mask.shape == (
        SIDE,
        SIDE,
    )


def test_training_goes_on_from_a_checkpoint(tmp_path, cache, scenes, tiny_segmenter_dir):
    given = settings(tmp_path, cache, steps=1, learning_rate=0.0, start=str(tiny_segmenter_dir))
    trained = train_segmenter(given)
    before, after = (
        transformers.Sam2Model.from_pretrained(folder, dtype=torch.float32).state_dict()
        for folder in (tiny_segmenter_dir, trained)
    )
    assert all(torch.equal(before[name].half(), after[name].half()) for name in before)


def test_a_start_that_is_no_sam_2_is_refused(tmp_path, cache, tiny_reasoner_dir):
    with pytest.raises(ModelLoadError, match='sam2'):
        train_segmenter(settings(tmp_path, cache, start=str(tiny_reasoner_dir)))


def test_a_loss_that_is_no_number_stops_the_training(tmp_path, cache):
    with pytest.raises(TrainingError, match='the loss at step 1 is nan: lower the learning rate'):
        train_segmenter(settings(tmp_path, cache, learning_rate=float('nan')))


def test_full_disk_keeps_the_state_before(tmp_path, limited_files):
    part = torch.nn.Linear(99, 99)
    point = ResumePoint(tmp_path, np.random.default_rng(0), part=part)
    point.save(1)
    with (
        limited_files(9999),
        pytest.raises(TrainingError, match='cannot save the state after step 2'),
    ):
        point.save(2)
    assert [path.name for path in tmp_path.iterdir()] == ['resume.pt']
    assert point.load() == 1


def test_the_preset_and_its_overrides_become_settings():
    preset = read_settings(PRESET, [])
    assert preset.output == Path('runs/tiny_segmenter')
    changed = read_settings(PRESET, ['steps=3', 'output=elsewhere', 'start=runs/mine'])
    wanted = {'steps': 3, 'output': Path('elsewhere'), 'start': 'runs/mine'}
    assert changed == dataclasses.replace(preset, **wanted)
