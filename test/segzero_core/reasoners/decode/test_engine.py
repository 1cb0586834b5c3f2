# SPDX-License-Identifier: Apache-2.0
"""Replies are those of transformers' own ``generate``, however much is reused and drafted."""

import threading
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch
from transformers import AutoModelForImageTextToText

from segzero_core.errors import CancelledError
from segzero_core.reasoners.decode import EncodedPrompt
from segzero_core.reasoners.image_input import frame_key, model_picture
from segzero_core.reasoners.transformers import TransformersReasoner
from segzero_core.runtime.checkpoints import find_checkpoint
from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner
from segzero_core.synthetic import make_scene
from segzero_core.types import Size, image_size

pytestmark = pytest.mark.usefixtures('one_thread')

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


def test_stops_right_after_the_answer_although_the_model_would_go_on(overfit):
    assert overfit.reason(picture(), 'the red mug').text == OVERFIT_ANSWER
    text = written_by_generate(overfit, picture(), 'the red mug')
    assert text == OVERFIT_ANSWER + ' That is all there is to say.'


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
        """Return ``right`` correct tokens, then wrong ones, up to the maximum of a draft."""
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
        frame_key(picture(), overfit.task.input_size(Size(128, 96))),
        overfit.prompt('the red mug'),
        '',
        lambda: overfit.encode(picture(), overfit.prompt('the red mug')),
    )
    pieces = overfit.engine.generate(prompt, 200)
    begun = ''.join(next(pieces).text for _ in range(stop))
    pieces.close()
    assert wanted.startswith(begun)
    assert overfit.reason(picture(), 'the red mug').text == OVERFIT_ANSWER
