# SPDX-License-Identifier: Apache-2.0
"""A node that is killed or ended, in any state, and started again."""

import signal
import time

import pytest
from sensor_msgs.msg import Image

# The transitions that lead to each state.
STATES = {
    'unconfigured': (),
    'configuring': ('configure',),
    'inactive': ('configure',),
    'active': ('configure', 'activate'),
    'answering': ('configure', 'activate'),
    'finalized': ('shutdown',),
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
    """Bring a new node to a state."""
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
    """Ask until there is an answer, because DDS regards a killed node as alive for a while."""

    def answered():
        client.show_picture()
        client.say('the red mug')
        time.sleep(0.1)
        return any('"status": "ok"' in message.data for message in client.messages['result'])

    client.wait_for(answered, 'an answer')


@pytest.mark.parametrize('state', STATES)
def test_killed_in_any_state_it_answers_again(start, ros, make_client, state):
    client = make_client(next(ros))
    model = ['reasoner.model:=endless'] if state == 'configuring' else []
    node = start(client.namespace, *model)
    bring_to(state, client)
    node.kill()
    node.wait()
    client.messages['result'].clear()
    start(client.namespace, 'autostart:=true')
    wait_for_an_answer(client)


@pytest.mark.parametrize('state', ['inactive', 'active', 'answering', 'finalized'])
def test_ended_in_any_state_it_ends_well_and_answers_again(start, ros, make_client, state):
    client = make_client(next(ros))
    node = start(client.namespace)
    bring_to(state, client)
    node.send_signal(signal.SIGTERM)
    output, _ = node.communicate(timeout=60)
    assert node.returncode == 0, output
    assert 'Traceback' not in output
    if state == 'answering':
        assert client.results(1)[0]['status'] == 'cancelled'
    client.messages['result'].clear()
    start(client.namespace, 'autostart:=true')
    wait_for_an_answer(client)
