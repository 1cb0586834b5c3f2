# SPDX-License-Identifier: Apache-2.0
"""Helpers of the node benchmarks: processes on a separate ROS domain, and a client.

The node runs with engines that answer immediately, so the benchmarks measure only the node.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import domain_coordinator
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from segzero_core.answers.parse import Answer, format_answer
from segzero_core.prompts import get_family
from segzero_core.reasoners import REASONERS, Reply
from segzero_core.registry import EngineEntry
from segzero_core.segmenters import SEGMENTERS, MaskResult
from segzero_core.task import Task
from segzero_core.types import Box, Point
from segzero_ros.images import array_to_image

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (480, 640)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# A subscriber that counts messages must not lose messages while it sleeps.
MANY = QoSProfile(depth=5000, reliability=ReliabilityPolicy.RELIABLE)
LONG_S = 60.0


class InstantReasoner:
    """Answers immediately, or after a delay that the sentence gives: ``take 0.5 s``."""

    def __init__(self) -> None:
        self.task = Task(family=get_family('json'))

    def reason(
        self,
        image: Any,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reply:
        """Answer with the time of the call, and always with the same box and points."""
        asked = time.time()
        if query.startswith('take '):
            time.sleep(float(query.split()[1]))
        points = (Point(420, 420), Point(315, 420))
        found = Answer(Box(210, 210, 630, 630), points, f'{asked:.6f}', ())
        return Reply(format_answer(found), 'stop')

    def close(self) -> None:
        """Nothing to free."""


class InstantSegmenter:
    """Returns a constant mask, which is cached per image size."""

    embeds_at_once = True

    def __init__(self) -> None:
        self._masks: dict[tuple[int, int], Any] = {}

    def embed(self, image: Any) -> tuple[int, int]:
        """Return the size of the image."""
        height, width = image.shape[:2]
        if (height, width) not in self._masks:
            mask = self._masks[height, width] = np.zeros((height, width), bool)
            mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
        return height, width

    def segment(self, embedding: tuple[int, int], box: Box, points: Any) -> MaskResult:
        """Return the mask."""
        return MaskResult(self._masks[embedding], 1.0)

    def close(self) -> None:
        """Nothing to free."""


class Peer(Node):
    """A client node of the benchmark, which spins in a thread."""

    def __init__(self, name: str = 'benchmark') -> None:
        super().__init__(name)
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)
        self._thread = threading.Thread(target=self._spinner.spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the graph."""
        self._spinner.shutdown()
        self._thread.join()
        self.destroy_node()

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service and return its response."""
        client = self.create_client(kind, name)
        try:
            wait_for(client.service_is_ready, f'service {name}')
            reply = client.call_async(request)
            wait_for(reply.done, f'a reply of {name}', pause=0.0005)
            return reply.result()
        finally:
            self.destroy_client(client)


def wait_for(ready: Callable[[], Any], what: str, pause: float = 0.005) -> Any:
    """Wait until ``ready`` returns a true value and return it; end the benchmark on timeout."""
    deadline = time.monotonic() + LONG_S
    while not (value := ready()):
        if time.monotonic() > deadline:
            sys.exit(f'{what} did not come within {LONG_S:.0f} s')
        time.sleep(pause)
    return value


def random_picture(shape: tuple[int, int] = SHAPE) -> Image:
    """Return a frame of noise, (height, width) pixels, in the frame ``camera``."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    return array_to_image(pixels, 'rgb8', Header(frame_id='camera'))


@contextlib.contextmanager
def steadily(rate: float, work: Callable[[], None]) -> Iterator[None]:
    """Call a function ``rate`` times per second in a thread."""
    ended = threading.Event()

    def loop() -> None:
        due = time.monotonic()
        while not ended.is_set():
            work()
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def own_domain() -> Iterator[None]:
    """Isolate this process and its children in DDS, with buffers large enough for images."""
    profile = str(ROOT / 'config' / 'fastdds.xml')
    old_ros = os.environ.get('ROS_DISTRO') in ('humble', 'jazzy')
    name = 'FASTRTPS_DEFAULT_PROFILES_FILE' if old_ros else 'FASTDDS_DEFAULT_PROFILES_FILE'
    os.environ[name] = profile
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    with domain_coordinator.domain_id() as domain:
        os.environ['ROS_DOMAIN_ID'] = str(domain)
        rclpy.init(args=[])
        yield
        rclpy.try_shutdown()


@contextlib.contextmanager
def process(
    script: str,
    kind: str,
    *parameters: str,
    namespace: str = '',
    log: TextIO | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``script --serve kind`` in a process, and end the process with SIGINT.

    Args:
        script: Path of the benchmark.
        kind: Role of the process.
        parameters: Parameters of the node, ``name:=value``.
        namespace: Namespace of the node.
        log: Receives the output of the process.
    """
    words = [word for parameter in parameters for word in ('-p', parameter)]
    remap = ['-r', f'__ns:=/{namespace}'] if namespace else []
    arguments = ['--ros-args', *remap, *words, '--log-level', 'warn']
    running = subprocess.Popen(
        [sys.executable, script, '--serve', kind, *arguments],
        stdout=log,
        stderr=log,
    )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)  # has no effect if the process has ended
        running.wait(timeout=20)


def serve_node(arguments: list[str], reasoner: str, segmenter: str, autostart: bool = True) -> int:
    """Run as the segzero node, with two engines of a benchmark: ``module:Class``."""
    from segzero_ros.node import main

    REASONERS['benchmark'] = EngineEntry(reasoner, 'core')
    SEGMENTERS['benchmark'] = EngineEntry(segmenter, 'core')
    given = ['reasoner.engine:=benchmark', 'segmenter.engine:=benchmark']
    if autostart:
        given.append('autostart:=true')
    return main([*arguments, '--ros-args', *(word for p in given for word in ('-p', p))])


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used."""
    fields = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def shared_megabytes(pid: int) -> float:
    """Return the part of the resident memory that is shared with other processes (Fast DDS)."""
    (line,) = (
        line
        for line in Path(f'/proc/{pid}/status').read_text().splitlines()
        if line.startswith('RssShmem:')
    )
    return int(line.split()[1]) / 2**10
