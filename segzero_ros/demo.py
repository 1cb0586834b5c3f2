# SPDX-License-Identifier: Apache-2.0
"""The demo: a simulated camera and the node as processes of their own, and three sentences.

This process is a third one, an ordinary client: it publishes sentences, prints the reasoning as
it comes, saves the overlays and compares mask and target with the scene's exact geometry.
"""

from __future__ import annotations

if __name__ == '__main__':  # first: the imports below take seconds
    import sys

    from segzero_ros.programs import segzero_demo

    sys.exit(segzero_demo())

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PointStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from segzero_core.errors import SegZeroError
from segzero_core.image_writer import write_image
from segzero_core.metrics.masks import giou, overlap
from segzero_core.synthetic import Query, Scene, make_scene
from segzero_ros.images import image_to_array
from segzero_ros.paths import config_file, use_fastdds_profile
from segzero_ros.ros_context import creating_node, ros_context
from segzero_ros.signals import stop_event
from segzero_ros.sim_camera import SEED

CONFIGS = {'tiny': 'demo.yaml', 'rules': 'demo_rules.yaml'}
KINDS = ('attribute', 'relation', 'function')  # one sentence of each
START_S = 60.0  # for the node to load its models and the processes to find each other
ANSWER_S = 120.0
REST_S = 2.0  # for the end of a text whose answer is already there


class DemoError(SegZeroError):
    """The demo cannot go on; the message says what did not come."""


@dataclass
class DemoResult:
    """Everything the node published about one sentence."""

    result: dict[str, Any]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    target: np.ndarray | None = None  # (3,) metres, camera optical frame


class Client(Node):
    """Asks one sentence at a time and gathers what comes back, joined by the frame's stamp."""

    def __init__(
        self, processes: Sequence[subprocess.Popen[bytes]], stop: threading.Event | None = None
    ) -> None:
        """Connect; while waiting, ``processes`` must all keep running, and ``stop`` not be set."""
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
        # Topics overtake one another: what is still to come must not end up under the next one.
        with contextlib.suppress(DemoError):  # a reasoner may write at once, or without tags
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
            10.0,
            f'{", ".join(names)} of "{query}"',
        )
        found = {name: self._by_stamp[key] for name, key in wanted.items()}
        images = {name: image_to_array(found[name]) for name in ('mask', 'overlay')}
        point = found['target_point'].point if 'target_point' in found else None
        target = None if point is None else np.array([point.x, point.y, point.z])
        return DemoResult(result, images, target)

    def wait_for_node(self) -> None:
        """Wait until the node listens and is heard.

        Raises:
            DemoError: It does not come up.
        """

        def connected() -> bool:
            return bool(self._query.get_subscription_count()) and all(
                topic.get_publisher_count() for topic in self._listening
            )

        self._wait(connected, START_S, 'the segzero node')

    def wait_for_camera(self) -> None:
        """Wait until the camera has rendered its scene and publishes.

        Raises:
            DemoError: It does not.
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
                    raise DemoError(f'{process.args!r} ended with code {process.returncode}')
            if time.monotonic() > deadline:
                raise DemoError(f'{what} did not come within {seconds:.0f} s')
            rclpy.spin_once(self, timeout_sec=0.1)


@dataclass(frozen=True)
class DemoCheck:
    """One line of the closing table."""

    query: Query
    status: str
    iou: float
    distance_mm: float  # target point to the exact surface; NaN without a target
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the right thing was found and a point on it."""
        return self.status == 'ok' and self.iou > 0.5 and self.distance_mm < 20.0


def ask_all(client: Client, scene: Scene, queries: list[Query], folder: Path) -> list[DemoCheck]:
    """Ask every query, print and save what comes, and compare with the exact scene."""
    rows = []
    for number, query in enumerate(queries, start=1):
        print(f'\n> {query.text}', flush=True)
        answer = client.ask(query.text)
        status = answer.result['status']
        iou = distance = math.nan
        if status == 'ok':
            mask = answer.images['mask'] > 0
            iou = giou([overlap(mask, scene.mask(query.target))])
            if answer.target is not None:
                distance = 1000 * scene.surface_distance(query.target, answer.target)
            picture = folder / f'{number}.png'
            write_image(picture, answer.images['overlay'])
            print(f'\n  -> {picture}')
        else:
            print(f'\n  -> {answer.result["error"] or status}')
        seconds = answer.result['timings'].get('total', math.nan)
        rows.append(DemoCheck(query, status, iou, distance, seconds))
    return rows


def print_table(rows: list[DemoCheck]) -> None:
    """Print one line per query: how well the mask and the target point fit the exact scene."""
    width = max(len(row.query.text) for row in rows)
    print(f'\n{"query":<{width}}  {"kind":<10} {"status":<8} {"IoU":>5} {"target":>8} {"time":>7}')
    for row in rows:
        print(
            f'{row.query.text:<{width}}  {row.query.kind:<10} {row.status:<8} {row.iou:5.2f} '
            f'{row.distance_mm:5.1f} mm {row.seconds:5.2f} s'
        )


def choose_queries(scene: Scene) -> list[Query]:
    """Return the scene's first sentence of each of ``KINDS``; not every scene has them all."""
    queries = scene.queries()
    return [query for kind in KINDS for query in [q for q in queries if q.kind == kind][:1]]


@contextlib.contextmanager
def running(*commands: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run commands as processes for as long as the block runs; then interrupt them."""
    processes = [subprocess.Popen(command) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> int:
    """Run the demo; 0 if every query was answered right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=SEED, help='which tabletop scene')
    parser.add_argument(
        '--reasoner',
        choices=CONFIGS,
        default='tiny',
        help='the embedded models, or rules and GrabCut, which need no torch (default: tiny)',
    )
    parser.add_argument('--params-file', type=Path, help='parameters, instead of --reasoner')
    parser.add_argument('-o', '--output', type=Path, default=Path('demo'), help='folder')
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    use_fastdds_profile()
    scene = make_scene(options.seed)
    queries = choose_queries(scene)
    params_file = options.params_file or config_file(CONFIGS[options.reasoner])
    ros = ['--ros-args', '--log-level', 'warn', '--params-file', str(params_file)]
    camera = [sys.executable, '-m', 'segzero_ros.sim_camera', *ros, '-p', f'seed:={options.seed}']
    node = [sys.executable, '-m', 'segzero_ros.node', *ros, '-p', 'autostart:=true']
    if shutil.which('ros2'):
        print('The same with the ROS tools: ros2 launch segzero_ros demo.launch.py')
    stop = stop_event()
    with running(camera, node) as processes, ros_context([]):
        with creating_node():
            client = Client(processes, stop)
        try:
            client.wait_for_camera()
            client.wait_for_node()
            rows = ask_all(client, scene, queries, options.output)
        except DemoError:
            if not stop.exit_code:
                raise
            return stop.exit_code
        finally:
            client.destroy_node()
    print_table(rows)
    return 0 if all(row.passed for row in rows) else 1
