# SPDX-License-Identifier: Apache-2.0
"""The ``vllm`` reasoner: vLLM's own engine on the CPU with tiny models."""

import functools
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip('vllm', reason='needs vLLM: make test-vllm')

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.errors import (
    CancelledError,
    EngineOptionError,
    ModelLoadError,
    ServerError,
    UnknownNameError,
)
from segzero_core.reasoners.answer_regex import ANSWER_PATTERN
from segzero_core.reasoners.thinking import Thinking

# The engine takes a minute to start on two cores, and more beside other work.
pytestmark = pytest.mark.timeout(600)
ANSWER = (
    '<think>The red mug ☕ stands left of the box.</think>'
    '<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}</answer>'
)


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def engine(overfit_reasoner_dir):
    engine = load_reasoner('vllm', model=str(overfit_reasoner_dir), eager=True)
    yield engine
    engine.close()


def unfinished(engine):
    return engine._engine.output_processor.get_num_unfinished_requests()


def prompt_tokens(engine, image, query):
    """How many tokens a prompt has, and how many of them were not computed again."""

    async def ask():
        request = engine._inputs(image, query, '')
        async for output in engine._engine.generate(request, engine._sampling('', 1), query):
            found = len(output.prompt_token_ids), output.num_cached_tokens
        return found

    return engine._begin(ask()).result()


def test_it_writes_what_the_transformers_engine_writes(engine, overfit_reasoner_dir):
    other = load_reasoner('transformers', model=str(overfit_reasoner_dir), device='cpu')
    pieces = []
    assert engine.reason(picture(), 'the red mug', pieces.append).text == ANSWER
    assert ''.join(pieces) == ANSWER
    assert len(pieces) > 20
    assert other.reason(picture(), 'the red mug').text == ANSWER


def test_the_answer_becomes_a_mask(engine):
    segmenter = load_segmenter('grabcut')
    segzero = SegZero(engine, segmenter)  # not closed: the engine is shared
    found = segzero(np.zeros((224, 448, 3), np.uint8), 'The red mug.')
    assert found.box == pytest.approx((112, 60, 336, 180), abs=3)  # of 112 x 112
    assert found.mask.shape == (224, 448)


def test_sentences_of_several_threads_are_written_together(engine):
    images = [picture(seed) for seed in range(6)]
    sentences = [f'the red mug {number}' for number in range(6)]
    running = []

    def ask(image, sentence):
        return engine.reason(image, sentence, lambda _: running.append(unfinished(engine))).text

    with ThreadPoolExecutor(6) as threads:
        texts = list(threads.map(ask, images, sentences))
    assert (
        texts == [reply.text for reply in engine.reason_batch(images, sentences)] == [ANSWER] * 6
    )
    assert max(running) > 1


def test_a_frame_is_prepared_once_for_sentences_that_come_together(engine):
    frame, changed = picture(), picture()
    changed[-1, -1] ^= 1
    with ThreadPoolExecutor(6) as threads:
        shown = list(threads.map(engine._picture, [frame.copy() for _ in range(6)]))
    assert all(each is shown[0] for each in shown)
    assert engine._picture(changed) is not shown[0]
    assert np.array_equal(engine._picture(frame), shown[0])


def test_cancelling_stops_at_the_next_piece_and_in_the_engine(engine):
    cancel, pieces = threading.Event(), []

    def on_text(piece):
        pieces.append(piece)
        if len(pieces) == 3:
            cancel.set()

    with pytest.raises(CancelledError):
        engine.reason(picture(), 'the red mug', on_text, cancel)
    assert len(pieces) == 3
    while unfinished(engine):  # the test's time limit ends this
        pass
    assert engine.reason(picture(), 'the red mug').text == ANSWER


def test_what_cannot_be_answered_is_an_error_and_ends_the_others_of_its_batch(engine):
    too_long = 'the red mug ' * 2048
    for batch in ([too_long, 'the red mug'], ['the red mug', too_long]):
        with pytest.raises(ServerError, match=r'the vLLM engine failed: .*See its log'):
            engine.reason_batch([picture()] * 2, batch)
    with pytest.raises(ServerError, match=r'the vLLM engine failed: .*See its log'):
        engine.reason(picture(), too_long)
    while unfinished(engine):  # the test's time limit ends this
        pass
    assert [reply.text for reply in engine.reason_batch([], [])] == []
    assert [reply.text for reply in engine.reason_batch([picture()], ['the red mug'])] == [ANSWER]


def test_thinking_can_be_left_out_and_cut_short(engine):
    try:
        engine._thinking = Thinking('none')
        text = engine.reason(picture(), 'the red mug').text
        assert text.startswith('<think></think><answer>')
        engine._thinking = Thinking('prefilled', limit=4)
        text = engine.reason(picture(), 'the red mug').text
        thoughts = re.fullmatch(r'<think>(.*?)</think><answer>.*', text, re.DOTALL)
        assert thoughts is not None
        assert ANSWER.startswith(f'<think>{thoughts[1]}')
        assert 0 < len(thoughts[1]) < len('The red mug ☕ stands left of the box.')
        assert [
            reply.text for reply in engine.reason_batch([picture()] * 3, ['the red mug'] * 3)
        ] == [text] * 3
    finally:
        engine._thinking = Thinking()


def test_guided_it_can_write_nothing_but_the_format(engine):
    try:
        engine._thinking, engine._structured_output = Thinking('none'), True
        text = engine.reason(picture(), 'the red mug').text
        assert re.fullmatch('<think></think><answer>' + ANSWER_PATTERN, text)
        engine._thinking = Thinking()
        assert engine.reason(picture(), 'the red mug').text == ANSWER
    finally:
        engine._thinking, engine._structured_output = Thinking(), False


def test_drafts_change_no_reply_but_how_many_steps_it_takes(overfit_reasoner_dir, monkeypatch):
    from segzero_core.reasoners import vllm

    counting = functools.partial(vllm.AsyncEngineArgs, per_request_spec_decode_metrics='summary')
    monkeypatch.setattr(vllm, 'AsyncEngineArgs', counting)
    engine = load_reasoner('vllm', model=str(overfit_reasoner_dir), eager=True, num_draft_tokens=8)
    try:
        assert engine.reason(picture(), 'the red mug').text == ANSWER
        written, guessed = tokens_of_a_reply(engine, picture(1), 'another sentence')
        # The first reply is what the second one was guessed from.
        assert guessed > written / 2
        images = [picture(seed) for seed in range(6)]
        assert [reply.text for reply in engine.reason_batch(images, ['the red mug'] * 6)] == [
            ANSWER
        ] * 6
        engine._thinking = Thinking('prefilled', limit=4)
        thoughts = re.match(
            '<think>(.*?)</think><answer>', engine.reason(images[0], 'the red mug').text
        )
        assert thoughts is not None
        assert 0 < len(thoughts[1]) < len('The red mug ☕ stands left of the box.')
        engine._thinking, engine._structured_output = Thinking('none'), True
        text = engine.reason(images[0], 'the red mug').text
        assert re.fullmatch('<think></think><answer>' + ANSWER_PATTERN, text)
    finally:
        engine.close()


def tokens_of_a_reply(engine, image, query):
    """How many tokens a reply has, and how many of them were guessed."""

    async def ask():
        request = engine._inputs(image, query, '')
        written = 0
        async for output in engine._engine.generate(request, engine._sampling('', 60), query):
            written += len(output.outputs[0].token_ids)
        # How many guesses in a row were right in a step: how often that was so.
        counts = output.outputs[0].spec_decode_metrics.histogram
        return written, sum(right * steps for right, steps in enumerate(counts))

    return engine._begin(ask()).result()


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'family': 'seg-zero'}, UnknownNameError, "mean 'seg_zero'"),
        ({'max_new_tokens': 0}, EngineOptionError, 'max_new_tokens must be at least 1'),
        ({'device': 'cuda:1'}, EngineOptionError, "not on 'cuda:1'; .*CUDA_VISIBLE_DEVICES"),
        (
            {'gpu_memory_utilization': 1.5},
            EngineOptionError,
            'gpu_memory_utilization must be in',
        ),
        ({'thinking': 'hard'}, UnknownNameError, 'Available: free, none, prefilled'),
        ({'num_draft_tokens': -1}, EngineOptionError, 'num_draft_tokens must be at least 0'),
        ({'max_think_tokens': -1}, EngineOptionError, 'max_think_tokens must be at least 0'),
        ({'model': '/no/such/model'}, ModelLoadError, "no such model folder: '/no/such/model'"),
    ],
)
def test_bad_options(overfit_reasoner_dir, options, error, message):
    with pytest.raises(error, match=message):
        load_reasoner('vllm', **{'model': str(overfit_reasoner_dir), **options})


def test_a_frames_tokens_are_computed_once_and_closing_ends_the_engines_process(tiny_reasoner_dir):
    before = children()
    engine = load_reasoner('vllm', model=str(tiny_reasoner_dir), eager=True, max_new_tokens=3)
    assert children() - before
    image = picture()
    total, cached = prompt_tokens(engine, image, 'the first sentence about this frame')
    assert cached == 0
    assert total > 900  # of the image alone
    total, cached = prompt_tokens(engine, image, 'and another one')
    # Whole blocks only: up to 128 tokens of the image are computed again.
    assert 900 - 128 <= cached < total
    assert prompt_tokens(engine, picture(8), 'and another one')[1] < 128
    engine.close()
    while any(is_running(pid) for pid in children() - before):  # the test's time limit ends this
        pass


def children():
    found = set()
    for task in os.listdir('/proc/self/task'):
        with open(f'/proc/self/task/{task}/children', encoding='ascii') as file:
            found |= set(file.read().split())
    return found


def is_running(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as file:
            return file.read().rsplit(')')[-1].split()[0] != 'Z'
    except FileNotFoundError:
        return False
