# SPDX-License-Identifier: Apache-2.0
"""Processes on a separate ROS domain, and a node that communicates with them."""

from __future__ import annotations

import importlib.util
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WAIT_S = 120.0  # reached only by a defect or on a very busy machine
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module', autouse=True)
def own_domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Isolate the processes of the tests from all others on this machine and network."""
    coordinator = pytest.importorskip(
        'domain_coordinator', reason='needs domain_coordinator: pip install ros-domain-coordinator'
    )
    with pytest.MonkeyPatch.context() as patch, coordinator.domain_id() as domain:
        patch.setenv('ROS_DOMAIN_ID', str(domain))
        patch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        patch.setenv('ROS_LOG_DIR', str(tmp_path_factory.mktemp('log')))
        for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope='session')
def root() -> Path:
    """Return the checkout."""
    return ROOT


@pytest.fixture(scope='module')
def programs() -> None:
    """Skip where the launch files could not find the node."""
    if shutil.which('segzero_node'):
        return
    if importlib.util.find_spec('ament_index_python'):
        from ament_index_python.packages import get_packages_with_prefixes

        prefix = get_packages_with_prefixes().get('segzero_ros')
        if prefix and Path(prefix, 'lib', 'segzero_ros', 'segzero_node').exists():
            return
    pytest.skip('needs segzero_node: colcon build and source it, or pip install -e .')


class Peer:
    """A node of the test that asks the processes under test."""

    def __init__(self) -> None:
        """Join the domain that the environment names."""
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node('peer', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._ended.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        """Leave the domain."""
        self._ended.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.shutdown()

    def wait_for(self, what: str, ready: Callable[[], Any]) -> Any:
        """Wait until ``ready`` returns a true value, and return it."""
        deadline = time.monotonic() + WAIT_S
        while not (value := ready()):
            assert time.monotonic() < deadline, f'{what} did not come within {WAIT_S:.0f} s'
            time.sleep(0.05)
        return value

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(kind, name)
        try:
            self.wait_for(f'service {name}', client.service_is_ready)
            reply = client.call_async(request)
            self.wait_for(f'reply of {name}', reply.done)
            return reply.result()
        finally:
            self.node.destroy_client(client)

    def state(self, node: str) -> str:
        """Return the lifecycle state of a node."""
        from lifecycle_msgs.srv import GetState

        return self.call(GetState, f'{node}/get_state', GetState.Request()).current_state.label

    def change(self, node: str, transition: str) -> bool:
        """Request a transition by its label; return whether it succeeded."""
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.label = transition
        return self.call(ChangeState, f'{node}/change_state', request).success

    def parameter(self, node: str, name: str) -> Any:
        """Return the value of a node's parameter."""
        from rcl_interfaces.srv import GetParameters
        from rclpy.parameter import parameter_value_to_python

        request = GetParameters.Request(names=[name])
        (value,) = self.call(GetParameters, f'{node}/get_parameters', request).values
        return parameter_value_to_python(value)

    def gather(self, kind: Any, topic: str) -> list[Any]:
        """Subscribe to a topic; return the list of its messages after a publisher is found."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, 10)
        self.wait_for(f'a publisher of {topic}', lambda: self.node.count_publishers(topic))
        return messages

    def publish(self, topic: str, message: Any) -> None:
        """Publish one message after a subscriber is found."""
        publisher = self.node.create_publisher(type(message), topic, 10)
        self.wait_for(f'a subscriber of {topic}', publisher.get_subscription_count)
        publisher.publish(message)


@pytest.fixture(scope='module')
def peer(own_domain: None) -> Iterator[Peer]:
    """A ROS node in the test's own process."""
    node = Peer()
    yield node
    node.close()


class Processes:
    """The programs that launch started: process ids, exit codes and output, by program."""

    def __init__(self) -> None:
        """Nothing has started."""
        self.pids: dict[str, int] = {}
        self.exits: dict[str, int] = {}
        self.output: dict[str, str] = {}

    def watch(self) -> list[Any]:
        """Return the actions that a launch description needs to be watched.

        Nothing that ends slowly, on a busy machine, is terminated for it.
        """
        from launch.actions import RegisterEventHandler, SetLaunchConfiguration
        from launch.event_handlers import OnProcessExit, OnProcessIO, OnProcessStart

        def program(event: Any) -> str:
            return event.process_name.rsplit('-', 1)[0]  # launch numbers them: segzero_node-1

        def started(event: Any, context: Any) -> None:
            self.pids[program(event)] = event.pid

        def said(event: Any) -> None:
            text = event.text.decode('utf-8')
            self.output[program(event)] = self.output.get(program(event), '') + text

        def ended(event: Any, context: Any) -> None:
            self.exits[program(event)] = event.returncode

        return [
            SetLaunchConfiguration('sigterm_timeout', str(WAIT_S)),
            RegisterEventHandler(OnProcessStart(on_start=started)),
            RegisterEventHandler(OnProcessIO(on_stdout=said, on_stderr=said)),
            RegisterEventHandler(OnProcessExit(on_exit=ended)),
        ]


@pytest.fixture(scope='module')
def processes() -> Processes:
    """Return what is known about the processes that a module's launch description starts."""
    return Processes()
