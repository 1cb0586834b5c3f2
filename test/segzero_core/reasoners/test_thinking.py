# SPDX-License-Identifier: Apache-2.0
"""Prefilled, limited and omitted thoughts, on a writer whose tokens are all known."""

import pytest

from segzero_core.errors import EngineOptionError, UnknownNameError
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.streaming import StreamedReply
from segzero_core.reasoners.thinking import Thinking

THOUGHTS = '<think>abcdefgh</think>'
ANSWER = '<answer>{}</answer>'


def write(thinking, max_new_tokens=100, text=THOUGHTS + ANSWER):
    """Let a writer of ``text``, one character per token, write; return the reply and its calls."""
    calls = []

    def ask(written, tokens):
        calls.append((written, tokens))
        # The continuation after a start that the writer did not write completely by itself.
        rest = text[len(written) :] if text.startswith(written) else ANSWER + ' and more'
        if written.endswith('<answer>'):
            rest = '{}</answer> and more'
        return [Reply(letter, '', 1) for letter in rest[:tokens]]

    reply = StreamedReply(None, None)
    thinking.write(reply, ask, max_new_tokens)
    return reply.text, calls


def test_free():
    assert write(Thinking()) == (THOUGHTS + ANSWER, [('', 100)])


def test_prefilled():
    assert write(Thinking('prefilled')) == (THOUGHTS + ANSWER, [('<think>', 100)])


def test_none():
    start = '<think></think><answer>'
    assert write(Thinking('none', limit=3)) == (start + '{}</answer>', [(start, 100)])


def test_thoughts_over_the_limit_are_ended_and_the_answer_begun():
    text, calls = write(Thinking('prefilled', limit=4))
    assert text == '<think>abcd</think><answer>{}</answer>'
    assert calls == [('<think>', 4), ('<think>abcd</think><answer>', 96)]


def test_a_closing_tag_that_the_model_began_is_not_written_twice():
    text, _ = write(Thinking('prefilled', limit=len('abcdefgh</thi')))
    assert text == '<think>abcdefgh</think><answer>{}</answer>'


def test_thoughts_within_the_limit_are_left_alone_and_the_answer_may_be_long():
    limit = len('abcdefgh</think><ans')
    text, calls = write(Thinking('prefilled', limit))
    assert text == THOUGHTS + ANSWER
    assert calls == [('<think>', limit), (THOUGHTS + '<ans', 100 - limit)]


def test_a_limit_beyond_the_whole_reply_changes_nothing():
    assert write(Thinking(limit=100)) == write(Thinking())


@pytest.mark.parametrize(
    ('mode', 'limit', 'error', 'message'),
    [
        ('deep', 0, UnknownNameError, "unknown thinking 'deep'.* free, none, prefilled"),
        ('free', -1, EngineOptionError, 'max_think_tokens must be at least 0, got -1'),
    ],
)
def test_what_it_cannot_be(mode, limit, error, message):
    with pytest.raises(error, match=message):
        Thinking(mode, limit)
