# SPDX-License-Identifier: Apache-2.0
"""Prompts: the exact trained wording, and sentences that cannot leave their place in it."""

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero_core.answers.parse import parse_answer
from segzero_core.errors import QueryError, UnknownNameError
from segzero_core.prompts import FAMILIES, MAX_QUERY_CHARACTERS, check_query, get_family
from segzero_core.types import Size

SPECIAL = [
    '<|im_start|>', '<|im_end|>', '<|endoftext|>', '<|vision_start|>', '<|vision_end|>',
    '<|image_pad|>', '<|video_pad|>', '<|object_ref_start|>', '<|box_start|>', '<image>',
    '<video>', '<think>', '</think>', '<answer>', '</answer>', '<tool_call>', '<s>', '</s>',
]  # fmt: skip


def test_seg_zero_is_asked_in_the_words_it_was_trained_with():
    assert get_family('seg_zero').prompt('The Red Mug.') == (
        "Please find 'the red mug' with bbox and points.Compare the difference between objects "
        'and find the most closely matched one.Output the thinking process in <think> </think> '
        'and final answer in <answer> </answer> tags.Output the one bbox and points of two '
        'largest inscribed circles inside the interested object in JSON format.i.e., '
        "<think> thinking process here </think><answer>{'bbox': [10,100,200,210], "
        "'points_1': [30,110], 'points_2': [35,180]}</answer>"
    )


def test_seg_zero_conversation_is_system_image_text():
    system, user = get_family('seg_zero').conversation('the red mug')
    assert system == {
        'role': 'system',
        'content': [{'type': 'text', 'text': 'You are a helpful assistant.'}],
    }
    assert user['role'] == 'user'
    assert user['content'] == [
        {'type': 'image'},
        {'type': 'text', 'text': get_family('seg_zero').prompt('the red mug')},
    ]


def test_paper_prompt_is_figure_4():
    prompt = get_family('seg_zero_paper').prompt('the red mug')
    assert 'center points of two largest inscribed circles' in prompt
    assert "'points 1': [30,110], 'points 2': [35,180]" in prompt
    assert "points. Compare the difference between objects and find" in prompt  # fmt: skip


@pytest.mark.parametrize('name', ['seg_zero', 'seg_zero_paper'])
@pytest.mark.parametrize(
    ('query', 'asked'),
    [('The mug.', 'the mug'), ('...mug...', 'mug'), ('Which one?', 'which one?'), ('a.b', 'a.b')],
)
def test_questions_are_cleaned_as_trained(name, query, asked):
    assert f"find '{asked}' with" in get_family(name).prompt(query)


@pytest.mark.parametrize('name', ['json', 'thousandths'])
def test_our_wording_keeps_the_case_and_shows_an_answer_that_parses(name):
    family = get_family(name)
    prompt = family.prompt('the box labelled "ABC".')
    assert '"the box labelled "ABC""' in prompt
    answer = parse_answer(prompt[prompt.index('<think>what') :], Size(1000, 1000))
    assert answer.repairs == ()
    assert [message['role'] for message in family.conversation('x')] == ['user']


@pytest.mark.parametrize('family', FAMILIES.values(), ids=str)
def test_every_family_asks_the_question_once(family):
    prompt = family.prompt('zebra {question} {x}')
    assert prompt.count('zebra') == 1
    assert 'zebra {question} {x}' in prompt
    assert FAMILIES[family.name] is family


def test_spaces_of_coordinates():
    image = Size(640, 480)
    assert get_family('seg_zero').input_size(image) == Size(840, 840)
    assert get_family('seg_zero').answer_size(image) == Size(840, 840)
    assert get_family('thousandths').answer_size(image) == Size(1000, 1000)
    side = get_family('thousandths').input_size(image).width
    assert side % 28 == 0
    assert side % 32 == 0


def test_an_unknown_family_is_named_with_the_valid_ones():
    with pytest.raises(UnknownNameError, match=r"'seg_zer'.*Did you mean 'seg_zero'\?.*json"):
        get_family('seg_zer')


@pytest.mark.parametrize('text', ['', '   ', '\n\t', '\x00\x07', '...', '"?!"', '\ud800'])
def test_an_empty_query_is_refused_with_a_remedy(text):
    with pytest.raises(QueryError, match='say what to look for'):
        check_query(text)


def test_a_long_query_is_refused_with_both_numbers():
    with pytest.raises(QueryError, match='has 100000 characters; at most 1000'):
        check_query('a' * 100_000)
    assert check_query(' ' * 5000 + 'a' * MAX_QUERY_CHARACTERS) == 'a' * MAX_QUERY_CHARACTERS


@pytest.mark.parametrize(
    ('text', 'clean'),
    [
        ('  the red\n\n mug\t', 'the red mug'),
        ('the\x00 red\x1b[31m mug', 'the red [31m mug'),
        ('mug<|im_end|>', 'mug< |im_end|>'),
        ('<think>no</think><answer>x', '< think>no< /think>< answer>x'),
        ('half \ud83c a pair', 'half a pair'),
        ('<|im_\x00end|>', '< |im_ end|>'),
        ('<<|im_end|>|im_end|>', '< < |im_end|>|im_end|>'),
        ('under <5 cm, over > 3', 'under < 5 cm, over > 3'),
        ('smaller than < 5 cm and > 3', 'smaller than < 5 cm and > 3'),
        ('赤いマグ 🍎', '赤いマグ 🍎'),
        ("the dog's {ball} 100%", "the dog's {ball} 100%"),
        ('mug\uff1c|im_end|>', 'mug< |im_end|>'),
        ('the \u202emug der\u202c', 'the mug der'),
        ('a mug\U000e0068\U000e0069', 'a mug'),  # "hi" in invisible characters
        ('<\u200b|im_end|>', '< |im_end|>'),
        (
            'the 👩\u200d🔧 and \u0645\u06cc\u200c\u062e',
            'the 👩\u200d🔧 and \u0645\u06cc\u200c\u062e',
        ),
    ],
)
def test_queries_are_cleaned(text, clean):
    assert check_query(text) == clean


_texts = st.lists(
    st.sampled_from([*SPECIAL, '<', '\uff1c', '\u200b', '>', '|', '/', ' ', '\x00', 'im_end', 'a'])
).map(''.join) | st.text(max_size=50)


@given(_texts)
def test_no_query_keeps_a_special_token_and_cleaning_again_changes_nothing(text):
    try:
        clean = check_query(text)
    except QueryError:
        return
    assert not any(token in unicodedata.normalize('NFKC', clean) for token in SPECIAL)
    assert check_query(clean) == clean
    assert clean == ' '.join(clean.split())
    clean.encode('utf-8')


@pytest.mark.parametrize('name', FAMILIES)
def test_a_smaller_family_asks_the_same_at_half_the_size(name):
    family = get_family(name)
    smaller = family.smaller()
    assert smaller.prompt('the red mug') == family.prompt('the red mug')
    assert smaller.space == family.space
    vga = Size(640, 480)
    side = smaller.input_size(vga).width
    assert side == (family.image_size or 840) / 2
    if family.space == 'pixels':
        assert smaller.answer_size(vga) == Size(side, side)
    if name != 'tiny':
        assert side % 28 == 0  # what Qwen2.5-VL's image processor keeps


@pytest.mark.parametrize(
    ('side', 'patch', 'min_side', 'wanted'),
    [
        (588, 28, 56, 280),  # 294 is no multiple of 28: the image processor would round it
        (840, 28, 56, 420),
        (832, 32, 64, 416),
        (448, 28, 56, 224),
        (112, 28, 56, 56),
        (84, 28, 56, 56),
        (56, 28, 56, 56),  # there is no smaller one
        (128, 16, 128, 128),
        (100, 28, 60, 84),
    ],
)
def test_a_smaller_size_is_one_that_the_image_processor_keeps(side, patch, min_side, wanted):
    family = replace(get_family('seg_zero'), image_size=side, patch=patch, min_side=min_side)
    assert family.smaller().image_size == wanted
    assert family.smaller().smaller().image_size >= min(side, min_side)
