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

from segzero_ros import ask

if TYPE_CHECKING:
    from conftest import Peer

LONG = 120.0  # seconds; reached only by a defect

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
    """Act as a node that reports these states in turn; the last state stays."""
    labels = ['active']

    def get(request: GetState.Request, response: GetState.Response) -> GetState.Response:
        response.current_state.label = labels.pop(0) if len(labels) > 1 else labels[0]
        return response

    service = peer.node.create_service(GetState, 'segzero/get_state', get)
    yield labels
    peer.node.destroy_service(service)


@pytest.mark.parametrize(('status', 'code'), [('ok', 0), ('nothing_found', 1), ('error', 2)])
def test_prints_the_answer_to_its_own_sentence(
    peer: Peer, start: Start, state: list[str], status: str, code: int
) -> None:
    state[:] = ['unconfigured', 'inactive', 'active']
    results = peer.node.create_publisher(String, 'segzero/result', 10)
    asked: list[str] = []

    def answer(message: String) -> None:
        request = json.loads(message.data)
        asked.append(request['query'])
        results.publish(String(data='no JSON'))
        # Somebody else asked the same sentence; the node repeats ours.
        for asker, repeat in [('other', 0), (request['id'], 7), (request['id'], 0)]:
            document = {
                'query': request['query'],
                'id': asker,
                'repeat': repeat,
                'status': status,
                'box': [1, 2, 3, repeat],
                'warnings': [{'kind': 'little_depth', 'message': 'little depth'}],
            }
            results.publish(String(data=json.dumps(document)))

    subscription = peer.node.create_subscription(String, 'segzero/query', answer, 10)
    process = start('the', 'red "mug"', '--', '-x')
    out, err = process.communicate(timeout=LONG)
    as_json = start('--json', 'the mug')
    document, quiet = as_json.communicate(timeout=LONG)
    peer.node.destroy_subscription(subscription)
    peer.node.destroy_publisher(results)
    assert asked == ['the red "mug" -x', 'the mug']
    fields = dict(line.split(': ', 1) for line in out.splitlines())
    assert fields.pop('id')
    expected = {'query': asked[0], 'repeat': '0', 'status': status, 'box': '[1, 2, 3, 0]'}
    assert fields == expected
    assert err.endswith('segzero_ask: warning: little depth\n')
    assert json.loads(document)['warnings'][0]['kind'] == 'little_depth'
    assert 'warning' not in quiet
    assert (process.returncode, as_json.returncode) == (code, code)


def test_says_why_it_waits(start: Start, state: list[str]) -> None:
    state[:] = ['inactive']
    process = start('the red mug')
    assert process.stderr is not None
    # A message that the node is missing may come first, because discovery takes time.
    assert 'segzero_ask: /segzero is inactive: waiting until it is active\n' in process.stderr


def test_a_node_that_is_deactivated_before_it_answers_is_not_waited_for(
    peer: Peer, start: Start, state: list[str]
) -> None:
    def hear(message: String) -> None:
        state[:] = ['inactive']

    subscription = peer.node.create_subscription(String, 'segzero/query', hear, 10)
    process = start('the red mug')
    _, err = process.communicate(timeout=LONG)
    peer.node.destroy_subscription(subscription)
    assert process.returncode == 2
    assert err.endswith('segzero_ask: /segzero is inactive and has not answered: ask again\n')


def test_one_interrupt_ends_the_wait(peer: Peer, start: Start) -> None:
    process = start('the red mug')
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line == 'segzero_ask: /segzero is not to be found: waiting until it is active\n'
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert 'Traceback' not in err


def test_a_sentence_that_is_given_up_is_cancelled(
    peer: Peer, start: Start, state: list[str]
) -> None:
    heard: list[dict[str, str]] = []

    def hear(message: String) -> None:
        heard.append(json.loads(message.data))

    subscription = peer.node.create_subscription(String, 'segzero/query', hear, 10)
    process = start('the red mug', '--timeout', '4')
    _, err = process.communicate(timeout=LONG)
    peer.node.destroy_subscription(subscription)
    assert process.returncode == 2
    assert err.endswith('segzero_ask: no answer from /segzero within 4 s\n')
    question, cancellation = heard
    assert question['query'] == 'the red mug'
    assert cancellation == {'cancel': question['id']}


def test_a_timeout_ends_the_wait_for_a_node(start: Start) -> None:
    process = start('the red mug', '--timeout', '0.5')
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 2
    assert err == 'segzero_ask: no answer from /segzero within 0.5 s\n'


@pytest.mark.parametrize(
    ('arguments', 'code', 'said'),
    [
        ([], 2, 'usage: segzero_ask'),
        (['-h', '--ros-args', '-r', '__ns:=/x'], 0, 'usage: segzero_ask'),
        (['--nonsense', 'the mug'], 2, 'words that begin with a dash go after --'),
        (['the mug', '--timeout', 'soon'], 2, "must be a number above 0, not 'soon'"),
    ],
)
def test_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        ask.main(arguments)
    assert end.value.code == code
    out, err = capsys.readouterr()
    assert said in out + err


def test_a_sentence_that_is_none(start: Start) -> None:
    process = start('...')
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out, err.count('\n')) == (2, '', 1)
    assert err.startswith("segzero_ask: the query '...' is empty")
