# SPDX-License-Identifier: Apache-2.0
"""JSON requests over real DDS: ids, cancelling one sentence, and sentences about a named frame."""

import time

import pytest

LONG = 60.0  # seconds; only what is broken takes so long


def show(graph, node, stamp=1, value=100):
    """Show a picture and wait until the node has it."""
    count = node.frames.count
    graph.client.show_picture(stamp, value)
    graph.client.wait_for(lambda: node.frames.count > count, f'picture {stamp}')


@pytest.fixture
def node(graph):
    node = graph.active_node('image')
    show(graph, node)
    return node


def test_the_id_of_a_sentence_comes_back(graph, node):
    assert graph.client.ask({'query': 'the red mug', 'id': 'left arm 7'})['id'] == 'left arm 7'
    assert graph.client.ask('the red mug')['id'] is None
    assert graph.client.ask({'query': 'the red mug'})['id'] is None
    for sentence, status in [('raise', 'error'), ('nothing', 'nothing_found'), ('', 'error')]:
        result = graph.client.ask({'query': sentence, 'id': 'x'})
        assert (result['id'], result['status']) == ('x', status)


def test_two_askers_of_one_sentence_can_tell_their_results_apart(graph, node, engines):
    graph.client.say({'query': 'wait', 'id': 'a'})
    assert engines.ScriptedReasoner.started.wait(LONG)
    graph.client.say({'query': 'wait', 'id': 'b'})
    (replaced,) = graph.client.results(1)
    assert (replaced['id'], replaced['status']) == ('a', 'replaced')
    graph.client.say({'cancel': 'b'})
    cancelled = graph.client.results(2)[1]
    assert (cancelled['id'], cancelled['status']) == ('b', 'cancelled')


def test_one_of_several_sentences_can_be_cancelled(graph, engines):
    node = graph.active_node('image', query__mode='queue')
    show(graph, node)
    graph.client.say({'query': 'ignore', 'id': 'first'})
    assert engines.ScriptedReasoner.started.wait(LONG)
    for number in (1, 2, 3):
        graph.client.say({'query': f'mug {number}', 'id': str(number)})
    graph.client.say({'cancel': '2'})
    graph.client.say({'cancel': 'nobody'})  # has no result, and cancels nothing
    (cancelled,) = graph.client.results(1)
    assert (cancelled['id'], cancelled['status']) == ('2', 'cancelled')
    engines.ScriptedReasoner.release.set()
    rest = [(result['id'], result['status']) for result in graph.client.results(4)[1:]]
    assert rest == [('first', 'ok'), ('1', 'ok'), ('3', 'ok')]


def test_cancelling_another_id_leaves_the_standing_sentence(graph):
    node = graph.active_node('image', query__continuous_rate=100.0)
    show(graph, node, 1)
    graph.client.ask({'query': 'the red mug', 'id': 'a'})
    graph.client.say({'cancel': 'b'})
    show(graph, node, 2)
    again = graph.client.results(2)[1]
    assert (again['id'], again['repeat']) == ('a', 1)
    graph.client.say({'cancel': 'a'})
    assert graph.client.ask('')['status'] == 'error'  # the cancellation has arrived before it
    show(graph, node, 3)
    assert not graph.client.call('cancel').success
    assert len(graph.client.results(3)) == 3


def test_unknown_keys_are_rejected_and_a_good_sentence_goes_on(graph, node, engines):
    graph.client.say({'query': 'ignore', 'id': 'good'})
    assert engines.ScriptedReasoner.started.wait(LONG)
    result = graph.client.ask({'query': 'the mug', 'id': 'bad', 'max_mugs': 3})
    assert (result['status'], result['id']) == ('rejected', 'bad')
    assert result['error']['kind'] == 'bad_query'
    assert "'max_mugs'" in result['error']['message']
    result = graph.client.ask({'query': 'the mug', 'id': 7})
    assert (result['status'], result['id']) == ('rejected', None)
    assert result['error']['kind'] == 'bad_query'
    engines.ScriptedReasoner.release.set()
    assert graph.client.results(3)[2]['id'] == 'good'


def test_a_sentence_about_the_frame_of_a_result_needs_no_new_embedding(graph, node, engines):
    stamp = graph.client.ask('the red mug')['stamp']
    show(graph, node, 2, value=120)
    second = graph.client.ask({'query': 'the blue mug', 'stamp': stamp})
    assert (second['status'], second['stamp']) == ('ok', stamp)
    assert len(engines.BoxSegmenter.embedded) == 1
    assert graph.client.ask('the blue mug')['stamp']['sec'] == 2  # the newest, as always
    assert len(engines.BoxSegmenter.embedded) == 2
    lost = graph.client.ask({'query': 'the blue mug', 'stamp': stamp})
    assert (lost['status'], lost['error']['kind']) == ('error', 'unknown_frame')
    assert '2.000000000' in lost['error']['message']


def test_a_named_frame_may_be_old_and_is_said_to_be(graph):
    node = graph.active_node('image', image__max_arrival_age=0.2)
    seen = time.monotonic()
    show(graph, node, 1)
    named = {'query': 'the red mug', 'stamp': {'sec': 1, 'nanosec': 0}}
    graph.client.wait_for(lambda: time.monotonic() > seen + 0.5, 'an old frame')
    assert graph.client.ask('the red mug')['error']['kind'] == 'stale_frame'
    result = graph.client.ask(named)
    assert result['status'] == 'ok'
    assert 'stale_frame' in [warning['kind'] for warning in result['warnings']]
