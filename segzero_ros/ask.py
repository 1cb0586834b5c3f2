# SPDX-License-Identifier: Apache-2.0
"""Ask a running node one sentence and print the answer.

``ros2 run segzero_ros segzero_ask the red mug``; unlike ``ros2 topic pub --once`` it makes sure
that both sides have found each other before it speaks.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from std_msgs.msg import String

from segzero_core.prompts import MAX_QUERY_CHARACTERS
from segzero_ros.signals import stop_event

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


def ask(node: Node, query: str, stop: threading.Event) -> dict[str, Any] | None:
    """Publish ``query`` once ``segzero`` listens.

    Returns:
        The document of ``segzero/result``; None when ``stop`` was set before it came.
    """
    results: list[dict[str, Any]] = []

    def keep(message: String) -> None:
        result = json.loads(message.data)
        if result['query'] == query[:MAX_QUERY_CHARACTERS] and not result['repeat']:
            results.append(result)

    answers = node.create_subscription(String, 'segzero/result', keep, RELIABLE)
    publisher = node.create_publisher(String, 'segzero/query', RELIABLE)

    def wait_for(ready: Callable[[], Any]) -> bool:
        while not stop.is_set() and not ready():
            rclpy.spin_once(node, timeout_sec=0.1)
        return not stop.is_set()

    def connected() -> bool:
        heard = publisher.get_subscription_count() > 0
        return heard and node.count_publishers(answers.topic_name) > 0

    if not wait_for(connected):
        return None
    publisher.publish(String(data=query))
    return results[0] if wait_for(lambda: results) else None


def main(args: Sequence[str] | None = None) -> int:
    """Print the answer, a line for each field; 0 if something was found, else 1."""
    arguments = sys.argv if args is None else ['segzero_ask', *args]
    query = ' '.join(remove_ros_args(args=arguments)[1:])
    if not query:
        print('usage: segzero_ask SENTENCE', file=sys.stderr)
        return 2
    stop = stop_event()
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        result = ask(rclpy.create_node('segzero_ask'), query, stop)
    finally:
        rclpy.try_shutdown()
    if result is None:
        return 1
    for key, value in result.items():
        print(f'{key}: {value if isinstance(value, str) else json.dumps(value)}')
    return 0 if result['status'] == 'ok' else 1


if __name__ == '__main__':
    sys.exit(main())
