# SPDX-License-Identifier: Apache-2.0
"""Where a reply ends, and what is passed on of it."""

import threading

import pytest

from segzero_core.errors import CancelledError
from segzero_core.reasoners.streaming import StreamedReply, answer_end


@pytest.mark.parametrize(
    ('text', 'upto'),
    [
        ('', None),
        ('<think>a</think><answer>{}', None),
        ('<think>a</think><answer>{}</answer>', 'all'),
        ('<think>a</think><answer>{}</answer>\nmore', '<think>a</think><answer>{}</answer>'),
        ('<answer>{}</answer> more', '<answer>{}</answer>'),
        ('<think>between <answer> </answer> tags', None),
        (
            '<think>in <answer> </answer></think><answer>1</answer><answer>2</answer>',
            '<think>in <answer> </answer></think><answer>1</answer>',
        ),
    ],
)
def test_answer_end(text, upto):
    if upto is None:
        assert answer_end(text) == -1
    else:
        assert text[: answer_end(text)] == (text if upto == 'all' else upto)


def test_what_comes_after_the_answer_is_never_passed_on():
    pieces = []
    reply = StreamedReply(pieces.append, cancel=None)
    assert [reply.add(piece) for piece in ('<answer>{', '}</ans', 'wer> and', ' more')] == [
        False,
        False,
        True,
        True,
    ]
    assert reply.text == ''.join(pieces) == '<answer>{}</answer>'
    assert '' not in pieces


def test_a_cancelled_reply_takes_nothing_more():
    pieces, cancel = [], threading.Event()
    reply = StreamedReply(pieces.append, cancel)
    reply.add('a')
    cancel.set()
    with pytest.raises(CancelledError):
        reply.add('b')
    assert reply.text == ''.join(pieces) == 'a'
