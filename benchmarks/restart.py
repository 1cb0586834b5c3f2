# SPDX-License-Identifier: Apache-2.0
"""Time until the node ends, and until it answers after a restart, from every lifecycle state.

    python benchmarks/restart.py [--json FILE]

The model takes 2 s to load. In the state ``answering`` it ignores a cancellation.

end
    Seconds from SIGINT, and from SIGTERM, to the end of the process; the limit is 2 s.
back
    Seconds from the start of a new node to its first answer, after the previous node was killed
    (SIGKILL). For comparison: the same time for a node without a killed predecessor.

The exit code is 0 if all processes ended with exit code 0 within 2 s, and all new nodes answered.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import (
    MANY,
    InstantReasoner,
    Peer,
    own_domain,
    process,
    random_picture,
    serve_node,
    steadily,
    wait_for,
)
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import Image
from std_msgs.msg import String

LOAD_S = 2.0
MOST_S = 2.0
STATES = {  # and the transitions that lead to them, each with the state that it ends in
    'unconfigured': (),
    'configuring': (('configure', 'configuring'),),
    'inactive': (('configure', 'inactive'),),
    'active': (('configure', 'inactive'), ('activate', 'active')),
    'answering': (('configure', 'inactive'), ('activate', 'active')),
    'finalized': (('shutdown', 'finalized'),),
}


class SlowReasoner(InstantReasoner):
    """A reasoner that takes some time to load."""

    def __init__(self) -> None:
        time.sleep(LOAD_S)
        super().__init__()


class Robot(Peer):
    """Publishes frames, asks, and changes the lifecycle state of the node."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers, self._picture = itertools.count(), random_picture()
        self._cameras = self.create_publisher(Image, 'image', 1)
        self._queries = self.create_publisher(String, 'segzero/query', MANY)
        self._answered = ''
        self.create_subscription(String, 'segzero/result', self._on_result, MANY)

    def _on_result(self, message: String) -> None:
        result = json.loads(message.data)
        if result['status'] == 'ok':
            self._answered = result['query']

    def show(self) -> None:
        """Publish a frame."""
        self._picture.header.stamp = self.get_clock().now().to_msg()
        self._cameras.publish(self._picture)

    def get_answer(self) -> None:
        """Ask until there is an answer, because DDS regards a killed node as alive for a while."""
        first = next(self._numbers)
        deadline = time.monotonic() + 60
        while not (self._answered and int(self._answered.split()[-1]) >= first):
            if time.monotonic() > deadline:
                sys.exit('no answer came')
            self._queries.publish(String(data=f'sentence {next(self._numbers)}'))
            time.sleep(0.02)

    def bring_to(self, state: str) -> None:
        """Take a node that has just started to a state."""
        states = self.create_client(GetState, 'segzero/get_state')
        changes = self.create_client(ChangeState, 'segzero/change_state')
        for client in (states, changes):
            wait_for(client.service_is_ready, client.srv_name)
        wait_for(lambda: self._state(states) == 'unconfigured', 'state unconfigured')
        for label, goal in STATES[state]:
            request = ChangeState.Request()
            request.transition.label = label
            changes.call_async(request)
            wait_for(lambda goal=goal: self._state(states) == goal, f'state {goal}')
        if state == 'answering':
            self.get_answer()
            self._queries.publish(String(data='take 60 s'))
            time.sleep(0.5)  # until the model has started
        for client in (states, changes):
            self.destroy_client(client)

    def _state(self, client: Any) -> str:
        """Return the node's state; '' if the response was lost before discovery ended."""
        reply = client.call_async(GetState.Request())
        deadline = time.monotonic() + 1.0
        while not reply.done() and time.monotonic() < deadline:
            time.sleep(0.005)
        return reply.result().current_state.label if reply.done() else ''


@contextlib.contextmanager
def node(autostart: bool) -> Iterator[Any]:
    """Start a node; the caller ends the process."""
    with process(__file__, 'node', f'autostart:={str(autostart).lower()}') as running:
        yield running


def seconds_to_answer(robot: Robot) -> float:
    """Start a node and return the seconds until its first answer."""
    start = time.monotonic()
    with node(autostart=True):
        robot.get_answer()
        return time.monotonic() - start


def seconds_to_end(robot: Robot, state: str, number: signal.Signals) -> float:
    """Return the seconds from a signal to the end of a node; infinite for a bad exit code."""
    with node(autostart=False) as running:
        robot.bring_to(state)
        start = time.monotonic()
        running.send_signal(number)
        code = running.wait(timeout=60)
        return time.monotonic() - start if code == 0 else float('inf')


def measure(robot: Robot) -> dict[str, Any]:
    """End and kill nodes in all states."""
    first = statistics.median(seconds_to_answer(robot) for _ in range(3))
    found: dict[str, Any] = {'first': first, 'states': {}}
    for state in STATES:
        times = {
            each.name: seconds_to_end(robot, state, each)
            for each in (signal.SIGINT, signal.SIGTERM)
        }
        with node(autostart=False) as running:
            robot.bring_to(state)
            running.kill()
            running.wait()
        found['states'][state] = {**times, 'back': seconds_to_answer(robot)}
    return found


def main() -> int:
    """Run the benchmark."""
    if sys.argv[1:2] == ['--serve']:
        return serve_node(
            sys.argv[3:], 'restart:SlowReasoner', 'harness:InstantSegmenter', autostart=False
        )
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--json', type=Path, help='write the figures to this file, too')
    options = parser.parse_args()
    with own_domain():
        robot = Robot()
        with steadily(10.0, robot.show):
            found = measure(robot)
        robot.close()
    print(f'{"seconds":<14}{"SIGINT":>8}{"SIGTERM":>9}{"back":>8}')
    print(f'{"none killed":<31}{found["first"]:8.2f}')
    for state, times in found['states'].items():
        print(f'{state:<14}{times["SIGINT"]:8.2f}{times["SIGTERM"]:9.2f}{times["back"]:8.2f}')
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + '\n')
    slowest = max(t[name] for t in found['states'].values() for name in ('SIGINT', 'SIGTERM'))
    return 1 if slowest > MOST_S else 0


if __name__ == '__main__':
    sys.exit(main())
