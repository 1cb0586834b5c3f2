# SPDX-License-Identifier: Apache-2.0
"""Messages on ~/query: plain sentences and JSON objects."""

import json

import pytest
from builtin_interfaces.msg import Time

from segzero_ros.query_request import QueryRequest, read_request


@pytest.mark.parametrize('text', ['the red mug', ' a  mug ', '"the mug"', '[1] is a mug', 'null'])
def test_a_plain_sentence_is_kept_as_it_is(text):
    assert read_request(text) == QueryRequest(text)


@pytest.mark.parametrize('given', ['7', '', 'ü☕', 'x' * 200])
def test_an_id_comes_with_its_sentence(given):
    request = read_request(json.dumps({'query': 'the mug', 'id': given}))
    assert request == QueryRequest('the mug', given)


def test_a_sentence_can_name_the_stamp_of_its_frame():
    text = '  {"stamp": {"sec": 12, "nanosec": 999999999}, "query": "the mug"}'
    assert read_request(text) == QueryRequest('the mug', stamp=Time(sec=12, nanosec=999999999))


def test_a_sentence_can_be_cancelled_by_its_id():
    assert read_request('{"cancel": "7"}') == QueryRequest(cancel='7')


@pytest.mark.parametrize(
    ('content', 'named'),
    [
        ({'query': 'the mug', 'max': 3}, "'max'; known are query, id, stamp, cancel"),
        ({'text': 'the mug'}, "'text'"),
        ({'query': 'the mug', 'Id': '1', 'a': 1}, "'Id', 'a'"),
        ({'query': 'the mug', 'x' * 500: 1}, "'xxx"),
    ],
)
def test_unknown_keys_are_rejected_by_name(content, named):
    request = read_request(json.dumps(content))
    assert request.rejected
    assert request.problem.kind == 'bad_query'
    assert named in str(request.problem)
    assert len(str(request.problem)) < 300
    assert request.query == content.get('query', '')


@pytest.mark.parametrize(
    ('text', 'named'),
    [
        ('{"query": "the mug", "id": 7}', 'id must be a string of at most 200 characters, not 7'),
        ('{"query": "the mug", "id": null}', 'id must be a string'),
        ('{"query": "the mug", "id": ["7"]}', 'id must be a string'),
        ('{"query": "the mug", "id": "' + 'x' * 201 + '"}', 'id must be a string'),
        ('{"cancel": 7}', 'cancel must be a string'),
        ('{"cancel": "7", "query": "the mug"}', 'cancel stands alone'),
        ('{"query": 7}', 'query must be a string, not 7'),
        ('{"query": {"query": "the mug"}}', 'query must be a string'),
        ('{}', 'query must be a string, not None'),
        ('{"id": "7"}', 'query must be a string, not None'),
        ('{"query": ""}', 'is empty'),
        ('{"query": "...", "id": "7"}', 'is empty'),
        ('{"query": "the mug", "stamp": 12.5}', 'stamp must be'),
        ('{"query": "the mug", "stamp": {"sec": 1}}', 'stamp must be'),
        ('{"query": "the mug", "stamp": {"sec": 1, "nanosec": 1000000000}}', 'stamp must be'),
        ('{"query": "the mug", "stamp": {"sec": true, "nanosec": 0}}', 'stamp must be'),
        ('{"query": "the mug", "stamp": {"sec": 3000000000, "nanosec": 0}}', 'stamp must be'),
        ('{"query": "the mug"', 'begins like a JSON object but is none'),
        ('{the mug}', 'begins like a JSON object but is none'),
        ('{"a":' * 100_000, 'begins like a JSON object but is none'),
        ('', 'is empty'),
        ('mug ' * 1000, 'has 3999 characters'),
    ],
)
def test_what_cannot_be_used_says_why(text, named):
    request = read_request(text)
    assert request.problem.kind == 'bad_query'
    assert named in str(request.problem)
    about_the_sentence = named in ('is empty', 'has 3999 characters')
    assert request.rejected != about_the_sentence


def test_the_id_is_known_even_where_the_sentence_is_bad():
    assert read_request('{"query": "", "id": "7"}').id == '7'
    assert read_request('{"query": 1, "id": "7"}').id == '7'
    assert read_request('{"query": "the mug", "id": "7", "more": 1}').id == '7'


def test_half_of_a_surrogate_pair_can_be_sent_back():
    request = read_request('{"query": "the \\ud83d mug", "id": "7"}')
    assert request.problem is None
    request.query.encode('utf-8')
