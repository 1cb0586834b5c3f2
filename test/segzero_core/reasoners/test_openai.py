# SPDX-License-Identifier: Apache-2.0
"""The ``openai`` reasoner with a real server process that can produce every fault."""

import base64
import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.errors import (
    CancelledError,
    EngineOptionError,
    ModelLoadError,
    ServerError,
    UnknownNameError,
)

SERVER = Path(__file__).with_name('protocol_server.py')
MODEL = 'Ricky06662/Seg-Zero-7B'
ANSWER = (
    '<think>The red mug ☕ is left.</think>'
    '<answer>{"bbox": [84, 140, 420, 700], "points_1": [210, 280], "points_2": [315, 420]}'
    '</answer>'
)


@contextlib.contextmanager
def running(*models, port=0):
    """Run a server; give its address, without /v1."""
    command = [sys.executable, str(SERVER), str(port), *models]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f'http://127.0.0.1:{process.stdout.readline().strip()}', process
        finally:
            process.kill()


@pytest.fixture(scope='module')
def server():
    with running(MODEL) as (address, _):
        yield address


@pytest.fixture
def reasoner(server):
    return load_reasoner('openai', url=f'{server}/v1')


@pytest.fixture
def hurried(server):
    """A reasoner whose timeout is shorter than the server's delay."""
    return load_reasoner('openai', url=f'{server}/v1', timeout=0.4)


def seen(address):
    with urllib.request.urlopen(f'{address}/seen') as response:
        return json.load(response)


def asked(address, wish):
    return [entry for entry in seen(address)['asked'] if entry['wish'] == wish]


def picture(height=60, width=80):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image_in(entry):
    """The images of a recorded request: one."""
    parts = [part for message in entry['request']['messages'] for part in message['content']]
    (url,) = [part['image_url']['url'] for part in parts if part['type'] == 'image_url']
    kind, content = url.split(';base64,')
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


# --- what goes out and comes back -------------------------------------------------------------


def test_the_answer_comes_in_pieces_and_ends_at_its_tag(reasoner):
    pieces = []
    assert reasoner.reason(picture(), 'answer', pieces.append).text == ANSWER
    assert ''.join(pieces) == ANSWER
    assert len(pieces) > 20


def test_the_answer_becomes_a_mask(server):
    reasoner = load_reasoner('openai', url=f'{server}/v1')
    with SegZero(reasoner, load_segmenter('grabcut')) as segzero:
        found = segzero(picture(), 'Answer.')
    assert found.box == pytest.approx((8, 10, 40, 50))  # of 840 x 840
    assert found.reasoning == 'The red mug ☕ is left.'


def test_the_request_is_greedy_limited_and_has_the_image_once_before_the_question(server):
    load_reasoner('openai', url=f'{server}/v1', max_new_tokens=77).reason(picture(), 'answer 1')
    (entry,) = asked(server, 'answer 1')
    request = entry['request']
    assert (request['model'], request['max_tokens']) == (MODEL, 77)
    assert (request['temperature'], request['stream']) == (0, True)
    system, user = request['messages']
    assert system['content'] == [{'type': 'text', 'text': 'You are a helpful assistant.'}]
    assert [part['type'] for part in user['content']] == ['image_url', 'text']
    kind, sent = image_in(entry)
    assert kind == 'data:image/png'
    # What the transformers engine gives its model, bit for bit.
    wanted = Image.fromarray(picture()).resize((840, 840), Image.Resampling.BILINEAR)
    assert np.array_equal(np.array(sent), np.array(wanted))


def test_each_frame_is_sent_as_it_is_also_when_sentences_take_turns(server, reasoner):
    frames = [picture(), 255 - picture(), picture(80, 60)]
    for number in (0, 0, 1, 0, 2):
        reasoner.reason(frames[number], f'answer frame {number}')
    for number, frame in enumerate(frames):
        wanted = Image.fromarray(frame).resize((840, 840), Image.Resampling.BILINEAR)
        for entry in asked(server, f'answer frame {number}'):
            assert np.array_equal(np.array(image_in(entry)[1]), np.array(wanted))


def test_a_batch_is_answered_in_its_order(server, reasoner):
    frames = [picture(), 255 - picture(), picture(80, 60)]
    queries = [f'answer batch {number}' for number in range(3)]
    assert [reply.text for reply in reasoner.reason_batch(frames, queries)] == [ANSWER] * 3
    assert [reply.text for reply in reasoner.reason_batch([], [])] == []
    for frame, query in zip(frames, queries, strict=True):
        wanted = Image.fromarray(frame).resize((840, 840), Image.Resampling.BILINEAR)
        (entry,) = asked(server, query)
        assert np.array_equal(np.array(image_in(entry)[1]), np.array(wanted))


def test_jpeg_is_smaller_and_still_the_picture(server):
    image = np.array(Image.fromarray(picture(6, 8)).resize((80, 60), Image.Resampling.BICUBIC))
    load_reasoner('openai', url=f'{server}/v1', image_format='jpeg').reason(image, 'answer 2')
    kind, sent = image_in(asked(server, 'answer 2')[0])
    assert kind == 'data:image/jpeg'
    wanted = Image.fromarray(image).resize((840, 840), Image.Resampling.BILINEAR)
    assert np.abs(np.array(sent, int) - np.array(wanted, int)).mean() < 3


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv('ROBOT_KEY', 'secret')
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    load_reasoner('openai', url=f'{server}/v1', api_key_variable='ROBOT_KEY').reason(
        picture(), 'answer 3'
    )
    load_reasoner('openai', url=f'{server}/v1').reason(picture(), 'answer 4')
    assert asked(server, 'answer 3')[0]['key'] == 'Bearer secret'
    assert asked(server, 'answer 4')[0]['key'] is None


def test_a_key_that_cannot_be_sent_is_named_not_shown(server, monkeypatch):
    monkeypatch.setenv('ROBOT_KEY', 'sécret')
    with pytest.raises(EngineOptionError, match='API key') as caught:
        load_reasoner('openai', url=f'{server}/v1', api_key_variable='ROBOT_KEY')
    assert 'cret' not in str(caught.value)


@pytest.mark.parametrize('name', ['HTTP_PROXY', 'ALL_PROXY', 'http_proxy', 'all_proxy'])
def test_a_server_on_this_machine_is_not_asked_through_a_proxy(server, monkeypatch, name):
    monkeypatch.delenv('NO_PROXY', raising=False)
    monkeypatch.delenv('no_proxy', raising=False)
    monkeypatch.setenv(name, 'http://127.0.0.1:9')
    for host in ('127.0.0.1', 'localhost'):
        address = server.replace('127.0.0.1', host)
        reasoner = load_reasoner('openai', url=f'{address}/v1', startup_timeout=1)
        assert reasoner.reason(picture(), 'answer proxy').text == ANSWER


def test_another_machine_is_asked_through_the_proxy_unless_it_is_excepted(server, monkeypatch):
    for name in ('http_proxy', 'no_proxy', 'NO_PROXY', 'ALL_PROXY', 'all_proxy'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HTTP_PROXY', server)
    assert load_reasoner('openai', url='http://model.invalid/v1').model == MODEL
    monkeypatch.setenv('NO_PROXY', 'model.invalid')
    with pytest.raises(ModelLoadError, match=r'model server http://model\.invalid/v1: '):
        load_reasoner('openai', url='http://model.invalid/v1', startup_timeout=0.1)


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch):
    monkeypatch.setenv('HTTP_PROXY', 'nonsense://proxy:1')
    monkeypatch.delenv('NO_PROXY', raising=False)
    monkeypatch.delenv('no_proxy', raising=False)
    with pytest.raises(EngineOptionError, match='HTTP_PROXY'):
        load_reasoner('openai', url='http://model.invalid/v1')


def test_a_reply_that_ends_early_is_returned_as_it_is(reasoner):
    reply = reasoner.reason(picture(), 'cut')
    assert (reply.text, reply.finish_reason) == (ANSWER[:40], 'length')
    assert reply.tokens == 3  # as the server says


def test_closing_twice_and_asking_then(server):
    reasoner = load_reasoner('openai', url=f'{server}/v1')
    reasoner.close()
    reasoner.close()
    with pytest.raises(ServerError, match='has been closed'):
        reasoner.reason(picture(), 'answer')


def test_sentences_of_several_threads_do_not_wait_for_each_other(server, reasoner):
    cancel, started = threading.Event(), threading.Event()

    def ask_slowly():
        with pytest.raises(CancelledError):
            reasoner.reason(picture(), 'slow 1', lambda _: started.set(), cancel)

    thread = threading.Thread(target=ask_slowly)
    thread.start()
    assert started.wait(30)
    assert reasoner.reason(picture(), 'answer').text == ANSWER
    cancel.set()
    thread.join(30)
    assert not thread.is_alive()


# --- cancel -----------------------------------------------------------------------------------


def test_cancelling_stops_at_the_next_piece_and_tells_the_server(server, reasoner):
    before = seen(server)['broken_off']
    cancel, pieces = threading.Event(), []

    def on_text(piece):
        pieces.append(piece)
        if len(pieces) == 3:
            cancel.set()

    with pytest.raises(CancelledError):
        reasoner.reason(picture(), 'slow', on_text, cancel)
    assert len(pieces) == 3
    while seen(server)['broken_off'] == before:  # the test's time limit ends this
        pass


def test_cancelling_needs_no_piece_to_come(server, reasoner):
    cancel = threading.Event()

    def set_when_asked():
        while not asked(server, 'silent 2'):
            pass
        cancel.set()

    thread = threading.Thread(target=set_when_asked)
    thread.start()
    with pytest.raises(CancelledError):
        reasoner.reason(picture(), 'silent 2', cancel=cancel)
    thread.join()


def test_cancelled_before_it_began_asks_nobody(server, reasoner):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        reasoner.reason(picture(), 'answer 5', cancel=cancel)
    assert not asked(server, 'answer 5')


def test_cancelling_ends_the_wait_between_repetitions(server):
    cancel = threading.Event()
    patient = load_reasoner('openai', url=f'{server}/v1', retries=1000, timeout=200)

    def set_when_asked():
        while not asked(server, 'status 503'):
            pass
        cancel.set()

    thread = threading.Thread(target=set_when_asked)
    thread.start()
    with pytest.raises(CancelledError):
        patient.reason(picture(), 'status 503', cancel=cancel)
    thread.join()


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize('wish', ['status 503 1', 'status 429 2', 'drop 1'])
def test_what_fails_before_any_text_is_repeated(server, reasoner, wish):
    pieces = []
    assert reasoner.reason(picture(), wish, pieces.append).text == ANSWER == ''.join(pieces)
    assert len(asked(server, wish)) == int(wish[-1]) + 1


@pytest.mark.parametrize(
    ('wish', 'kind', 'times'), [('status 500', 'refused', 2), ('drop 9', 'unreachable', 2)]
)
def test_repetitions_end(server, wish, kind, times):
    reasoner = load_reasoner('openai', url=f'{server}/v1', retries=1)
    with pytest.raises(ServerError) as caught:
        reasoner.reason(picture(), wish)
    assert caught.value.kind == f'server_{kind}'
    assert len(asked(server, wish)) == times


@pytest.mark.parametrize(
    ('status', 'message'),
    [
        (400, r'HTTP 400 .*no such luck'),
        (401, r'HTTP 401: it wants an API key'),
        (404, r'HTTP 404: does the url end in /v1'),
    ],
)
def test_what_would_fail_again_is_not_repeated(server, reasoner, status, message):
    with pytest.raises(ServerError, match=message) as caught:
        reasoner.reason(picture(), f'status {status}')
    assert caught.value.kind == 'server_refused'
    assert server in str(caught.value)
    assert len(asked(server, f'status {status}')) == 1


def test_a_server_that_wants_to_be_asked_much_later_is_given_up_at_once(server, reasoner):
    with pytest.raises(ServerError, match='all busy') as caught:
        reasoner.reason(picture(), 'later 3600')
    assert caught.value.kind == 'server_refused'
    assert len(asked(server, 'later 3600')) == 1


def test_the_pause_that_a_server_asks_for_ends_with_the_time_there_is(server, hurried):
    with pytest.raises(ServerError, match='its last one was HTTP 503') as caught:
        hurried.reason(picture(), 'later 30')
    assert caught.value.kind == 'server_timeout'
    assert len(asked(server, 'later 30')) == 1


@pytest.mark.parametrize('wish', ['silent', 'stall', 'slow 2'])
def test_a_server_that_hangs_is_given_up(hurried, wish):
    with pytest.raises(ServerError, match='option timeout') as caught:
        hurried.reason(picture(), wish)
    assert caught.value.kind == 'server_timeout'


@pytest.mark.parametrize('what', ['html', 'bytes', 'json', 'keys', 'types'])
def test_rubbish_is_an_error_that_shows_it(reasoner, what):
    with pytest.raises(ServerError, match='it sent') as caught:
        reasoner.reason(picture(), f'raw {what}')
    assert caught.value.kind == 'server_broken'


def test_an_error_within_the_stream_is_passed_on(reasoner):
    with pytest.raises(ServerError, match='the engine died') as caught:
        reasoner.reason(picture(), 'raw error')
    assert caught.value.kind == 'server_refused'


def test_text_without_end_is_cut_off(server):
    reasoner = load_reasoner('openai', url=f'{server}/v1', max_new_tokens=100)
    with pytest.raises(ServerError, match='goes on writing beyond 100 tokens'):
        reasoner.reason(picture(), 'endless')


def test_an_answer_that_breaks_off_is_not_repeated_because_it_has_been_shown(server, reasoner):
    pieces = []
    with pytest.raises(ServerError) as caught:
        reasoner.reason(picture(), 'break', pieces.append)
    assert caught.value.kind == 'server_broken'
    assert pieces == ['<think>The']
    assert len(asked(server, 'break')) == 1


def test_a_server_that_dies_is_an_error_and_one_that_comes_back_is_used_again():
    with running(MODEL) as (address, process):
        reasoner = load_reasoner('openai', url=f'{address}/v1', retries=0)
        with pytest.raises(ServerError) as caught:
            reasoner.reason(picture(), 'die')
        assert caught.value.kind == 'server_broken'
        process.wait(30)
        with pytest.raises(ServerError, match='Is the server running') as caught:
            reasoner.reason(picture(), 'answer')
        assert caught.value.kind == 'server_unreachable'
    with running(MODEL, port=address.rsplit(':')[-1]):
        assert reasoner.reason(picture(), 'answer').text == ANSWER


# --- dialects; test_chat_events.py has all of them ----------------------------------------------


@pytest.mark.parametrize('name', ['id lines', 'no blank', 'reasoning', 'parts', 'document'])
def test_dialects_are_read(reasoner, name):
    pieces = []
    assert reasoner.reason(picture(), f'dialect {name}', pieces.append).text == ANSWER
    assert ''.join(pieces) == ANSWER


@pytest.mark.parametrize('name', ['reasoning_content', 'reasoning', 'thinking'])
def test_thoughts_in_a_field_of_their_own_are_streamed(reasoner, name):
    pieces = []
    reasoner.reason(picture(), f'dialect {name}', pieces.append)
    assert pieces[0] == '<think>The'
    # They came one by one.
    assert next(at for at, piece in enumerate(pieces) if '</think>' in piece) > 5


def test_a_server_that_keeps_thoughts_back_is_named_once(server, caplog):
    reasoner = load_reasoner('openai', url=f'{server}/v1')
    reasoner.reason(picture(), 'answer')
    assert not caplog.records
    for _ in range(2):
        assert reasoner.reason(picture(), 'dialect no thoughts').text.startswith('<answer>')
    (record,) = caplog.records
    assert 'keeps them back' in record.getMessage()
    caplog.clear()
    thoughtless = load_reasoner('openai', url=f'{server}/v1', think=False)
    thoughtless.reason(picture(), 'dialect no thoughts')
    assert not caplog.records


@pytest.mark.parametrize('name', ['error text', 'error without data', 'document error'])
def test_an_error_inside_status_200_is_the_servers_own_message(reasoner, name):
    with pytest.raises(ServerError, match='the engine died') as caught:
        reasoner.reason(picture(), f'dialect {name}')
    assert caught.value.kind == 'server_refused'
    assert '\n' not in str(caught.value)


# --- what it starts with ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (
            {'url': 'localhost:8000'},
            EngineOptionError,
            "must look like 'http://127.0.0.1:8000/v1'",
        ),
        ({'url': 'http://[::1'}, EngineOptionError, 'must look like'),
        ({'url': 'http://host:port/v1'}, EngineOptionError, 'must look like'),
        ({'url': 'ftp://host/v1'}, EngineOptionError, 'must look like'),
        ({'timeout': 0.0}, EngineOptionError, 'timeout must be above 0'),
        ({'max_new_tokens': 0}, EngineOptionError, 'max_new_tokens must be at least 1'),
        ({'image_format': 'gif'}, UnknownNameError, 'Available: jpeg, png'),
        ({'family': 'seg-zero'}, UnknownNameError, "mean 'seg_zero'"),
        ({'model': 'other'}, ModelLoadError, rf"no model 'other'. It has: '{MODEL}'"),
    ],
)
def test_bad_options(server, options, error, message):
    with pytest.raises(error, match=message):
        load_reasoner('openai', **{'url': f'{server}/v1', **options})


@pytest.mark.parametrize(
    ('models', 'error', 'message'),
    [
        ([], ModelLoadError, 'not exactly one model'),
        (['a', 'b'], ModelLoadError, "It has: 'a', 'b'"),
        (['rubbish'], ModelLoadError, 'its list of models cannot be read'),
        (['mystery'], EngineOptionError, "'mystery'.* give option family"),
    ],
)
def test_servers_without_a_model_to_choose(models, error, message):
    with running(*models) as (address, _), pytest.raises(error, match=message):
        load_reasoner('openai', url=f'{address}/v1')


@pytest.mark.parametrize(
    ('model', 'family'),
    [
        ('Qwen/Qwen2.5-VL-3B-Instruct', 'seg_zero'),
        ('qwen3-vl-8b', 'thousandths'),
        ('Qwen2-VL-2B', 'thousandths'),
    ],
)
def test_the_family_goes_by_the_name(model, family):
    with running(model, 'other') as (address, _):
        assert load_reasoner('openai', url=f'{address}/v1', model=model).task.family.name == family


def test_nobody_there():
    with socket.create_server(('127.0.0.1', 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ModelLoadError, match=f'model server http://127.0.0.1:{port}/v1'):
        load_reasoner('openai', url=f'http://127.0.0.1:{port}/v1', startup_timeout=0.3)


def test_a_server_that_comes_up_late_is_waited_for():
    with running(MODEL) as (address, _):
        port = address.rsplit(':')[-1]
    loaded = []
    load = threading.Thread(
        target=lambda: loaded.append(
            load_reasoner('openai', url=f'{address}/v1', startup_timeout=120)
        )
    )
    load.start()
    with running(MODEL, port=port):
        load.join(120)
        assert loaded[0].model == MODEL
