# SPDX-License-Identifier: Apache-2.0
"""Ask a running node one sentence and print the answer.

``ros2 run segzero_ros segzero_ask the red mug``. Unlike ``ros2 topic pub --once`` it waits until
the node is active and both sides have discovered each other before it publishes the sentence.
"""

from __future__ import annotations

if __name__ == '__main__':  # first: the imports below take seconds
    import sys

    from segzero_ros.programs import segzero_ask

    sys.exit(segzero_ask())

import argparse
import json
import math
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from segzero_core.prompts import check_query
from segzero_core.runtime.arguments import ArgumentParser, positive, sentence
from segzero_core.runtime.program import ERROR, say
from segzero_ros.ros_context import creating_node, program_arguments, ros_context
from segzero_ros.signals import stop_event

POLL_S = 0.2
REPLY_S = 2.0  # for a node that is busy
PATIENCE_S = 3.0  # before it says what it waits for: nodes that start at once find each other
LOOK_S = 2.0  # between two looks at whether the node is still there, while it answers
CANCEL_S = 0.3  # for the node to receive the cancellation
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
EXIT_CODES = {'ok': 0, 'nothing_found': 1}  # of a result by its status; ERROR for the others


class AskClient:
    """Asks ``segzero``; setting ``stop`` ends every wait."""

    def __init__(
        self,
        node: Node,
        stop: threading.Event,
        tell: Callable[[str], None],
        timeout: float = math.inf,
    ) -> None:
        """Join the graph.

        Args:
            node: Spun by the methods.
            stop: See above.
            tell: Called with the reason for a long wait, or for not getting an answer.
            timeout: Seconds from now until an answer must have come.
        """
        self._node, self._stop, self._tell = node, stop, tell
        self._timeout = timeout
        self._end = time.monotonic() + timeout
        self._name = node.resolve_service_name('segzero/get_state').removesuffix('/get_state')
        self._results: list[dict[str, Any]] = []
        # Created before the client: DDS announces subscriptions in the order of their creation. So
        # when the service replies, which shows that it knows the client, it knows this one too.
        node.create_subscription(String, 'segzero/result', self._keep, RELIABLE)
        self._states = node.create_client(GetState, 'segzero/get_state')

    def ask(self, query: str) -> dict[str, Any] | None:
        """Publish ``query`` once the node is active.

        Returns:
            The document of ``segzero/result``. None if no answer came: ``stop`` was set, the
            time was up, or the node ended or was deactivated. ``tell`` has then said why, except
            for ``stop``.
        """
        self._wait_until_active()
        publisher = self._node.create_publisher(String, 'segzero/query', RELIABLE)
        self._spin_until(publisher.get_subscription_count)
        if self._stop.is_set() or self._is_late():
            return None
        ours = uuid.uuid4().hex
        publisher.publish(String(data=json.dumps({'query': query, 'id': ours})))
        result = self._wait_for_result(ours)
        if result is None:  # no reader is left for the answer
            publisher.publish(String(data=json.dumps({'cancel': ours})))
            publisher.wait_for_all_acked(Duration(seconds=CANCEL_S))
        return result

    def _wait_for_result(self, ours: str) -> dict[str, Any] | None:
        def answers() -> list[dict[str, Any]]:
            return [r for r in self._results if r.get('id') == ours and not r.get('repeat')]

        while not answers():
            self._spin_until(answers, LOOK_S)
            if answers():
                break
            if self._stop.is_set() or self._is_late():
                return None
            state = self._state()
            if state in ('active', 'silent'):
                continue
            self._spin_until(answers, LOOK_S)  # a result sent before may still be on its way
            if not answers():
                self._tell(f'{self._name} is {state} and has not answered: ask again')
                return None
        return answers()[0]

    def _is_late(self) -> bool:
        """Return whether the time is up, and say so."""
        late = time.monotonic() > self._end
        if late:
            self._tell(f'no answer from {self._name} within {self._timeout:g} s')
        return late

    def _keep(self, message: String) -> None:
        try:
            document = json.loads(message.data)
        except (ValueError, RecursionError):
            return  # another program's
        if isinstance(document, dict):
            self._results.append(document)

    def _wait_until_active(self) -> None:
        told, patient_until = '', time.monotonic() + PATIENCE_S
        while not self._ended() and (state := self._state()) != 'active':
            if state != told and time.monotonic() > patient_until:
                self._tell(f'{self._name} is {state}: waiting until it is active')
                told = state
            self._spin_until(lambda: False, POLL_S)

    def _state(self) -> str:
        if not self._states.service_is_ready():
            return 'not to be found'
        reply = self._states.call_async(GetState.Request())
        self._spin_until(reply.done, REPLY_S)
        self._states.remove_pending_request(reply)
        return reply.result().current_state.label if reply.done() else 'silent'

    def _ended(self) -> bool:
        return self._stop.is_set() or time.monotonic() > self._end

    def _spin_until(self, ready: Callable[[], Any], timeout: float = math.inf) -> None:
        deadline = time.monotonic() + timeout
        while not self._ended() and not ready() and time.monotonic() < deadline:
            rclpy.spin_once(self._node, timeout_sec=0.1)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, without the part for ROS."""
    parser = ArgumentParser(
        prog='segzero_ask',
        description='Ask the running node segzero one sentence and print the answer.',
        epilog='Exit code: 0 for an answer, 1 if nothing matches, 2 for an error, 130 for Ctrl-C. '
        'A sentence that begins with a dash goes after --. Arguments for ROS go after '
        '--ros-args, for example: --ros-args -r __ns:=/robot1',
    )
    parser.add_argument(
        'query', nargs='+', metavar='WORD', help='the sentence: the object you are looking for'
    )
    parser.add_argument(
        '--timeout',
        type=positive,
        default=math.inf,
        metavar='SECONDS',
        help='longest wait for the node and its answer (default: no limit)',
    )
    parser.add_argument(
        '--json', action='store_true', help='print the result as one JSON document'
    )
    return parser


def tell(line: str) -> None:
    """Say why there is no answer yet, or none at all."""
    say(f'segzero_ask: {line}')


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print a result: a line for each field, its warnings on standard error."""
    if as_json:
        print(json.dumps(result), flush=True)
        return
    for key, value in result.items():
        if key != 'warnings':
            print(f'{key}: {value if isinstance(value, str) else json.dumps(value)}')
    sys.stdout.flush()
    for warning in result.get('warnings', []):
        say(f'segzero_ask: warning: {warning["message"]}')


def main(args: Sequence[str] | None = None) -> int:
    """Print the answer; return the exit code, see ``EXIT_CODES``.

    Raises:
        QueryError: The sentence cannot be used.
        RosStartError: ROS does not start.
    """
    words, ros_arguments = program_arguments('segzero_ask', args)
    options = build_parser().parse_args(words)
    query = check_query(sentence(options.query))
    stop = stop_event()
    with ros_context(ros_arguments):
        with creating_node():
            node = rclpy.create_node('segzero_ask')
        result = AskClient(node, stop, tell, options.timeout).ask(query)
    if result is None:
        return stop.exit_code or ERROR
    print_result(result, options.json)
    return EXIT_CODES.get(result['status'], ERROR)
