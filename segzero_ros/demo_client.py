# SPDX-License-Identifier: Apache-2.0
"""A client of the node that asks a sentence and gathers all that the node publishes about it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PointStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from segzero_core.errors import DemoError
from segzero_ros.images import image_to_array

START_S = 60.0  # for the node to load its models and the processes to discover each other
ANSWER_S = 120.0
PICTURES_S = 10.0  # for the pictures of an answer that is there
REST_S = 2.0  # for the end of a text whose answer is there


@dataclass
class DemoResult:
    """Everything the node published about one sentence."""

    result: dict[str, Any]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    target: np.ndarray | None = None  # (3,) metres, camera optical frame


class DemoClient(Node):
    """Asks one sentence at a time; gathers the node's messages by the stamp of their frame."""

    def __init__(
        self, processes: Sequence[subprocess.Popen[bytes]], stop: threading.Event | None = None
    ) -> None:
        """Subscribe to the node's topics.

        Args:
            processes: If one of them ends, every wait ends with an error.
            stop: Setting it ends every wait with an error.
        """
        super().__init__('segzero_demo')
        self._processes = processes
        self._stop = stop or threading.Event()
        self._results: list[dict[str, Any]] = []
        self._by_stamp: dict[tuple[str, int, int], Any] = {}
        self._text = ''
        qos = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
        self._query = self.create_publisher(String, 'segzero/query', qos)
        self._listening = [
            self.create_subscription(kind, f'segzero/{name}', callback, qos)
            for name, kind, callback in (
                ('result', String, self._on_result),
                ('reasoning_stream', String, self._on_piece),
                ('mask', Image, self._keeper('mask')),
                ('overlay', Image, self._keeper('overlay')),
                ('target_point', PointStamped, self._keeper('target_point')),
            )
        ]

    def _on_result(self, message: String) -> None:
        self._results.append(json.loads(message.data))

    def _on_piece(self, message: String) -> None:
        self._text += message.data
        print(message.data, end='', flush=True)

    def _keeper(self, name: str) -> Any:
        def keep(message: Any) -> None:
            stamp = message.header.stamp
            self._by_stamp[name, stamp.sec, stamp.nanosec] = message

        return keep

    def ask(self, query: str) -> DemoResult:
        """Publish ``query`` and wait for its answer.

        Raises:
            DemoError: No result came in time, or the node could not answer.
        """
        self._results.clear()
        self._by_stamp.clear()  # two sentences may be about one frame
        self._text = ''
        self._query.publish(String(data=query))
        self._wait(lambda: bool(self._results), ANSWER_S, f'a result for "{query}"')
        result = self._results[0]
        # The result may arrive before the end of the text, which must not appear under the next
        # sentence. A reasoner may also write its text without tags.
        with contextlib.suppress(DemoError):
            self._wait(lambda: '</answer>' in self._text, REST_S, 'the end of the text')
        if result['status'] != 'ok':
            return DemoResult(result)
        stamp = (result['stamp']['sec'], result['stamp']['nanosec'])
        names = ['mask', 'overlay']
        if result['target'] and result['target']['point_m']:
            names.append('target_point')
        wanted = {name: (name, *stamp) for name in names}
        self._wait(
            lambda: all(key in self._by_stamp for key in wanted.values()),
            PICTURES_S,
            f'{", ".join(names)} of "{query}"',
        )
        found = {name: self._by_stamp[key] for name, key in wanted.items()}
        images = {name: image_to_array(found[name]) for name in ('mask', 'overlay')}
        point = found['target_point'].point if 'target_point' in found else None
        target = None if point is None else np.array([point.x, point.y, point.z])
        return DemoResult(result, images, target)

    def wait_for_node(self) -> None:
        """Wait until the node and this client have discovered each other.

        Raises:
            DemoError: The node does not come up.
        """

        def connected() -> bool:
            return bool(self._query.get_subscription_count()) and all(
                topic.get_publisher_count() for topic in self._listening
            )

        self._wait(connected, START_S, 'the segzero node')

    def wait_for_camera(self) -> None:
        """Wait until the camera has rendered its scene and publishes.

        Raises:
            DemoError: The camera does not come up.
        """
        seen: list[CameraInfo] = []
        camera = self.create_subscription(CameraInfo, 'camera_info', seen.append, 1)
        self._wait(lambda: bool(seen), START_S, 'a frame of the camera')
        self.destroy_subscription(camera)

    def _wait(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if self._stop.is_set():
                raise DemoError('interrupted')
            for process in self._processes:
                if process.poll() is not None:
                    name = program_name(process)
                    raise DemoError(f'{name} ended with exit code {process.returncode}')
            if time.monotonic() > deadline:
                raise DemoError(f'{what} did not come within {seconds:.0f} s')
            rclpy.spin_once(self, timeout_sec=0.1)


def program_name(process: subprocess.Popen[bytes]) -> str:
    """Return the module that a process of the demo runs."""
    assert isinstance(process.args, list)
    return str(process.args[2])
