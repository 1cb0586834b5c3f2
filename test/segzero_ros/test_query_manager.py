# SPDX-License-Identifier: Apache-2.0
"""Many sentences over real DDS, and models that get stuck: every sentence has one result."""

import pytest

from segzero_ros.images import image_to_array

LONG = 60.0  # seconds; only what is broken takes so long


def show(graph, node, stamp=1, value=100):
    """Show a picture and wait until the node has it."""
    count = node.frames.count
    graph.client.show_picture(stamp, value)
    graph.client.wait_for(lambda: node.frames.count > count, f'picture {stamp}')


@pytest.fixture
def ask_for_ever(graph, engines):
    """Starts a node that sees a picture and is busy with a sentence until released."""

    def start(sentence='ignore', **parameters):
        show(graph, graph.active_node('image', **parameters))
        graph.client.say(sentence)
        assert engines.ScriptedReasoner.started.wait(LONG)

    return start


def outcomes(results):
    return [(result['query'], result['status']) for result in results]


def test_in_a_queue_sentences_are_answered_in_turn_and_too_many_are_rejected(
    graph, engines, ask_for_ever
):
    ask_for_ever(query__mode='queue', query__queue_size=1)
    graph.client.say('the second')
    graph.client.say('the third')
    (rejected,) = graph.client.results(1)
    assert (rejected['query'], rejected['status']) == ('the third', 'rejected')
    assert rejected['error']['kind'] == 'busy'
    assert rejected['error']['message'].startswith('the queue is full, with 1 sentences')
    engines.ScriptedReasoner.release.set()
    assert outcomes(graph.client.results(3)[1:]) == [('ignore', 'ok'), ('the second', 'ok')]


def test_what_happens_to_a_second_sentence_can_change_while_one_is_answered(
    graph, engines, ask_for_ever
):
    ask_for_ever(query__mode='reject')
    assert graph.client.ask('the second')['status'] == 'rejected'
    assert not graph.client.set_parameter('query.mode', 'ignore').successful
    assert graph.client.set_parameter('query.mode', 'queue').successful
    graph.client.say('the third')
    engines.ScriptedReasoner.release.set()
    assert outcomes(graph.client.results(3)[1:]) == [('ignore', 'ok'), ('the third', 'ok')]


def test_cancelling_drops_those_that_wait_too(graph, ask_for_ever):
    ask_for_ever('wait', query__mode='queue')
    graph.client.say('the second')
    graph.client.ask('')  # refused at once: by now the second has come
    assert graph.client.call('cancel').success
    assert outcomes(graph.client.results(3)[1:]) == [
        ('wait', 'cancelled'), ('the second', 'cancelled')
    ]  # fmt: skip


@pytest.fixture
def continuous(graph):
    """Returns an active node that answers the last sentence again for each new picture."""

    def start(**parameters):
        return graph.active_node('image', query__continuous_rate=100.0, **parameters)

    return start


def test_the_standing_sentence_is_answered_once_for_each_new_picture(graph, continuous):
    node = continuous()
    for stamp in (1, 2, 3):
        show(graph, node, stamp)
        if stamp == 1:
            graph.client.ask('the red mug')
        graph.client.results(stamp)
    graph.client.say('the blue mug')
    graph.client.results(4)
    show(graph, node, 4)
    results = graph.client.results(5)
    assert [(r['query'], r['repeat'], r['stamp']['sec'], r['status']) for r in results] == [
        ('the red mug', 0, 1, 'ok'),
        ('the red mug', 1, 2, 'ok'),
        ('the red mug', 2, 3, 'ok'),
        ('the blue mug', 0, 3, 'ok'),
        ('the blue mug', 1, 4, 'ok'),
    ]
    masks = graph.client.messages['mask']
    graph.client.wait_for(lambda: len(masks) == 5, 'a mask each')
    assert [mask.header.stamp.sec for mask in masks] == [1, 2, 3, 3, 4]


def test_the_last_sentence_is_answered_again_from_when_a_rate_is_set(graph):
    node = graph.active_node('image')
    show(graph, node, 1)
    graph.client.ask('the red mug')
    assert not graph.client.call('cancel').success  # it is answered, and so dropped all the same
    assert graph.client.ask('the blue mug')['repeat'] == 0
    show(graph, node, 2)
    assert graph.client.set_parameter('query.continuous_rate', 100.0).successful
    result = graph.client.results(3)[2]
    assert (result['query'], result['repeat'], result['stamp']['sec']) == ('the blue mug', 1, 2)
    assert graph.client.call('cancel').success


@pytest.mark.parametrize('end', ['cancel', 'clear', 'rate'])
def test_a_standing_sentence_can_be_ended(graph, continuous, monkeypatch, end):
    node = continuous()
    show(graph, node, 1)
    graph.client.ask('the red mug')
    if end == 'rate':
        assert graph.client.set_parameter('query.continuous_rate', 0.0).successful
        assert node.settings.continuous_rate == 0.0
    else:
        assert graph.client.call(end).success
    show(graph, node, 2)
    if end != 'rate':
        looked, repeat = [], node.queries.repeat
        monkeypatch.setattr(node.queries, 'repeat', lambda: looked.append(repeat()))
        graph.client.wait_for(lambda: len(looked) > 2, 'time for a repetition')
    assert graph.client.ask('')['status'] == 'error'
    assert [r['query'] for r in graph.client.results(2)] == ['the red mug', '']


@pytest.mark.parametrize('mode', ['replace', 'queue', 'reject'])
def test_a_repetition_makes_way_for_a_new_sentence(graph, engines, continuous, mode):
    node = continuous(query__mode=mode)
    show(graph, node, 1)
    graph.client.ask('once')  # answered once; the repetition waits to be cancelled
    show(graph, node, 2)
    assert engines.ScriptedReasoner.started.wait(LONG)
    assert graph.client.ask('the blue mug')['status'] == 'ok'
    assert outcomes(graph.client.results(2)) == [('once', 'ok'), ('the blue mug', 'ok')]


def test_no_mask_is_left_of_what_is_no_longer_there(graph, continuous):
    node = continuous()
    show(graph, node, 1, value=200)
    assert graph.client.ask('something bright')['status'] == 'ok'
    show(graph, node, 2, value=10)
    result = graph.client.results(2)[1]
    assert (result['status'], result['repeat'], result['stamp']['sec']) == ('nothing_found', 1, 2)
    masks = graph.client.messages['mask']
    graph.client.wait_for(lambda: len(masks) == 2, 'the empty mask')
    assert not image_to_array(masks[1]).any()
    assert masks[1].header.stamp.sec == 2


def test_no_mask_is_left_when_the_camera_stops(graph, continuous):
    node = continuous(image__timeout=0.1)
    show(graph, node, 1)
    graph.client.ask('the red mug')
    masks = graph.client.messages['mask']
    graph.client.wait_for(lambda: len(masks) == 2, 'the empty mask')
    assert image_to_array(masks[0]).any()
    assert not image_to_array(masks[1]).any()
    assert len(graph.client.results(1)) == 1


def test_a_scene_that_stands_still_is_embedded_once(graph, engines):
    node = graph.active_node('image')
    for stamp, value, times in [(1, 100, 1), (2, 100, 1), (3, 101, 2), (4, 101, 2)]:
        show(graph, node, stamp, value)
        result = graph.client.ask('the red mug')
        assert (result['status'], result['stamp']['sec']) == ('ok', stamp)
        assert len(engines.BoxSegmenter.embedded) == times


def test_a_model_that_gets_stuck_is_an_error_and_the_next_sentence_is_answered(
    graph, engines, monkeypatch
):
    monkeypatch.setattr('segzero_ros.worker.GRACE_S', 0.01)
    show(graph, graph.active_node('image', query__timeout=0.5))
    result = graph.client.ask('ignore')
    assert result['status'] == 'error'
    assert result['error']['kind'] == 'timeout'
    assert 'query.timeout' in result['error']['message']
    assert graph.client.set_parameter('query.timeout', LONG).successful
    assert graph.client.ask('the red mug')['status'] == 'ok'  # by another model
    assert engines.ScriptedReasoner.loaded == 2
    engines.ScriptedReasoner.release.set()
    graph.client.wait_for(lambda: engines.ScriptedReasoner.loaded == 1, 'the end of the stuck one')
    assert len(graph.client.messages['mask']) == 1


def test_out_of_memory_is_tried_again_with_a_smaller_image(graph):
    pytest.importorskip('torch')
    show(graph, graph.active_node('image'))
    usual = graph.client.ask('the red mug')
    result = graph.client.ask('little memory')
    assert result['status'] == 'ok'
    assert result['repairs'] == ['the image was shrunk to fit into memory']
    assert result['box'] == pytest.approx(usual['box'], abs=0.2)
    assert image_to_array(graph.client.message('mask')).shape == (60, 80)
    again = graph.client.ask('the blue mug')
    assert again['repairs'] == []
    assert again['box'] == usual['box']


def test_out_of_memory_with_any_image_is_an_error(graph):
    pytest.importorskip('torch')
    show(graph, graph.active_node('image'))
    result = graph.client.ask('no memory')
    assert result['status'] == 'error'
    assert result['error']['kind'] == 'out_of_memory'
    assert 'or take smaller models (Tried to allocate 2 GiB)' in result['error']['message']
    assert graph.client.ask('the red mug')['status'] == 'ok'
