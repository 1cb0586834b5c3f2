# SPDX-License-Identifier: Apache-2.0
"""Overload of the node with images and sentences.

    python benchmarks/flood.py [--seconds 10] [--queries 1000] [--rate 100] [--json FILE]

A camera in a separate process publishes VGA frames. Sentences arrive much faster than a model that
takes 50 ms can answer. Meanwhile the benchmark measures the response time of a parameter request
and the resident memory of the node. Goals: each parameter request is answered within 200 ms,
memory grows by at most 5 %, every sentence ends in exactly one result, and the last sentence is
answered. The exit code is 0 if all goals are reached.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import rclpy
from harness import (
    LONG_S,
    MANY,
    Peer,
    own_domain,
    process,
    random_picture,
    resident_megabytes,
    serve_node,
    steadily,
    wait_for,
)
from rcl_interfaces.srv import GetParameters
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image
from std_msgs.msg import String

from segzero_ros.signals import stop_event

MODEL_S = 0.05
MOST_SECONDS = 0.2  # for a parameter
MOST_GROWTH = 0.05
WARM_UP = 50  # sentences, before memory counts


class Crowd(Peer):
    """The client that sends sentences and parameter requests to the node."""

    def __init__(self) -> None:
        super().__init__()
        self._queries = self.create_publisher(String, 'segzero/query', MANY)
        self.results: list[dict[str, Any]] = []
        self._heard = self.create_subscription(String, 'segzero/result', self._on_result, MANY)
        wait_for(self._queries.get_subscription_count, 'the node')
        wait_for(self._heard.get_publisher_count, 'the results of the node')
        self._parameters = self.create_client(GetParameters, 'segzero/get_parameters')
        wait_for(self._parameters.service_is_ready, 'the parameter service')

    def _on_result(self, message: String) -> None:
        self.results.append(json.loads(message.data))

    def say(self, sentence: str) -> None:
        """Publish a sentence."""
        self._queries.publish(String(data=sentence))

    def parameter_seconds(self) -> float:
        """Return the response time of a parameter request, seconds."""
        ended = threading.Event()
        start = time.perf_counter()
        reply = self._parameters.call_async(GetParameters.Request(names=['depth.max']))
        reply.add_done_callback(lambda _: ended.set())
        if not ended.wait(LONG_S):
            sys.exit('the node does not return its parameters')
        return time.perf_counter() - start


def sentence(number: int) -> str:
    """Return a unique sentence for the slow model."""
    return f'take {MODEL_S} s for mug {number}'


def flood(crowd: Crowd, pid: int, seconds: float, queries: int) -> dict[str, Any]:
    """Send ``queries`` sentences within ``seconds`` and monitor the node."""
    for i in range(WARM_UP):
        crowd.say(sentence(-1 - i))
    wait_for(lambda: len(crowd.results) >= WARM_UP, 'results before the flood')
    crowd.results.clear()
    asked: list[str] = []

    def ask() -> None:
        if len(asked) < queries:
            asked.append(sentence(len(asked)))
            crowd.say(asked[-1])

    delays, memory = [], [resident_megabytes(pid)]
    with steadily(queries / seconds, ask):
        while len(asked) < queries:
            delays.append(crowd.parameter_seconds())
            memory.append(resident_megabytes(pid))
            time.sleep(0.02)
    wait_for(lambda: any(r['query'] == asked[-1] for r in crowd.results), 'the last result')
    wait_for(lambda: len(crowd.results) >= queries, 'all results')
    counts = collections.Counter(result['query'] for result in crowd.results)
    (last,) = (r['status'] for r in crowd.results if r['query'] == asked[-1])
    return {
        'queries': queries,
        'answered_once': sum(counts[query] == 1 for query in asked),
        'statuses': dict(collections.Counter(result['status'] for result in crowd.results)),
        'last': last,
        'parameter_ms': [1000 * statistics.median(delays), 1000 * max(delays)],
        'memory_mb': [memory[0], max(memory)],
    }


def failures(figures: dict[str, Any]) -> list[str]:
    """Return the goals that were missed."""
    start, most = figures['memory_mb']
    checks = {
        'every sentence ends in one result': figures['answered_once'] == figures['queries'],
        'the last sentence is answered': figures['last'] == 'ok',
        'a parameter within 200 ms': figures['parameter_ms'][1] < 1000 * MOST_SECONDS,
        'memory within 5 %': most <= (1 + MOST_GROWTH) * start,
    }
    return [what for what, held in checks.items() if not held]


def serve(kind: str, arguments: list[str]) -> int:
    """Run as the node or as its camera."""
    if kind == 'node':
        return serve_node(arguments, 'harness:InstantReasoner', 'harness:InstantSegmenter')
    stop = stop_event()
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    camera = rclpy.create_node('camera')
    picture, publisher = random_picture(), camera.create_publisher(Image, 'image', 1)
    rate = camera.declare_parameter('rate', 0.0).value

    def show() -> None:
        picture.header.stamp = camera.get_clock().now().to_msg()
        publisher.publish(picture)

    with steadily(rate, show):
        stop.wait()
    rclpy.shutdown()
    return 0


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seconds', type=float, default=10.0, help='how long the flood lasts')
    parser.add_argument('--queries', type=int, default=1000, help='in that time')
    parser.add_argument('--rate', type=float, default=100.0, help='of the camera, Hz')
    parser.add_argument('--json', type=Path, help='write the figures to this file, too')
    parser.add_argument('--serve', choices=['node', 'camera'], help=argparse.SUPPRESS)
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    if options.serve:
        return serve(options.serve, sys.argv[3:])
    camera = process(__file__, 'camera', f'rate:={options.rate}')
    with own_domain(), process(__file__, 'node') as node, camera:
        crowd = Crowd()
        figures = flood(crowd, node.pid, options.seconds, options.queries)
        crowd.close()
    (typical, slowest), (before, most) = figures['parameter_ms'], figures['memory_mb']
    print(
        f'{figures["answered_once"]} of {figures["queries"]} sentences ended in one result: '
        f'{figures["statuses"]}; the last: {figures["last"]}\n'
        f'a parameter took {typical:.1f} ms (median), {slowest:.1f} ms (longest)\n'
        f'resident memory: {before:.1f} MB before, at most {most:.1f} MB'
    )
    for failure in failures(figures):
        print(f'FAILED: {failure}')
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + '\n')
    return 1 if failures(figures) else 0


if __name__ == '__main__':
    sys.exit(main())
