# SPDX-License-Identifier: Apache-2.0
import gc
import shutil
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.answers.parse import parse_answer
from segzero_core.errors import (
    AnswerError,
    CancelledError,
)
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.transformers import (
    TransformersReasoner,
)
from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner
from segzero_core.types import Box, Point, Size

pytestmark = pytest.mark.usefixtures('one_thread')

ROOT = Path(__file__).parents[3]
# What the overfit_reasoner_dir fixture taught its model.
OVERFIT_ANSWER = (
    '<think>The red mug ☕ stands left of the box.</think>'
    '<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}</answer>'
)


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def overfit(overfit_reasoner_dir):
    engine = TransformersReasoner(str(overfit_reasoner_dir), device='cpu')
    yield engine
    engine.close()


# --- what it writes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('model_type', 'family'),
    [('qwen2_vl', 'thousandths'), ('qwen2_5_vl', 'seg_zero'), ('qwen3_vl', 'thousandths')],
)
def test_all_three_generations_load_and_write(model_type, family, tmp_path):
    build_tiny_reasoner(tmp_path, model_type=model_type)
    engine = TransformersReasoner(str(tmp_path), device='cpu', max_new_tokens=5)
    assert type(engine.model).config_class.model_type == model_type
    assert engine.task.family.name == family
    text = engine.reason(picture(), 'the red mug').text
    assert text
    assert engine.reason(picture(), 'the red mug').text == text
    with pytest.raises(AnswerError):
        parse_answer(text, engine.task.answer_size(Size(128, 96)))


def test_streamed_pieces_are_whole_characters_and_add_up_to_the_text(overfit):
    pieces = []
    text = overfit.reason(picture(), 'the red mug', on_text=pieces.append).text
    assert ''.join(pieces) == text
    assert len(pieces) > 20
    assert '' not in pieces
    assert not any('\ufffd' in piece for piece in pieces)
    assert any('☕' in piece for piece in pieces)


def test_the_answer_becomes_a_mask(overfit_reasoner_dir, tiny_segmenter_dir):
    reasoner = load_reasoner('transformers', model=str(overfit_reasoner_dir), device='cpu')
    segmenter = load_segmenter('sam2', model=str(tiny_segmenter_dir), device='cpu')
    with SegZero(reasoner, segmenter) as segzero:
        found = segzero(picture(224, 448), 'The red mug.')
    assert found.mask.shape == (224, 448)
    # The model answers in pixels of the 112 x 112 image it sees.
    assert found.box == pytest.approx(Box(28 * 4, 30 * 2, 84 * 4, 90 * 2), abs=3)
    assert found.points[0] == pytest.approx(Point(50 * 4, 56 * 2), abs=3)
    assert found.reasoning == 'The red mug ☕ stands left of the box.'


def test_a_reply_says_why_it_ended_and_how_long_it_is(overfit_reasoner_dir, overfit):
    tokenizer = overfit.processor.tokenizer
    whole = Reply(OVERFIT_ANSWER, 'stop', len(tokenizer(OVERFIT_ANSWER).input_ids))
    assert overfit.reason(picture(), 'the red mug') == whole
    assert overfit.reason_batch([picture()] * 2, ['a', 'the red mug']) == [whole, whole]
    engine = TransformersReasoner(str(overfit_reasoner_dir), device='cpu', max_new_tokens=7)
    cut = engine.reason(picture(), 'the red mug')
    assert cut[1:] == ('length', 7)
    assert OVERFIT_ANSWER.startswith(cut.text)
    assert len(tokenizer(cut.text).input_ids) == 7
    assert engine.reason_batch([picture()] * 2, ['a', 'the red mug']) == [cut, cut]
    # An end token of the model's own, here the first one that it would write.
    first = tokenizer(OVERFIT_ANSWER).input_ids[3]
    ends = replaced_end(overfit_reasoner_dir, first)
    ended = ends.reason(picture(), 'the red mug')
    assert ended[1:] == ('stop', 3)
    assert ends.reason_batch([picture()] * 2, ['a', 'the red mug']) == [ended, ended]


def replaced_end(folder, token):
    """The engine with another end token."""
    with pytest.MonkeyPatch.context() as patch:
        read = GenerationConfig.from_pretrained

        def changed(*args, **kwargs):
            found = read(*args, **kwargs)
            found.eos_token_id = [token]
            return found

        patch.setattr(GenerationConfig, 'from_pretrained', changed)
        return TransformersReasoner(str(folder), device='cpu')


def test_a_thought_that_the_template_opens_is_part_of_the_reply(overfit_reasoner_dir, tmp_path):
    folder = Path(shutil.copytree(overfit_reasoner_dir, tmp_path / 'model'))
    template = folder / 'chat_template.jinja'
    template.write_text(template.read_text().replace('assistant\n', 'assistant\n<think>'))
    engine = TransformersReasoner(str(folder), device='cpu')
    assert engine.prompt('the red mug').endswith('assistant\n<think>')
    pieces = []
    reply = engine.reason(picture(), 'the red mug', pieces.append)
    assert reply.text.startswith('<think>')
    assert reply.text.count('<think>') == 1
    assert '</think><answer>' in reply.text
    assert reply.text.endswith('</answer>')
    assert reply.finish_reason == 'stop'
    assert ''.join(pieces) == reply.text
    assert engine.reason_batch([picture()] * 2, ['a', 'the red mug'])[1] == reply


def test_a_batch_is_answered_as_one_by_one(overfit):
    images = [picture(), picture(60, 40), picture(30, 90)]
    queries = ['the red mug', 'a', 'the thing I could drink from, left of the green box']
    assert [reply.text for reply in overfit.reason_batch(images, queries)] == [OVERFIT_ANSWER] * 3


def test_images_may_be_read_only_or_flipped_views(overfit):
    image = picture()
    image.setflags(write=False)
    assert overfit.reason(image[:, ::-1], 'the red mug').text == OVERFIT_ANSWER


# --- thinking ---------------------------------------------------------------------------------


def test_thinking_can_be_left_out_and_cut_short(overfit_reasoner_dir, overfit):
    for options, wanted in (
        ({'thinking': 'prefilled'}, OVERFIT_ANSWER),
        ({'thinking': 'none'}, '<think></think><answer>'),
        ({'thinking': 'prefilled', 'max_think_tokens': 3}, '<think>The'),
    ):
        engine = TransformersReasoner(str(overfit_reasoner_dir), device='cpu', **options)
        text = engine.reason(picture(), 'the red mug').text
        assert text.startswith(wanted)
        both = [text, engine.reason(picture(), 'the mug').text]
        assert [
            reply.text
            for reply in engine.reason_batch([picture()] * 2, ['the red mug', 'the mug'])
        ] == both
    thoughts = text.partition('</think>')[0].removeprefix('<think>')
    assert OVERFIT_ANSWER.startswith('<think>' + thoughts)
    assert len(engine.processor.tokenizer(thoughts).input_ids) == 3


def test_a_smaller_image_is_fewer_tokens_and_answers_are_in_its_pixels(tiny_reasoner_dir):
    engine = TransformersReasoner(str(tiny_reasoner_dir), device='cpu', image_side=448)
    given = engine.encode(picture(), engine.prompt('x'))
    assert given['image_grid_thw'].tolist() == [[1, 32, 32]]
    assert engine.task.answer_size(Size(128, 96)) == (448, 448)


# --- cancel -----------------------------------------------------------------------------------


def test_cancel_from_another_thread_stops_within_a_token(overfit):
    cancel = threading.Event()
    pieces = []

    def on_text(piece):
        pieces.append(piece)
        if len(pieces) == 3:
            other = threading.Thread(target=cancel.set)
            other.start()
            other.join()

    with pytest.raises(CancelledError):
        overfit.reason(picture(), 'the red mug', on_text, cancel)
    assert len(pieces) == 3
    assert overfit.reason(picture(), 'the red mug').text == OVERFIT_ANSWER  # and can be used again


def test_cancelled_before_it_began(overfit):
    cancel = threading.Event()
    cancel.set()
    pieces = []
    with pytest.raises(CancelledError):
        overfit.reason(picture(), 'the red mug', pieces.append, cancel)
    assert not pieces


# --- what the model is given ------------------------------------------------------------------


def test_the_image_is_stretched_bilinearly_to_the_size_of_the_family(tiny_reasoner_dir):
    engine = TransformersReasoner(str(tiny_reasoner_dir), device='cpu')
    given = engine.encode(picture(), engine.prompt('The red Mug.'))
    assert given['image_grid_thw'].tolist() == [[1, 60, 60]]  # 840 / 14
    seen = Image.fromarray(picture()).resize((840, 840), Image.Resampling.BILINEAR)
    # The first patch: channel, 14 x 14 pixels, normalised.
    patch = given['pixel_values'][0].reshape(3, 14, 14)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    corner = torch.from_numpy(np.array(seen)[:14, :14].copy()).permute(2, 0, 1) / 255
    assert torch.allclose(patch, (corner - mean) / std, atol=1e-5)
    text = engine.processor.tokenizer.decode(given['input_ids'][0])
    assert text.count('<|image_pad|>') == 900  # 840 / 28 squared
    assert text.replace('<|image_pad|>', '').startswith(
        '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'
        "<|im_start|>user\n<|vision_start|><|vision_end|>Please find 'the red mug' with bbox"
    )
    assert text.endswith('<|im_end|>\n<|im_start|>assistant\n')


@pytest.mark.parametrize('model_type', ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
@pytest.mark.parametrize('blocks', [(4, 4), (9, 5), (3, 8)])
def test_an_image_becomes_what_the_published_model_makes_of_it(model_type, blocks, tmp_path):
    build_tiny_reasoner(tmp_path, model_type=model_type)
    engine = TransformersReasoner(str(tmp_path), device='cpu')
    published = AutoModelForImageTextToText.from_pretrained(tmp_path).eval().model.visual
    side = 2 * engine.processor.image_processor.patch_size
    image = Image.fromarray(picture(side * blocks[0], side * blocks[1]))
    prompt = engine.prompt('the red mug')
    given = engine.processor.encode_still(prompt, image)
    wanted = engine.processor(text=[prompt], images=[image], return_tensors='pt')
    with torch.inference_mode():
        ours, theirs = (
            visual(inputs['pixel_values'], grid_thw=inputs['image_grid_thw']).pooler_output
            for visual, inputs in ((engine.model.model.visual, given), (published, wanted))
        )
    assert ours.shape == (blocks[0] * blocks[1], engine.model.config.text_config.hidden_size)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert theirs.std(dim=0).mean() > 0.01


def test_sampling_settings_of_a_checkpoint_are_dropped_and_its_penalty_kept(
    tiny_reasoner_dir, tmp_path
):
    folder = shutil.copytree(tiny_reasoner_dir, tmp_path / 'model')
    GenerationConfig(
        do_sample=True, temperature=1e-6, repetition_penalty=1.05, eos_token_id=[1, 0]
    ).save_pretrained(folder)
    engine = TransformersReasoner(str(folder), device='cpu', max_new_tokens=99)
    assert engine.generation.do_sample is False
    assert engine.generation.temperature is None
    assert engine.generation.repetition_penalty == 1.05
    assert engine.generation.max_new_tokens == 99


def test_closing_frees_the_model(tiny_reasoner_dir):
    engine = TransformersReasoner(str(tiny_reasoner_dir), device='cpu')
    model = weakref.ref(engine.model)
    engine.close()
    gc.collect()
    assert model() is None


@pytest.mark.gpu
def test_cuda_runs_in_bfloat16(overfit_reasoner_dir):
    if not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    engine = TransformersReasoner(str(overfit_reasoner_dir), device='cuda')
    assert engine.model.dtype == torch.bfloat16
    assert engine.reason(picture(), 'the red mug').text == OVERFIT_ANSWER
