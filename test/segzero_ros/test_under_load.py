# SPDX-License-Identifier: Apache-2.0
"""Services of the node while its models load and two other processes keep the cores busy."""

import subprocess
import sys

import pytest
from rcl_interfaces.srv import DescribeParameters

from segzero_ros.settings import PARAMETERS


@pytest.fixture
def load():
    """Two busy loops."""
    loops = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(2)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.usefixtures('load')
def test_parameters_are_served_while_models_load(graph, engines):
    graph.node(reasoner__model='endless')
    reply = graph.client.change_state_async('configure')
    assert engines.ScriptedReasoner.started.wait(60)
    for rate in (1.0, 2.0, 3.0, 4.0, 5.0):
        assert graph.client.set_parameter('query.continuous_rate', rate).successful
        assert not graph.client.set_parameter('reasoner.model', f'model {rate}').successful
        assert graph.client.state() == 'configuring'
        request = DescribeParameters.Request(names=list(PARAMETERS))
        described = graph.client.call('describe_parameters', request).descriptors
        assert [each.description for each in described] == [
            spec.description for spec in PARAMETERS.values()
        ]
    assert not reply.done()
    engines.ScriptedReasoner.release.set()
    graph.client.wait_for(reply.done, 'the end of the transition')
    assert reply.result().success


@pytest.mark.usefixtures('load')
def test_sentences_are_answered_and_parameters_set_while_images_come(graph):
    node = graph.active_node('image')
    for number in range(20):
        graph.client.show_picture(number + 1)
        graph.client.wait_for(lambda n=number: node.frames.count > n, 'the picture')
        assert graph.client.set_parameter('query.timeout', 100.0 + number).successful
        result = graph.client.ask({'query': 'the red mug', 'id': str(number)})
        assert (result['status'], result['id']) == ('ok', str(number))
