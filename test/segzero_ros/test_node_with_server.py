# SPDX-License-Identifier: Apache-2.0
"""Nodes whose reasoner is a model server in a separate process, with all its faults."""

import subprocess
import sys
from pathlib import Path

import pytest

SERVER = Path(__file__).resolve().parents[1] / 'segzero_core' / 'reasoners' / 'protocol_server.py'
MODEL = 'Ricky06662/Seg-Zero-7B'


@pytest.fixture
def start_server():
    """Starts a server on a port; returns it and its port."""
    servers = []

    def start(port=0):
        command = [sys.executable, str(SERVER), str(port), MODEL]
        servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return servers[-1], int(servers[-1].stdout.readline())

    yield start
    for server in servers:
        server.kill()
        server.communicate()


def ready_node(graph, port, **parameters):
    """Return an active node that has a picture and asks the server."""
    node = graph.active_node(
        'image',
        reasoner__engine='openai',
        reasoner__url=f'http://127.0.0.1:{port}/v1',
        **parameters,
    )
    graph.client.show_picture()
    graph.client.wait_for(lambda: node.frames.age() is not None, 'the picture')


def test_a_server_that_is_out_of_order_costs_one_sentence(graph, start_server, monkeypatch):
    monkeypatch.setattr('segzero_ros.node.DIAGNOSTICS_S', 0.02)
    _, port = start_server()
    ready_node(graph, port, reasoner__timeout=3.0)
    for fault in ('silent', 'break', 'raw html', 'raw json', 'status 400'):
        result = graph.client.ask(fault)
        assert (result['status'], result['error']['kind'].split('_')[0]) == ('error', 'server')
        status, values = graph.client.diagnostics(lambda v: v['last_error'])
        assert (status.level, values['last_error'].split(':')[0]) == (b'\x02', 'ServerError')
        assert graph.client.ask('answer this')['status'] == 'ok'


def test_a_server_that_dies_and_comes_back(graph, start_server):
    server, port = start_server()
    ready_node(graph, port)
    assert graph.client.ask('answer this')['status'] == 'ok'
    result = graph.client.ask('die')
    assert (result['status'], result['error']['kind'].split('_')[0]) == ('error', 'server')
    server.kill()
    server.wait()
    assert graph.client.ask('answer nobody')['status'] == 'error'
    start_server(port)
    assert graph.client.ask('answer that')['status'] == 'ok'


def test_cancelling_breaks_the_answer_off(graph, start_server):
    _, port = start_server()
    ready_node(graph, port)
    graph.client.say('slow')
    graph.client.wait_for(lambda: graph.client.messages['reasoning_stream'], 'the first word')
    assert graph.client.call('cancel').success
    assert graph.client.results(1)[0]['status'] == 'cancelled'
    assert graph.client.ask('answer this')['status'] == 'ok'


def test_several_cameras_share_one_server(make_graph, start_server):
    _, port = start_server()
    robots = [make_graph(), make_graph()]
    for stamp, robot in enumerate(robots, start=1):
        ready_node(robot, port)
        robot.client.show_picture(stamp)
    for robot in robots:
        robot.client.say('answer this')
    for robot in robots:
        (result,) = robot.client.results(1)
        assert (result['status'], result['reasoning']) == ('ok', 'The red mug ☕ is left.')
