# SPDX-License-Identifier: Apache-2.0
"""A node that is killed or ended, in any state, and started again."""

import signal
import time

import pytest
from sensor_msgs.msg import Image

# What brings a node to the state.
STATES = {
    'unconfigured': (),
    'configuring': ('configure',),
    'inactive': ('configure',),
    'active': ('configure', 'activate'),
    'answering': ('configure', 'activate'),
}


@pytest.fixture
def start(processes, scripted_program):
    """Starts the node with the scripted engines."""

    def run(namespace, *parameters):
        engines = ('reasoner.engine:=scripted', 'segmenter.engine:=box')
        words = [word for p in (*engines, *parameters) for word in ('-p', p)]
        return processes(scripted_program, '--ros-args', '-r', f'__ns:={namespace}', *words)

    return run


def bring_to(state, client):
    """Take a node that has just started to a state."""
    client.cameras['image'] = client.node.create_publisher(Image, 'image', 1)
    for label in STATES[state]:
        reply = client.change_state_async(label)
        if state != 'configuring':  # which does not end
            client.wait_for(reply.done, label)
            assert reply.result().success
    if state == 'configuring':
        client.diagnostics(lambda values: values['state'] == 'configuring')
    elif state == 'answering':
        client.wait_for_node()
        client.say('wait')

        def running():
            client.show_picture()  # until it arrives
            return client.messages['reasoning_stream']

        client.wait_for(running, 'the text of a model that runs')
    else:
        assert client.state() == state


def wait_for_an_answer(client):
    """Ask until there is an answer; DDS takes a killed node for alive for a while."""

    def answered():
        client.show_picture()
        client.say('the red mug')
        time.sleep(0.1)
        return any('"status": "ok"' in message.data for message in client.messages['result'])

    client.wait_for(answered, 'an answer')


def test_killed_in_any_state_it_answers_again(start, ros, make_client):
    clients = {state: make_client(next(ros)) for state in STATES}
    nodes = []
    for state, client in clients.items():
        model = ['reasoner.model:=endless'] if state == 'configuring' else []
        nodes.append(start(client.namespace, *model))
    for state, client in clients.items():
        bring_to(state, client)
    for node in nodes:
        node.kill()
        node.wait()
    for client in clients.values():
        client.messages['result'].clear()
        start(client.namespace, 'autostart:=true')
    for client in clients.values():
        wait_for_an_answer(client)


def test_ended_in_any_state_it_ends_well_and_answers_again(start, ros, make_client):
    clients = {state: make_client(next(ros)) for state in ('inactive', 'active', 'answering')}
    nodes = {state: start(client.namespace) for state, client in clients.items()}
    for state, client in clients.items():
        bring_to(state, client)
        nodes[state].send_signal(signal.SIGTERM)
    for state, node in nodes.items():
        output, _ = node.communicate(timeout=30)
        assert node.returncode == 0, (state, output)
        assert 'Traceback' not in output
    (result,) = clients['answering'].results(1)
    assert result['status'] == 'cancelled'
    start(clients['answering'].namespace, 'autostart:=true')
    clients['answering'].messages['result'].clear()
    wait_for_an_answer(clients['answering'])
