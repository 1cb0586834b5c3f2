# SPDX-License-Identifier: Apache-2.0
"""The content of /diagnostics for a node over real DDS."""

import threading
import time

import pytest

OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr('segzero_ros.node.DIAGNOSTICS_S', 0.02)


def show(graph, node):
    graph.client.show_picture(int(time.time()))
    graph.client.wait_for(lambda: node.frames.age() is not None, 'the picture')


def test_state_and_frames(graph):
    node = graph.active_node('image')
    status, values = graph.client.diagnostics(lambda v: v['state'] == 'active')
    assert (status.level, values['frame_age_s'], values['frame_rate_hz']) == (WARN, '', '0.0')
    assert status.message == 'no image has come'
    show(graph, node)
    status, values = graph.client.diagnostics(lambda v: v['frame_age_s'])
    assert (status.level, status.message) == (OK, 'active')
    assert float(values['frame_age_s']) >= 0
    rates = {
        value.value
        for array in graph.client.messages['/diagnostics']
        for status in array.status
        for value in status.values
        if value.key == 'frame_rate_hz'
    }
    assert max(float(rate) for rate in rates if rate) > 0
    assert node.trigger_deactivate().name == 'SUCCESS'
    _, values = graph.client.diagnostics(lambda v: v['state'] == 'inactive')
    assert (values['frame_age_s'], values['frame_rate_hz']) == ('', '')


@pytest.mark.parametrize(
    ('sentence', 'level', 'error'),
    [
        ('raise', ERROR, 'RuntimeError: the model broke'),
        ('babble', WARN, 'AnswerError: '),
        ('', WARN, 'QueryError: '),
    ],
)
def test_an_error_stays_until_something_is_answered(graph, sentence, level, error):
    show(graph, graph.active_node('image'))
    graph.client.ask(sentence)
    status, values = graph.client.diagnostics(lambda v: v['last_error'])
    assert values['last_error'].startswith(error)
    assert (status.level, status.message) == (level, 'the last query or transition failed')
    graph.client.ask('the red mug')
    status, _ = graph.client.diagnostics(lambda v: not v['last_error'])
    assert (status.level, status.message) == (OK, 'active')


def test_an_error_does_not_stay_where_nothing_was_found(graph):
    show(graph, graph.active_node('image'))
    graph.client.ask('raise')
    assert graph.client.diagnostics(lambda v: v['last_error'])[0].level == ERROR
    assert graph.client.ask('nothing')['status'] == 'nothing_found'
    status, _ = graph.client.diagnostics(lambda v: not v['last_error'])
    assert (status.level, status.message) == (OK, 'active')


def test_diagnostics_come_while_simulated_time_stands_still(graph):
    graph.active_node('image', use_sim_time=True, image__timeout=0.05)
    graph.client.wait_for(
        lambda: 'no image has come for' in graph.client.diagnostics(bool)[0].message, 'a warning'
    )


def test_the_error_of_a_sentence_does_not_hide_what_is_being_loaded(graph):
    node = graph.active_node('image')
    loader = threading.Thread(target=node.health.loading, args=['another model'])
    loader.start()
    loader.join()
    graph.client.ask('')
    _, values = graph.client.diagnostics(lambda v: v['last_error'])
    assert values['loading'].startswith('another model for ')


def test_what_was_answered_and_how_fast(graph):
    show(graph, graph.active_node('image', segmenter__model='small'))
    for sentence in ('the red mug', 'open end', 'nothing', 'babble', 'raise', ''):
        graph.client.ask(sentence)
    _, values = graph.client.diagnostics(lambda v: v['error'] == '3')
    counts = {name: values[name] for name in ('ok', 'nothing_found', 'parse_failures', 'repaired')}
    assert counts == {'ok': '2', 'nothing_found': '1', 'parse_failures': '1', 'repaired': '1'}
    for stage in ('reason', 'embed', 'decode', 'convert', 'locate', 'total'):
        assert float(values[f'latency_{stage}_s']) >= 0
    assert (values['reasoner'], values['segmenter']) == ('scripted', 'box (small)')
    assert float(values['memory_mb']) > 10


def test_what_waits(graph, engines):
    show(graph, graph.active_node('image', query__mode='queue', query__queue_size=2))
    graph.client.say('ignore')
    assert engines.ScriptedReasoner.started.wait(60)
    for sentence in ('the second', 'the third', 'the fourth'):
        graph.client.say(sentence)
    _, values = graph.client.diagnostics(lambda v: v['rejected'] == '1')
    assert (values['queue'], values['busy']) == ('2', 'True')
    engines.ScriptedReasoner.release.set()
    _, values = graph.client.diagnostics(lambda v: v['ok'] == '3')
    assert values['queue'] == '0'
