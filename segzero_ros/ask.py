# SPDX-License-Identifier: Apache-2.0
"""Ask a running node one sentence and print the answer.

``ros2 run segzero_ros segzero_ask the red mug``; unlike ``ros2 topic pub --once`` it makes sure
that the node is active and both sides have found each other before it speaks.
"""

from __future__ import annotations

if __name__ == '__main__':  # first: the imports below take seconds
    import sys

    from segzero_ros.programs import segzero_ask

    sys.exit(segzero_ask())

import functools
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from std_msgs.msg import String

from segzero_core.prompts import MAX_QUERY_CHARACTERS
from segzero_ros.ros_context import creating_node, ros_context
from segzero_ros.signals import stop_event

POLL_S = 0.2
REPLY_S = 2.0  # for a node that is busy
PATIENCE_S = 3.0  # before it says what it waits for: nodes that start at once find each other
LOOK_S = 2.0  # between two looks at whether the node is still there, while it answers
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class AskClient:
    """Asks ``segzero``; setting ``stop`` ends every wait."""

    def __init__(self, node: Node, stop: threading.Event, tell: Callable[[str], None]) -> None:
        """Join the graph.

        Args:
            node: Spun by the methods.
            stop: See above.
            tell: Called with why it takes so long.
        """
        self._node, self._stop, self._tell = node, stop, tell
        self._name = node.resolve_service_name('segzero/get_state').removesuffix('/get_state')
        self._results: list[dict[str, Any]] = []
        # Before the client: DDS announces in this order what a process hears. So the response of
        # the service, which tells that it knows the client, tells that it knows this one, too.
        node.create_subscription(String, 'segzero/result', self._keep, RELIABLE)
        self._states = node.create_client(GetState, 'segzero/get_state')

    def ask(self, query: str) -> dict[str, Any] | None:
        """Publish ``query`` once the node is active.

        Returns:
            The document of ``segzero/result``; None when ``stop`` was set before it came, or the
            node ended or was deactivated.
        """
        self._wait_until_active()
        publisher = self._node.create_publisher(String, 'segzero/query', RELIABLE)
        if not self._spin_until(publisher.get_subscription_count):
            return None
        publisher.publish(String(data=query))

        def answers() -> list[dict[str, Any]]:
            said = query[:MAX_QUERY_CHARACTERS]
            return [r for r in self._results if r['query'] == said and not r['repeat']]

        while self._spin_until(answers, LOOK_S) and not answers():
            state = self._state()
            if state in ('active', 'silent'):
                continue
            self._spin_until(answers, LOOK_S)  # what it said before may still be on its way
            if not answers():
                self._tell(f'{self._name} is {state} and has not answered: ask again')
                return None
        return next(iter(answers()), None)

    def _keep(self, message: String) -> None:
        self._results.append(json.loads(message.data))

    def _wait_until_active(self) -> None:
        told, patient_until = '', time.monotonic() + PATIENCE_S
        while (state := self._state()) != 'active' and not self._stop.is_set():
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

    def _spin_until(self, ready: Callable[[], Any], timeout: float = math.inf) -> bool:
        """Return whether it was not stopped."""
        deadline = time.monotonic() + timeout
        while not self._stop.is_set() and not ready() and time.monotonic() < deadline:
            rclpy.spin_once(self._node, timeout_sec=0.1)
        return not self._stop.is_set()


def main(args: Sequence[str] | None = None) -> int:
    """Print the answer, a line for each field; 0 if something was found, else 1."""
    arguments = sys.argv if args is None else ['segzero_ask', *args]
    query = ' '.join(remove_ros_args(args=arguments)[1:])
    if not query:
        print('usage: segzero_ask SENTENCE', file=sys.stderr)
        return 2
    stop = stop_event()
    with ros_context(arguments):
        tell = functools.partial(print, file=sys.stderr, flush=True)
        with creating_node():
            node = rclpy.create_node('segzero_ask')
        result = AskClient(node, stop, tell).ask(query)
    if stop.exit_code:
        return stop.exit_code
    if result is None:
        return 1
    for key, value in result.items():
        print(f'{key}: {value if isinstance(value, str) else json.dumps(value)}')
    return 0 if result['status'] == 'ok' else 1
