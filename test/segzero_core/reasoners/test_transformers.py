# SPDX-License-Identifier: Apache-2.0
import gc
import threading
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.answers.parse import parse_answer
from segzero_core.errors import (
    AnswerError,
    CancelledError,
)
from segzero_core.reasoners.decode import EncodedPrompt
from segzero_core.reasoners.decode.detokenizer import Detokenizer
from segzero_core.reasoners.decode.prefix_cache import PrefixCache, common_prefix
from segzero_core.reasoners.decode.tree_batch import TreeBatch
from segzero_core.reasoners.image_input import model_picture
from segzero_core.reasoners.transformers import (
    TransformersReasoner,
    _greedy,
)
from segzero_core.runtime.checkpoints import find_checkpoint
from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner
from segzero_core.synthetic import make_scene
from segzero_core.types import Box, Point, Size, image_size

pytestmark = pytest.mark.usefixtures('one_thread')

ROOT = Path(__file__).parents[3]
# What the overfit_reasoner_dir fixture taught its model.
OVERFIT_ANSWER = (
    '<think>The red mug ☕ stands left of the box.</think>'
    '<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}</answer>'
)


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def loaded(model, penalty=1.0, **options):
    """The engine, and the same checkpoint as transformers loads it."""
    engine = TransformersReasoner(str(model), device='cpu', **options)
    engine.engine.penalty = engine.generation.repetition_penalty = penalty
    engine.original = AutoModelForImageTextToText.from_pretrained(
        find_checkpoint(str(model)), dtype=torch.float32
    )
    return engine


@pytest.fixture(scope='module')
def overfit(overfit_reasoner_dir):
    engine = loaded(overfit_reasoner_dir)
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


def test_stops_right_after_the_answer_although_the_model_would_go_on(overfit):
    assert overfit.reason(picture(), 'the red mug').text == OVERFIT_ANSWER
    text = written_by_generate(overfit, picture(), 'the red mug')
    assert text == OVERFIT_ANSWER + ' That is all there is to say.'


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


def test_replies_end_at_max_new_tokens(overfit_reasoner_dir):
    engine = TransformersReasoner(str(overfit_reasoner_dir), device='cpu', max_new_tokens=7)
    text = engine.reason(picture(), 'the red mug').text
    assert OVERFIT_ANSWER.startswith(text)
    assert len(engine.processor.tokenizer(text).input_ids) == 7


def test_a_batch_is_answered_as_one_by_one(overfit):
    images = [picture(), picture(60, 40), picture(30, 90)]
    queries = ['the red mug', 'a', 'the thing I could drink from, left of the green box']
    assert [reply.text for reply in overfit.reason_batch(images, queries)] == [OVERFIT_ANSWER] * 3


def test_sentences_written_side_by_side_are_what_generate_writes_for_each(monkeypatch):
    engine = loaded('tiny')
    scenes = [make_scene(seed) for seed in (1_000_001, 1_000_002)]
    asked = [(scenes[n % 2].image, scenes[n % 2].queries()[n].text) for n in range(5)]
    wanted = [written_by_generate(engine, *each) for each in asked]
    assert len(set(wanted)) > 1
    assert len({len(text) for text in wanted}) > 1  # some end before others
    counted = Counted(engine, monkeypatch)
    assert [reply.text for reply in engine.reason_batch(*zip(*asked, strict=True))] == wanted
    assert counted.images == 2  # each is read once
    assert [engine.reason(*each).text for each in asked[:2]] == wanted[:2]


def test_a_penalty_holds_side_by_side_too(tiny_reasoner_dir):
    engine = loaded(tiny_reasoner_dir, penalty=8.0, max_new_tokens=12, image_side=112)
    asked = [(picture(), 'the red mug'), (255 - picture(), 'something else')]
    wanted = [written_by_generate(engine, *each) for each in asked]
    assert len(set(wanted[0])) > 1  # without it, this model repeats itself
    assert [reply.text for reply in engine.reason_batch(*zip(*asked, strict=True))] == wanted


@pytest.mark.parametrize('model_type', ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_branches_are_computed_as_if_they_were_alone_also_when_others_have_ended(
    model_type, dtype, tmp_path
):
    build_tiny_reasoner(tmp_path, model_type=model_type, dtype=dtype)
    engine = TransformersReasoner(str(tmp_path), device='cpu', image_side=224)
    queries = ['a', 'the red mug', 'b', 'what I drink from']
    images = [picture(), picture(), 255 - picture(), 255 - picture()]
    inputs = [
        engine.encode(image, engine.prompt(query))
        for image, query in zip(images, queries, strict=True)
    ]
    prompts = [each['input_ids'][0].tolist() for each in inputs]
    decoder = engine.engine.cache
    branches = TreeBatch(decoder, [2, 2])
    found = []
    for number, prompt in enumerate(prompts):
        if number % 2 == 0:
            decoder.prefill(b'frame', inputs[number], 4)
        # What the two prompts about an image have in common ends before the sentences.
        same = common_prefix(prompt, prompts[number ^ 1])
        decoder.truncate(same)
        branches.open_row(number // 2)
        if number == 3:
            decoder.extend(prompt[same:-1])  # computed alone, and copied
        found.append((branches.add(same), prompt[len(decoder.state.tokens) :]))
    one, two, three, four = (branch for branch, _ in found)
    more = [[7], [8, 9, 3], [], []]
    ahead = [left + new for (_, left), new in zip(found, more, strict=True)]
    # Different numbers of tokens, some of which are taken back, and branches that wait or end.
    first = branches.extend([one, two, three, four], ahead, [1, 4, 0, 1])
    branches.truncate(two, 1)
    second = branches.extend([three, two], [[5], [10, 11]], [1, 1])
    branches.remove(one)
    branches.remove(three)
    branches.truncate(two, 1)
    third = branches.extend([four, two], [[13, 14], [12]], [2, 1])
    branches.remove(two)  # and with it its row
    fourth = branches.extend([four], [[15]], [1])
    assert [len(each) for each in (first, second, third, fourth)] == [6, 2, 3, 1]

    def alone(number, *tokens):
        decoder.prefill(b'frame', inputs[number], 4)
        return decoder.extend(tokens, len(tokens))

    close = partial(torch.allclose, atol=1e-5)
    assert close(first[0], alone(0, 7)[0])
    assert close(first[2:5], alone(1, 8, 9, 3))
    assert close(second[1], alone(1, 8, 9, 10, 11)[-1])
    assert close(third[2], alone(1, 8, 9, 10, 12)[-1])
    assert close(second[0], alone(2, 5)[0])
    assert close(torch.cat((third[:2], fourth)), alone(3, 13, 14, 15))


def test_images_may_be_read_only_or_flipped_views(overfit):
    image = picture()
    image.setflags(write=False)
    assert overfit.reason(image[:, ::-1], 'the red mug').text == OVERFIT_ANSWER


@pytest.fixture(scope='module')
def tokenizer(tiny_reasoner_dir):
    return AutoTokenizer.from_pretrained(tiny_reasoner_dir)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_streaming_any_tokens_gives_what_decoding_them_at_once_gives(tokenizer, data):
    any_text = st.text(max_size=20).map(lambda text: tokenizer(text).input_ids)
    any_tokens = st.lists(st.integers(0, len(tokenizer) - 1), max_size=20)
    written = [
        token for part in data.draw(st.lists(any_text | any_tokens, max_size=4)) for token in part
    ]
    wanted = tokenizer.decode(written, skip_special_tokens=True)
    text = Detokenizer(partial(tokenizer.decode, skip_special_tokens=True))
    assert ''.join([text.add(token) for token in written]) + text.flush() == wanted


# --- nothing twice ----------------------------------------------------------------------------


class Counted:
    """Counts how many tokens a reasoner computes; a token of an image is one of them."""

    def __init__(self, engine, monkeypatch):
        decoder = engine.engine.cache
        self.tokens, self.images, self.steps = 0, 0, 0
        prefill, extend = decoder.prefill, decoder.extend

        def counted_prefill(frame, inputs, room, tokens=()):
            self.tokens += inputs['input_ids'].shape[1]
            self.images += 1
            return prefill(frame, inputs, room, tokens)

        def counted_extend(tokens, wanted=1):
            self.tokens += len(tokens)
            self.steps += 1
            return extend(tokens, wanted)

        monkeypatch.setattr(decoder, 'prefill', counted_prefill)
        monkeypatch.setattr(decoder, 'extend', counted_extend)


def generated(engine, image, query):
    """The prompt's tokens, and what transformers' own model and loop write after them."""
    seen = model_picture(image, engine.task.input_size(image_size(image)))
    inputs = engine.processor(text=[engine.prompt(query)], images=[seen], return_tensors='pt')
    with torch.inference_mode():
        found = engine.original.generate(**inputs, generation_config=engine.generation)[0]
    length = inputs['input_ids'].shape[1]
    return found[:length].tolist(), found[length:].tolist()


def written_by_generate(engine, image, query):
    """That, as text."""
    _, written = generated(engine, image, query)
    return engine.processor.tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize('model_type', ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
@pytest.mark.parametrize(
    ('dtype', 'penalty'), [(torch.float32, 1.0), (torch.float32, 1.3), (torch.bfloat16, 1.0)]
)
def test_it_writes_what_generate_writes_however_much_is_reused(
    model_type, dtype, penalty, tmp_path, monkeypatch
):
    # Small logits of a random model lie close together: a sign that much agrees if they agree.
    build_tiny_reasoner(tmp_path, seed=3, model_type=model_type, dtype=dtype)
    engine = loaded(tmp_path, penalty, max_new_tokens=12, image_side=224)
    counted = Counted(engine, monkeypatch)
    other = 255 - picture()
    asked = [
        (picture(), 'the red mug'),
        (picture(), 'the red mug'),
        (picture(), 'something else'),
        (other, 'something else'),
        (picture(), 'the red mug'),
    ]
    for image, query in asked:
        assert engine.reason(image, query).text == written_by_generate(engine, image, query)
    assert counted.images == 3  # the first, the other, and the first again


def test_a_second_sentence_about_a_frame_computes_only_its_own_words(
    tiny_reasoner_dir, monkeypatch
):
    engine = TransformersReasoner(str(tiny_reasoner_dir), device='cpu', max_new_tokens=2)
    counted = Counted(engine, monkeypatch)
    engine.reason(picture(), 'the red mug')
    whole, counted.tokens = counted.tokens, 0
    assert whole > 900  # of the image alone
    engine.reason(picture(), 'the blue mug')
    assert 0 < counted.tokens < whole - 900
    counted.tokens = 0
    engine.reason(picture(), 'the blue mug')
    assert counted.tokens <= 2


def test_a_frame_at_another_size_is_another_frame(tiny_reasoner_dir, monkeypatch):
    engine = TransformersReasoner(str(tiny_reasoner_dir), device='cpu', max_new_tokens=2)
    counted = Counted(engine, monkeypatch)
    engine.task = engine.task.with_family(replace(engine.task.family, image_size=224))
    engine.reason(picture(), 'the red mug')
    engine.task = engine.task.with_family(replace(engine.task.family, image_size=112))
    engine.reason(picture(), 'the red mug')
    assert counted.images == 2


def test_a_cancelled_sentence_leaves_nothing_wrong_behind(overfit):
    cancel, pieces = threading.Event(), []

    def stop_soon(piece):
        pieces.append(piece)
        if len(pieces) == 9:
            cancel.set()

    with pytest.raises(CancelledError):
        overfit.reason(picture(), 'the red mug', stop_soon, cancel)
    assert overfit.reason(picture(), 'the red mug, please').text == OVERFIT_ANSWER


def test_an_image_that_cannot_be_encoded_leaves_nothing_wrong_behind(overfit, monkeypatch):
    overfit.reason(picture(), 'the red mug')
    with monkeypatch.context() as patch:
        patch.setattr(overfit, 'encode', lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            overfit.reason(255 - picture(), 'the red mug')
    assert overfit.reason(picture(), 'the red mug').text == OVERFIT_ANSWER


# --- drafts -----------------------------------------------------------------------------------


def test_guessing_changes_no_reply_and_takes_fewer_steps(monkeypatch):
    plain = TransformersReasoner('tiny', device='cpu', num_draft_tokens=0)
    engine = TransformersReasoner('tiny', device='cpu')
    counts = [Counted(each, monkeypatch) for each in (plain, engine)]
    for seed in range(1_000_000, 1_000_005):
        scene = make_scene(seed)
        for query in scene.queries()[:3]:
            assert (
                engine.reason(scene.image, query.text).text
                == plain.reason(scene.image, query.text).text
            )
    assert counts[1].steps < 0.6 * counts[0].steps


@pytest.mark.parametrize('penalty', [1.0, 1.3])
@pytest.mark.parametrize(('right', 'rounds'), [(0, 12), (1, 6), (3, 4)])
def test_what_is_guessed_is_checked(penalty, right, rounds, tmp_path, monkeypatch):
    build_tiny_reasoner(tmp_path, seed=3)
    engine = loaded(tmp_path, penalty, max_new_tokens=12, image_side=112, num_draft_tokens=4)
    wanted = written_by_generate(engine, picture(), 'the red mug')
    prompt, written = generated(engine, picture(), 'the red mug')
    tokens = prompt + written

    def guess(count):
        """So many right tokens, then wrong ones, more than asked for if they could be."""
        # The last token of the reply is never computed yet.
        done = max(len(prompt), len(engine.engine.cache.state.tokens) + 1)
        wrong = [(token + 1) % 500 for token in tokens[done + right :]]
        return [*tokens[done : done + right], *wrong][: min(count, 4)]

    counted = Counted(engine, monkeypatch)
    monkeypatch.setattr(engine.engine.drafts, 'propose', guess)
    assert engine.reason(picture(), 'the red mug').text == wanted
    assert len(engine.engine.cache.state.tokens) == len(prompt) + 11
    # Reading the prompt and each step add a token, and what was guessed right.
    assert 1 + counted.steps == rounds
    # What is remembered is what was written, not what was guessed.
    monkeypatch.undo()
    assert engine.reason(picture(), 'the red cup').text == written_by_generate(
        engine, picture(), 'the red cup'
    )


@pytest.mark.parametrize('stop', range(1, 12, 2))
def test_stopping_within_a_guess_leaves_nothing_wrong_behind(overfit, stop):
    overfit.reason(picture(), 'the red mug')  # from now on, all of it is guessed
    wanted = written_by_generate(overfit, picture(), 'the red mug')
    prompt = EncodedPrompt(
        overfit._frame(picture()),
        overfit.prompt('the red mug'),
        '',
        lambda: overfit.encode(picture(), overfit.prompt('the red mug')),
    )
    pieces = overfit.engine.generate(prompt, 200)
    begun = ''.join(next(pieces).text for _ in range(stop))
    pieces.close()
    assert wanted.startswith(begun)
    assert overfit.reason(picture(), 'the red mug').text == OVERFIT_ANSWER


# --- compiled --------------------------------------------------------------------------------


@pytest.mark.parametrize('model_type', ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
def test_a_compiled_step_gives_what_the_others_give(model_type, tmp_path):
    build_tiny_reasoner(tmp_path, model_type=model_type)
    engine = TransformersReasoner(str(tmp_path), device='cpu', image_side=224)
    found = []
    # 'aot_eager' traces the whole step into one graph, as every backend gets it, and runs that.
    for compiler in ('', 'aot_eager'):
        decoder = PrefixCache(engine.model, compiler, draft_width=4)
        decoder.prefill(b'frame', engine.encode(picture(), engine.prompt('the red mug')), 10)
        found.append([decoder.extend([token]) for token in (7, 8)])
        found[-1].append(decoder.extend([9, 10, 11], 3))
        found[-1].append(decoder.extend([9, 10, 11, 12], 2))
        decoder.extend([9, 10, 11, 12, 13])  # so many go the usual way, and back
        found[-1].append(decoder.extend([11]))
        decoder.truncate(len(decoder.state.tokens) - 3)
        found[-1].append(decoder.extend([12, 13], 2))
        assert decoder.compiled_widths == ({1, 4} if compiler else set())
    for plain, compiled in zip(*found, strict=True):
        assert plain.shape == compiled.shape
        assert torch.allclose(plain, compiled, atol=1e-5)


def test_where_nothing_can_be_compiled_it_goes_on_without(
    overfit_reasoner_dir, monkeypatch, caplog
):
    engine = load_reasoner(
        'transformers', model=str(overfit_reasoner_dir), device='cpu', torch_compile=True
    )
    monkeypatch.setattr(
        torch, 'compile', lambda *_, **__: lambda *_: (_ for _ in ()).throw(RuntimeError('no g++'))
    )
    assert engine.reason(picture(), 'the red mug').text == OVERFIT_ANSWER
    assert engine.reason(picture(), 'the red mug').text == OVERFIT_ANSWER
    assert caplog.messages == ['cannot compile the reasoner, it goes on without: no g++']


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


def test_sampling_settings_of_a_checkpoint_are_dropped_and_its_penalty_kept(tiny_reasoner_dir):
    published = GenerationConfig(do_sample=True, temperature=1e-6, repetition_penalty=1.05)
    settings = _greedy(published, 99)
    assert settings.do_sample is False
    assert settings.temperature is None
    assert settings.repetition_penalty == 1.05
    assert settings.max_new_tokens == 99
    assert published.do_sample is True


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
