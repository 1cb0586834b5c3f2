# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoImageProcessor

from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner

pytestmark = pytest.mark.usefixtures('one_thread')


def picture(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope='module', params=['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
def both(request, tmp_path_factory):
    """Our image processor of each generation, and the published one of the same folder."""
    folder = tmp_path_factory.mktemp(request.param)
    build_tiny_reasoner(folder, model_type=request.param)
    published = AutoImageProcessor.from_pretrained(folder, backend='pil')
    return QwenProcessor.from_pretrained(folder).image_processor, published


def assert_same(both, images, **options) -> None:
    ours, theirs = (processor(images, **options) for processor in both)
    assert ours.keys() == theirs.keys()
    for key, wanted in theirs.items():
        found = ours[key]
        assert type(found) is type(wanted)
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted), key  # bit for bit


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(30, 120), st.integers(30, 120)), min_size=1, max_size=3),
    options=st.fixed_dictionaries(
        {},
        optional={
            'do_rescale': st.booleans(),
            'do_normalize': st.booleans(),
            'rescale_factor': st.floats(1e-3, 2),
            'image_mean': st.sampled_from([0.3, [0.1, 0.2, 0.7]]),
            'image_std': st.sampled_from([0.5, [0.3, 0.1, 0.9]]),
            'temporal_patch_size': st.integers(1, 3),
            'patch_size': st.sampled_from([8, 14]),
            'merge_size': st.integers(1, 2),
            'resample': st.sampled_from(list(Image.Resampling)[:4]),
        },
    ),
)
def test_images_become_the_numbers_that_the_published_processor_makes(both, sizes, options):
    images = [Image.fromarray(picture(*size, seed)) for seed, size in enumerate(sizes)]
    assert_same(both, images, return_tensors='pt', **options)


@pytest.mark.parametrize(
    'image',
    [
        Image.fromarray(picture(112, 112)),  # of a size that is kept, like the one below
        picture(112, 168),
        picture(112, 168).transpose(2, 0, 1),
        picture()[:, ::-1],
        torch.from_numpy(picture()),
        Image.fromarray(picture()).convert('L'),
        Image.fromarray(picture()).convert('RGBA'),
        picture().astype(np.float32),
        picture(112, 168) / 255,
    ],
    ids=['PIL', 'array', 'planes', 'view', 'tensor', 'grey', 'alpha', 'float', 'unit'],
)
def test_every_kind_of_image_is_taken_as_by_the_published_processor(both, image):
    assert_same(both, [image], return_tensors='np')


def test_settings_without_limits_are_refused(both):
    for processor in both:
        with pytest.raises(ValueError, match="'shortest_edge' and 'longest_edge'"):
            processor(picture(), size={'height': 56, 'width': 56})


def test_sizes_that_are_no_multiple_of_a_patch_are_refused_when_nothing_may_be_resized(both):
    assert_same(both, picture(96, 128), do_resize=False, patch_size=16)
    for processor in both:
        with pytest.raises(ValueError, match='reshape'):
            processor(picture(113, 128), do_resize=False)
        with pytest.raises(ValueError, match='aspect ratio must be smaller'):
            processor(picture(28, 28 * 201))


@pytest.mark.parametrize('model_type', ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
def test_a_still_image_is_encoded_as_by_a_call_but_each_patch_once(model_type, tmp_path):
    processor = QwenProcessor.from_pretrained(build_tiny_reasoner(tmp_path, model_type=model_type))
    conversation = [
        {
            'role': 'user',
            'content': [{'type': 'image'}, {'type': 'text', 'text': 'Where is the red mug ☕?'}],
        }
    ]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    image = Image.fromarray(picture(112, 168))
    found = processor.encode_still(prompt, image)
    wanted = processor(text=[prompt], images=[image], return_tensors='pt')
    assert found.keys() == wanted.keys()
    frames = wanted.pop('pixel_values').unflatten(1, (3, 2, -1))
    for frame in (0, 1):
        assert torch.equal(found['pixel_values'], frames[:, :, frame].flatten(1))
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def test_it_saves_what_every_checkpoint_has(tiny_reasoner_dir, tmp_path):
    QwenProcessor.from_pretrained(tiny_reasoner_dir).save_pretrained(tmp_path)
    files = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert set(files) == {
        'chat_template.jinja',
        'preprocessor_config.json',
        'tokenizer.json',
        'tokenizer_config.json',
    }
    assert not any('QwenProcessor' in text for text in files.values())
    for name in ('tokenizer.json', 'chat_template.jinja'):
        assert files[name] == (tiny_reasoner_dir / name).read_text()
    again = QwenProcessor.from_pretrained(tmp_path)
    image = Image.fromarray(picture())
    first, second = (
        processor(text=['<|image_pad|>'], images=[image], return_tensors='pt')['pixel_values']
        for processor in (QwenProcessor.from_pretrained(tiny_reasoner_dir), again)
    )
    assert torch.equal(first, second)
