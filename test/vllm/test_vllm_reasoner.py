# SPDX-License-Identifier: Apache-2.0
"""The ``vllm`` reasoner: vLLM's own engine on the CPU with tiny models."""

import functools
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip('vllm', reason='needs vLLM: make test-vllm')

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.errors import (
    CancelledError,
    EngineOptionError,
    ImageError,
    ModelLoadError,
    QueryError,
    ServerError,
    UnknownNameError,
)
from segzero_core.prompts import MAX_QUERY_CHARACTERS, check_query
from segzero_core.reasoners.answer_regex import answer_pattern
from segzero_core.reasoners.streaming import StreamedReply
from segzero_core.reasoners.thinking import Thinking
from segzero_core.task import Task

# The engine takes a minute to start on two cores, and more on a busy machine.
pytestmark = pytest.mark.timeout(600)
ANSWER = (
    '<think>The red mug ☕ stands left of the box.</think>'
    '<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}</answer>'
)


def picture(seed=0, size=(96, 128)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def engine(overfit_reasoner_dir):
    engine = load_reasoner('vllm', model=str(overfit_reasoner_dir), eager=True)
    yield engine
    engine.close()


def unfinished(engine):
    return engine.engine.unfinished


def prompt_tokens(engine, image, query):
    """Return the number of tokens of a prompt, and the number that came from the cache."""

    async def ask():
        request = engine.inputs(image, query, '')
        async for output in engine.engine.llm.generate(
            request, engine.sampling(StreamedReply(None, None), 1), query
        ):
            found = len(output.prompt_token_ids), output.num_cached_tokens
        return found

    return engine.engine.submit(ask()).result()


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

    def shown(image):
        return engine.inputs(image, 'the mug', '')['multi_modal_data']['image']

    with ThreadPoolExecutor(6) as threads:
        pictures = list(threads.map(shown, [frame.copy() for _ in range(6)]))
    assert all(each is pictures[0] for each in pictures)
    assert shown(changed) is not pictures[0]
    assert np.array_equal(shown(frame), pictures[0])


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


def test_a_sentence_beyond_the_context_names_the_limit_and_ends_the_others_of_its_batch(engine):
    too_long = 'the red mug ' * 2048
    limit = r'takes \d{5} tokens together .* has 5648: shorten'
    for batch in ([too_long, 'the red mug'], ['the red mug', too_long]):
        with pytest.raises(QueryError, match=limit):
            engine.reason_batch([picture()] * 2, batch)
    with pytest.raises(QueryError, match=limit):
        engine.reason(picture(), too_long)
    while unfinished(engine):  # the test's time limit ends this
        pass
    assert engine.reason_batch([], []) == []
    assert [reply.text for reply in engine.reason_batch([picture()], ['the red mug'])] == [ANSWER]


@pytest.mark.parametrize('character', ['a', '\u00e9', '\u6f22', '\U0001f9ff', '\U0001f468\u200d'])
def test_the_longest_sentences_fit_in_any_script(engine, character):
    query = check_query((character * MAX_QUERY_CHARACTERS)[:MAX_QUERY_CHARACTERS])
    assert engine.reason(picture(), query).tokens > 0


def test_thinking_can_be_left_out_and_cut_short(engine):
    try:
        engine.thinking = Thinking('none')
        text = engine.reason(picture(), 'the red mug').text
        assert text.startswith('<think></think><answer>')
        engine.thinking = Thinking('prefilled', limit=4)
        text = engine.reason(picture(), 'the red mug').text
        thoughts = re.fullmatch(r'<think>(.*?)</think><answer>.*', text, re.DOTALL)
        assert thoughts is not None
        assert ANSWER.startswith(f'<think>{thoughts[1]}')
        assert 0 < len(thoughts[1]) < len('The red mug ☕ stands left of the box.')
        assert [
            reply.text for reply in engine.reason_batch([picture()] * 3, ['the red mug'] * 3)
        ] == [text] * 3
    finally:
        engine.thinking = Thinking()


def test_a_thought_that_the_template_opens_belongs_to_the_reply(engine):
    template = engine.processor.chat_template
    try:
        # Its prompt then ends with the first token of the reply that the model knows.
        engine.processor.chat_template = template.replace('assistant\n', 'assistant\n<think>')
        assert engine.prompt('the red mug').endswith('<think>')
        pieces = []
        assert engine.reason(picture(), 'the red mug', pieces.append).text == ANSWER
        assert ''.join(pieces) == ANSWER
        (reply,) = engine.reason_batch([picture()], ['the red mug'])
        assert reply.text == ANSWER
    finally:
        engine.processor.chat_template = template


def test_guided_it_can_write_nothing_but_the_format(engine):
    try:
        engine.thinking, engine.structured_output = Thinking('none'), True
        text = engine.reason(picture(), 'the red mug').text
        assert re.fullmatch('<think></think><answer>' + answer_pattern(Task()), text)
        engine.thinking = Thinking()
        assert engine.reason(picture(), 'the red mug').text == ANSWER
    finally:
        engine.thinking, engine.structured_output = Thinking(), False


def test_the_checkpoints_penalty_applies_and_drafts_change_no_reply(
    penalised_reasoner_dir, monkeypatch
):
    other = load_reasoner('transformers', model=str(penalised_reasoner_dir), device='cpu')
    sentences = ['the red mug', 'a blue box on the left', 'the third cone from the right']
    images = [picture(seed) for seed in range(3)]
    expected = [reply.text for reply in other.reason_batch(images, sentences)]
    assert ANSWER not in expected
    assert len(set(expected)) > 1

    from segzero_core.reasoners import vllm_engine

    counting = functools.partial(
        vllm_engine.AsyncEngineArgs, per_request_spec_decode_metrics='summary'
    )
    monkeypatch.setattr(vllm_engine, 'AsyncEngineArgs', counting)
    engine = load_reasoner(
        'vllm', model=str(penalised_reasoner_dir), eager=True, num_draft_tokens=4
    )
    try:
        pairs = zip(images, sentences, strict=True)
        assert [engine.reason(*pair).text for pair in pairs] == expected
        assert [reply.text for reply in engine.reason_batch(images, sentences)] == expected
        # A sentence that holds the answer's text lets it be guessed.
        written, guessed = tokens_of_a_reply(engine, images[0], expected[0])
        assert 0 < guessed < written
    finally:
        engine.close()


def tokens_of_a_reply(engine, image, query):
    """Return the number of tokens of a reply, and the number of accepted draft tokens."""

    async def ask():
        request = engine.inputs(image, query, '')
        written = 0
        async for output in engine.engine.llm.generate(
            request, engine.sampling(StreamedReply(None, None), 60), query
        ):
            written += len(output.outputs[0].token_ids)
        # How many guesses in a row were right in a step: how often that was so.
        counts = output.outputs[0].spec_decode_metrics.histogram
        return written, sum(right * steps for right, steps in enumerate(counts))

    return engine.engine.submit(ask()).result()


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


def test_images_of_their_own_size_prefix_caching_and_closing(tiny_reasoner_dir):
    before = children()
    engine = load_reasoner(
        'vllm', model=str(tiny_reasoner_dir), family='grounding', eager=True, max_new_tokens=3
    )
    assert children() - before
    image = picture(0, (840, 840))
    total, cached = prompt_tokens(engine, image, 'the first sentence about this frame')
    assert cached == 0
    assert total > 900  # of the image alone
    total, cached = prompt_tokens(engine, image, 'and another one')
    # Whole blocks only: up to 128 tokens of the image are computed again.
    assert 900 - 128 <= cached < total
    assert prompt_tokens(engine, picture(8, (840, 840)), 'and another one')[1] < 128

    # More pixels than any family with a fixed size has, and odd shapes.
    for size in ((1500, 1700), (2000, 2100), (30, 4000), (1, 1), (2464, 2464)):
        assert engine.reason(picture(0, size), 'the mug').tokens == 3
    with pytest.raises(ImageError, match='reads at most 7921 of its context of 8192'):
        engine.reason(picture(0, (3000, 3000)), 'the mug')

    engine.close()
    engine.close()
    while any(is_running(pid) for pid in children() - before):  # the test's time limit ends this
        pass
    with pytest.raises(ServerError, match='it has been closed'):
        engine.reason(image, 'the mug')
    with pytest.raises(ServerError, match='it has been closed'):
        engine.reason_batch([image], ['the mug'])


def test_a_checkpoint_without_a_chat_template_is_refused_when_it_is_loaded(
    tiny_reasoner_dir, tmp_path
):
    folder = tmp_path / 'fine_tuned'
    shutil.copytree(tiny_reasoner_dir, folder)
    for file in ('chat_template.jinja', 'chat_template.json'):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(ModelLoadError, match=r'fine_tuned.*chat_template\.jinja'):
        load_reasoner('vllm', model=str(folder))


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
