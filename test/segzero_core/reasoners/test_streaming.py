# SPDX-License-Identifier: Apache-2.0
"""The end of a reply, and the text that is forwarded."""

import threading

import pytest

from segzero_core.errors import AnswerError, CancelledError
from segzero_core.prompts import get_family
from segzero_core.reasoners.streaming import StreamedReply, answer_end, opens_thought
from segzero_core.task import Task
from segzero_core.types import Size


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


@pytest.mark.parametrize('opened', [True, False, None])
@pytest.mark.parametrize(
    'text',
    [
        '<think><think>a</think><answer>{}</answer>',
        ' <think>\n<THINK>\na</think>\n<answer>{}</answer>',
        '<think>a</think><ANSWER>{}</ANSWER>',
        '<THINK>in <ANSWER> </ANSWER></THINK><Answer>{}</Answer>',
        '<think>a <think>b</think> <answer>1</answer></think><answer>{}</answer>',
    ],
)
def test_an_answer_ends_in_any_case_and_after_a_repeated_tag(text, opened):
    assert answer_end(f'{text} more', opened) == len(text)


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


EXAMPLE = (
    '<answer>{"bbox": [10, 100, 200, 210], "points_1": [30, 110], "points_2": [35, 180]}</answer>'
)
ANSWER = EXAMPLE.replace('200, 210', '400, 430').replace('10, 100', '200, 220')
EMPTY = '<answer>{}</answer>'


@pytest.mark.parametrize('opened', [True, False, None], ids=['opened', 'not opened', 'unknown'])
@pytest.mark.parametrize(
    'thought',
    [
        'The mug.',
        f'I have to end with {EXAMPLE} in that format.',
        f'The form is <think> thinking process here </think>{EXAMPLE}. The mug.',
        f'I write </think> and then {EXAMPLE}. The mug.',
        'The tags are <answer> </answer>, after </think>.',
        'So <answer>{"bbox": [x1, y1, x2, y2], "points_1": [x, y]}</answer>?',
        f'Maybe {ANSWER.replace("400", "420")}? No.',
        '{"bbox": [1, 2, 3, 4]}',
    ],
)
@pytest.mark.parametrize('answer', [ANSWER, EMPTY], ids=['answer', 'nothing'])
def test_a_reply_ends_with_its_answer_whatever_its_thought_quotes(opened, thought, answer):
    start = '<think>' if opened is False else ''
    text = f'{start}{thought}</think>\n{answer} That is all.'
    reply = StreamedReply(None, None, Task(family=get_family('json')), opened)
    assert [reply.add(letter) for letter in text].index(True) == text.index(' That is all') - 1
    found = reply.result()
    assert found == (f'<think>{thought}</think>\n{answer}', 'stop', 0)
    assert reply.written == f'{start}{thought}</think>\n{answer}'


@pytest.mark.parametrize('opened', [True, None])
def test_without_the_end_of_a_thought_that_a_template_may_have_opened_no_reply_ends(opened):
    reply = StreamedReply(None, None, Task(), opened)
    assert not reply.add(f'Maybe {ANSWER}? Let me look again.', 'length', 20)
    text = '<think>' if opened else ''
    assert reply.result() == (f'{text}Maybe {ANSWER}? Let me look again.', 'length', 20)


def test_a_model_that_does_not_think_ends_with_its_answer():
    reply = StreamedReply(None, None, Task('box', think=False), opened=False)
    assert reply.add('<answer>{"bbox": [1, 2, 30, 40]}</answer> more')
    assert reply.text == '<answer>{"bbox": [1, 2, 30, 40]}</answer>'


def test_the_example_alone_does_not_end_a_reply_but_ends_as_an_error():
    reply = StreamedReply(None, None, Task(), opened=False)
    assert not reply.add(f'<think>a</think>{EXAMPLE}', 'stop', 30)
    with pytest.raises(AnswerError) as caught:
        Task().read(reply.result(), Size(840, 840))
    assert caught.value.kind == 'prompt_example'


def test_the_tag_of_the_template_is_passed_on_once():
    pieces = []
    reply = StreamedReply(pieces.append, None, Task(), opened=True)
    reply.add('')
    assert pieces == []
    reply.add('The mug')
    reply.add('.</think>')
    assert pieces == ['<think>The mug', '.</think>']


@pytest.mark.parametrize(
    ('prompt', 'opens'),
    [
        ('<|im_start|>assistant\n<think>\n', True),
        ('<|im_start|>assistant\n<think>', True),
        ('<|im_start|>assistant\n', False),
        ('<|im_start|>assistant\n<think>\n\n</think>\n\n', False),
        ('Write <think> thoughts </think>.<|im_end|>\n<|im_start|>assistant\n', False),
    ],
)
def test_whether_a_template_opens_a_thought(prompt, opens):
    assert opens_thought(prompt) == opens
