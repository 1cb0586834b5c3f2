# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch
from transformers import Sam2Config, Sam2VideoConfig, Sam2VideoModel

from segzero_core.errors import EngineOptionError, ModelLoadError
from segzero_core.segmenters import load_segmenter
from segzero_core.segmenters.sam2 import Sam2Segmenter
from segzero_core.types import Box, Point

pytestmark = pytest.mark.usefixtures('one_thread')

BOX = Box(40.0, 30.0, 120.0, 90.0)
POINTS = (Point(60.0, 50.0), Point(90.0, 70.0))


def picture(height: int = 121, width: int = 167, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def segmenter(tiny_segmenter_dir):
    engine = load_segmenter('sam2', model=str(tiny_segmenter_dir), device='cpu')
    yield engine
    engine.close()


@pytest.mark.parametrize('size', [(121, 167), (480, 640), (7, 300), (1, 1), (777, 513)])
def test_mask_has_the_size_of_the_image(segmenter, size):
    height, width = size
    box = Box(0, 0, width - 1, height - 1)
    found = segmenter.segment(segmenter.embed(picture(height, width)), box, [])
    assert found.mask.shape == (height, width)
    assert found.mask.dtype == np.bool_
    assert 0 <= found.score <= 1


def test_mask_depends_on_box_points_and_image(segmenter):
    embedding = segmenter.embed(picture())
    mask = segmenter.segment(embedding, BOX, POINTS).mask
    assert 0 < mask.mean() < 1
    assert (segmenter.segment(embedding, Box(1, 1, 50, 50), POINTS).mask != mask).any()
    assert (segmenter.segment(embedding, BOX, ()).mask != mask).any()
    assert (segmenter.segment(embedding, BOX, POINTS[:1]).mask != mask).any()
    # Points alone are another prompt than points in a box as large as the image.
    alone = segmenter.segment(embedding, None, POINTS)
    assert alone.score != segmenter.segment(embedding, Box(0, 0, 166, 120), POINTS).score
    other = segmenter.embed(picture(seed=1))
    assert (segmenter.segment(other, BOX, POINTS).mask != mask).any()


def test_an_embedding_can_be_used_again_after_another_image(segmenter):
    embedding = segmenter.embed(picture())
    first = segmenter.segment(embedding, BOX, POINTS)
    segmenter.segment(segmenter.embed(picture(64, 48, seed=1)), Box(1, 1, 30, 30), ())
    again = segmenter.segment(embedding, BOX, POINTS)
    fresh = segmenter.segment(segmenter.embed(picture()), BOX, POINTS)
    for other in (again, fresh):
        assert np.array_equal(other.mask, first.mask)
        assert other.score == first.score


def test_choosing_before_upsampling_gives_the_mask_of_choosing_after(segmenter):
    embedding = segmenter.embed(picture())
    found = segmenter.segment(embedding, BOX, POINTS)
    # The long way: the model on the whole prompt, all three masks upsampled, then the best.
    side = segmenter.side
    scale = np.array([side / 167, side / 121])
    with torch.inference_mode():
        output = segmenter.model(
            pixel_values=segmenter.preprocess(picture()),
            input_boxes=torch.tensor(
                (np.array(BOX).reshape(2, 2) * scale).reshape(1, 1, 4)
            ).float(),
            input_points=torch.tensor(np.array(POINTS) * scale)[None, None].float(),
            input_labels=torch.ones(1, 1, 2, dtype=torch.int32),
        )
        masks = torch.nn.functional.interpolate(
            output.pred_masks[0], (121, 167), mode='bilinear', align_corners=False
        )
    best = output.iou_scores[0, 0].argmax()
    assert np.array_equal(found.mask, (masks[0, best] > 0).numpy())
    assert found.score == pytest.approx(float(output.iou_scores[0, 0, best]), abs=1e-6)
    assert len({tuple(mask.flatten().tolist()) for mask in masks[0] > 0}) == 3


def test_masks_made_together_are_those_made_one_by_one(segmenter):
    embedding = segmenter.embed(picture())
    prompts = [
        (BOX, POINTS),
        (Box(1, 1, 50, 50), POINTS),
        (BOX, ()),
        (None, POINTS),
        (Box(5, 60, 160, 110), POINTS[::-1]),
    ]
    together = segmenter.segment_all(embedding, prompts)
    for found, (box, points) in zip(together, prompts, strict=True):
        alone = segmenter.segment(embedding, box, points)
        assert np.array_equal(found.mask, alone.mask)
        assert found.score == pytest.approx(alone.score, abs=1e-6)
    assert len({found.mask.tobytes() for found in together}) == len(prompts)
    assert segmenter.segment_all(embedding, []) == []


def test_a_compiled_encoder_gives_the_same_masks(tiny_segmenter_dir, segmenter, monkeypatch):
    # 'aot_eager' traces the encoder into graphs, as every backend gets them, and runs those.
    monkeypatch.setattr('segzero_core.segmenters.sam2.COMPILER', 'aot_eager')
    compiled = load_segmenter(
        'sam2', model=str(tiny_segmenter_dir), device='cpu', torch_compile=True
    )
    found = compiled.segment(compiled.embed(picture()), BOX, POINTS)
    plain = segmenter.segment(segmenter.embed(picture()), BOX, POINTS)
    assert compiled.compiled
    assert np.array_equal(found.mask, plain.mask)
    assert found.score == pytest.approx(plain.score, abs=1e-5)


def test_where_nothing_can_be_compiled_it_goes_on_without(
    tiny_segmenter_dir, segmenter, monkeypatch, caplog
):
    def no_compiler(*_):
        raise RuntimeError('no g++')

    monkeypatch.setattr('segzero_core.segmenters.sam2.COMPILER', no_compiler)
    engine = load_segmenter(
        'sam2', model=str(tiny_segmenter_dir), device='cpu', torch_compile=True
    )
    for _ in range(2):
        found = engine.segment(engine.embed(picture()), BOX, POINTS)
        plain = segmenter.segment(segmenter.embed(picture()), BOX, POINTS)
        assert np.array_equal(found.mask, plain.mask)
    (message,) = caplog.messages
    assert message.startswith('cannot compile the segmenter, it goes on without: ')
    assert 'no g++' in message


def test_preprocessing_is_an_antialiased_stretch_to_the_square_then_imagenet_statistics(segmenter):
    # Stripes one pixel wide, four times as many as the square has columns: with antialiasing
    # they become an even grey; without it, aliased stripes.
    stripes = np.zeros((32, 4 * segmenter.side, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    square = segmenter.preprocess(stripes)
    assert square.shape == (1, 3, segmenter.side, segmenter.side)
    grey = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    inner = square[0, :, :, 4:-4]
    assert torch.allclose(inner, grey.view(3, 1, 1).expand_as(inner), atol=0.02)


def test_images_that_are_read_only_or_not_contiguous_are_fine(segmenter, recwarn):
    image = picture()
    wanted = segmenter.segment(segmenter.embed(image), BOX, POINTS).mask
    frozen = image.copy()
    frozen.setflags(write=False)
    flipped = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    for same in (frozen, flipped):
        assert np.array_equal(segmenter.segment(segmenter.embed(same), BOX, POINTS).mask, wanted)
    assert not recwarn.list


def test_video_checkpoints_as_published_give_the_same_masks(
    tiny_segmenter_dir, segmenter, tmp_path
):
    image_config = Sam2Config.from_pretrained(tiny_segmenter_dir)
    config = Sam2VideoConfig(
        vision_config=image_config.vision_config,
        prompt_encoder_config=image_config.prompt_encoder_config.to_dict(),
        mask_decoder_config=image_config.mask_decoder_config.to_dict(),
        memory_attention_hidden_size=128,
        memory_attention_feed_forward_hidden_size=128,
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=128,
        memory_attention_num_layers=1,
        memory_attention_rope_feat_sizes=[16, 16],
        image_size=256,
    )
    video = Sam2VideoModel(config)
    missing = video.load_state_dict(segmenter.model.state_dict(), strict=False)
    assert not missing.unexpected_keys
    video.save_pretrained(tmp_path)
    assert json.loads((tmp_path / 'config.json').read_text())['model_type'] == 'sam2_video'
    loaded = Sam2Segmenter(str(tmp_path), device='cpu')
    mask = loaded.segment(loaded.embed(picture()), BOX, POINTS).mask
    assert np.array_equal(mask, segmenter.segment(segmenter.embed(picture()), BOX, POINTS).mask)


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to / 'model')
    return to / 'model'


def test_weights_that_are_not_sam2_are_refused(tiny_reasoner_dir):
    with pytest.raises(ModelLoadError, match=r"type 'qwen2_5_vl'.* takes sam2, sam2_video"):
        Sam2Segmenter(str(tiny_reasoner_dir))


def test_weights_cut_short_name_the_file(tiny_segmenter_dir, tmp_path):
    weights = copied(tiny_segmenter_dir, tmp_path) / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    with pytest.raises(ModelLoadError, match=r'model\.safetensors .*copy or download'):
        Sam2Segmenter(str(weights.parent))


def test_devices_that_are_not_there(tiny_segmenter_dir):
    with pytest.raises(ModelLoadError, match="'cuda:99' is not here"):
        Sam2Segmenter(str(tiny_segmenter_dir), device='cuda:99')
    with pytest.raises(EngineOptionError, match="unknown device 'gpu'"):
        Sam2Segmenter(str(tiny_segmenter_dir), device='gpu')


@pytest.mark.gpu
def test_cuda_and_cpu_agree(tiny_segmenter_dir, segmenter):
    if not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    on_gpu = Sam2Segmenter(str(tiny_segmenter_dir), device='cuda')
    mask = on_gpu.segment(on_gpu.embed(picture()), BOX, POINTS).mask
    wanted = segmenter.segment(segmenter.embed(picture()), BOX, POINTS).mask
    assert (mask == wanted).mean() > 0.9


def test_what_is_recorded_gives_the_masks_of_what_is_not(tiny_segmenter_dir):
    recorded = load_segmenter('sam2', model=str(tiny_segmenter_dir), device='cpu')
    plain = load_segmenter('sam2', model=str(tiny_segmenter_dir), device='cpu')
    plain.encode, plain.decode = plain.features, plain.logits
    rng = np.random.default_rng(0)
    forms = [
        [(Box(10, 8, 60, 50), [Point(20, 20), Point(40, 30)])],
        [(Box(1, 2, 30, 90), [Point(3, 4), Point(5, 6)])] * 2,
        [(Box(10, 8, 60, 50), [])],
        [(None, [Point(9, 9)])],
    ]
    for _ in range(3):
        image = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        embeddings = [each.embed(image) for each in (recorded, plain)]
        for prompts in forms:
            found, wanted = (
                each.segment_all(embedding, prompts)
                for each, embedding in zip((recorded, plain), embeddings, strict=True)
            )
            for ours, theirs in zip(found, wanted, strict=True):
                assert np.array_equal(ours.mask, theirs.mask)
                assert ours.score == theirs.score
    assert all(recorded.decode.recordings)  # they were
    assert all(recorded.encode.recordings)
