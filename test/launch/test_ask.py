# SPDX-License-Identifier: Apache-2.0
"""segzero_ask as a process, with this test in the node's place."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

pytest.importorskip('rclpy', reason='needs rclpy: make test installs it, or source ROS 2')

from lifecycle_msgs.srv import GetState
from std_msgs.msg import String

if TYPE_CHECKING:
    from conftest import Peer

LONG = 120.0  # seconds; only what is broken takes so long

Start = Callable[..., 'subprocess.Popen[str]']


@pytest.fixture
def start(own_domain: None) -> Iterator[Start]:
    processes = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, '-m', 'segzero_ros.ask', *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def state(peer: Peer) -> Iterator[list[str]]:
    """Be a node in these states, one asked for after the other; the last one stays."""
    labels = ['active']

    def get(request: GetState.Request, response: GetState.Response) -> GetState.Response:
        response.current_state.label = labels.pop(0) if len(labels) > 1 else labels[0]
        return response

    service = peer.node.create_service(GetState, 'segzero/get_state', get)
    yield labels
    peer.node.destroy_service(service)


@pytest.mark.parametrize(('status', 'code'), [('ok', 0), ('nothing_found', 1), ('error', 1)])
def test_prints_the_answer_to_its_own_sentence(
    peer: Peer, start: Start, state: list[str], status: str, code: int
) -> None:
    state[:] = ['unconfigured', 'inactive', 'active']
    results = peer.node.create_publisher(String, 'segzero/result', 10)
    asked: list[str] = []

    def answer(message: String) -> None:
        asked.append(message.data)
        for query, repeat in [('of somebody else', 0), (message.data, 7), (message.data, 0)]:
            box = [1, 2, 3, repeat]
            document = {'query': query, 'repeat': repeat, 'status': status, 'box': box}
            results.publish(String(data=json.dumps(document)))

    subscription = peer.node.create_subscription(String, 'segzero/query', answer, 10)
    out, err = start('the', 'red "mug"').communicate(timeout=LONG)
    peer.node.destroy_subscription(subscription)
    peer.node.destroy_publisher(results)
    assert asked == ['the red "mug"']
    assert out == f'query: the red "mug"\nrepeat: 0\nstatus: {status}\nbox: [1, 2, 3, 0]\n'
    assert 'Traceback' not in err


def test_says_why_it_waits(start: Start, state: list[str]) -> None:
    state[:] = ['inactive']
    process = start('the red mug')
    assert process.stderr is not None
    # Before it, perhaps, that there is none: DDS takes its time.
    assert '/segzero is inactive: waiting until it is active\n' in process.stderr


def test_a_node_that_is_deactivated_before_it_answers_is_not_waited_for(
    peer: Peer, start: Start, state: list[str]
) -> None:
    def hear(message: String) -> None:
        state[:] = ['inactive']

    subscription = peer.node.create_subscription(String, 'segzero/query', hear, 10)
    process = start('the red mug')
    _, err = process.communicate(timeout=LONG)
    peer.node.destroy_subscription(subscription)
    assert process.returncode == 1
    assert err.endswith('/segzero is inactive and has not answered: ask again\n')


def test_one_interrupt_ends_the_wait(peer: Peer, start: Start) -> None:
    process = start('the red mug')
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line == '/segzero is not to be found: waiting until it is active\n'
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert 'Traceback' not in err


def test_no_sentence_is_a_usage_error(start: Start) -> None:
    process = start()
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 2
    assert 'usage' in err
