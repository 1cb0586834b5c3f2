# SPDX-License-Identifier: Apache-2.0
"""Streams of model servers, read without a server."""

from __future__ import annotations

import asyncio
import json
import random
import runpy
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip('openai', reason='needs the openai SDK: see requirements/openai.txt')

from segzero_core.errors import ServerError
from segzero_core.reasoners.chat_events import EventReader, error_message, read_lines
from segzero_core.reasoners.openai import tagged

STREAMS = runpy.run_path(str(Path(__file__).with_name('dialects.py')))
DIALECTS, ANSWER = STREAMS['DIALECTS'], STREAMS['ANSWER']
ERRORS = [name for name in DIALECTS if 'error' in name and name != 'null error']


def read(content: bytes, cut: int = 1 << 20, seed: int = 0) -> tuple[str, EventReader]:
    """Return the text in a response that arrives in chunks of at most ``cut`` bytes."""
    randomly, reader = random.Random(seed), EventReader()

    async def chunks() -> AsyncIterator[bytes]:
        at = 0
        while at < len(content):
            length = randomly.randint(1, cut)
            yield content[at : at + length]
            at += length

    async def all_lines() -> list[bytes]:
        return [line async for line in read_lines(chunks())]

    deltas = [delta for line in asyncio.run(all_lines()) if (delta := reader.read(line))]
    reader.end()
    return ''.join(piece.text for piece in tagged(deltas)), reader


def stream(name: str) -> bytes:
    return ''.join(DIALECTS[name]).encode()


@pytest.mark.parametrize('cut', [1 << 20, 40, 3, 1])
@pytest.mark.parametrize(
    'name', [name for name in DIALECTS if name not in [*ERRORS, 'no thoughts']]
)
def test_every_dialect_brings_the_answer_however_it_is_cut(name: str, cut: int) -> None:
    text, reader = read(stream(name), cut)
    assert text == ANSWER
    assert reader.finished


@pytest.mark.parametrize('cut', [1 << 20, 3])
@pytest.mark.parametrize('name', ERRORS)
def test_every_error_is_reported_in_the_words_of_the_server(name: str, cut: int) -> None:
    with pytest.raises(ServerError, match='the engine died') as caught:
        read(stream(name), cut)
    assert caught.value.kind == 'server_refused'
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'content',
    [
        b'<html>It works!</html>\n',
        bytes(range(128, 250)),
        b'data: {"choices": [{"delta": \n\n',
        b'data: 7\n\n',
        b'data: []\n\n',
        b'data: {"object": "chat.completion.chunk"}\n\n',
        b'data: {"choices": 7}\n\n',
        b'data: {"choices": [null]}\n\n',
        b'data: {"choices": [{"delta": 7}]}\n\n',
        b'data: {"choices": [{"delta": {"content": 7}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": [7]}}]}\n\n',
        b'data: ' + 100_000 * b'[' + b'\n\n',
        b'data: "' + (2 << 20) * b'x',
    ],
)
def test_rubbish_is_quoted_in_one_short_line(content: bytes) -> None:
    with pytest.raises(ServerError, match='it sent') as caught:
        read(content)
    assert caught.value.kind == 'server_broken'
    assert len(str(caught.value)) < 900
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('separator', ['\u2028', '\u2029', '\x85', '\x0b', '\x1c'])
def test_only_line_ends_end_lines(separator: str) -> None:
    said = f'a{separator}b'
    event = json.dumps({'choices': [{'delta': {'content': said}}]}, ensure_ascii=False)
    assert read(f'data: {event}\n\n'.encode(), 2)[0] == said


def test_a_stream_without_an_end_is_not_finished() -> None:
    for content in (b'', b': keep-alive\n\n', stream('no blank').partition(b'data:[DONE]')[0]):
        assert not read(content)[1].finished


def test_a_beginning_that_is_there_already_is_not_opened_again() -> None:
    reader = EventReader()
    lines = ''.join(DIALECTS['reasoning']).splitlines()
    deltas = [delta for line in lines if (delta := reader.read(line.encode()))]
    thoughts = ANSWER.removeprefix('<think>')
    assert ''.join(piece.text for piece in tagged(deltas, '<think>')) == thoughts
    *_, last = tagged(deltas)
    assert (last.text, last.finish_reason) == ('', 'stop')


@pytest.mark.parametrize(
    ('body', 'message'),
    [
        ({'error': {'message': 'too long\n\n  by far.'}}, 'too long by far'),
        ({'error': 'no'}, 'no'),
        ({'error': {'code': 7}}, '{"code": 7}'),
        ({'detail': [{'loc': ['body'], 'msg': 'Field required'}]}, 'Field required'),
        ({'message': None, 'detail': 'Not Found'}, 'Not Found'),
        ('Bad Gateway', 'Bad Gateway'),
        (None, ''),
        ([], ''),
        ({'error': {'message': 'x' * 999}}, 'x' * 200 + '...'),
    ],
)
def test_messages_of_servers(body: object, message: str) -> None:
    assert error_message(body) == message
