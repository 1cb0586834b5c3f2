# SPDX-License-Identifier: Apache-2.0
"""What the node costs besides its models, measured against the bare minimum.

    python benchmarks/node.py [--queries 200] [--frames 2000] [--json FILE]

Three figures:

overhead
    Time from a sentence to its mask, reasoning, pixels and result, with engines that answer at
    once, and CPU time per camera frame. Compared with a bare rclpy node that publishes the same
    messages, in the same run: both are processes of their own and are asked in turn.
frame age
    How old the frame is when inference starts, with a 30 Hz camera and a model that takes 1 s:
    since the node received it, and since the camera stamped it (what DDS takes is in that).
memory
    Resident memory of the node over many frames and a query every few of them. The slope is that
    of a line through the second half: what a leak would go on with.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import domain_coordinator
import numpy as np
import rclpy
from geometry_msgs.msg import Point32, Polygon, PolygonStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from segzero_core.answer import Answer, format_answer
from segzero_core.prompts import get_family
from segzero_core.reasoners import REASONERS
from segzero_core.registry import Engine
from segzero_core.segmenters import SEGMENTERS, MaskResult
from segzero_core.types import Box, Point
from segzero_ros.images import array_to_image

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (480, 640)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
OUTPUTS = {'mask': Image, 'reasoning': String, 'target_pixels': PolygonStamped, 'result': String}
LONG_S = 60.0


class InstantReasoner:
    """Answers at once, or after the seconds that stand in the sentence."""

    def __init__(self) -> None:
        self.family = get_family('json')

    def reason(
        self,
        image: Any,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> str:
        """Answer with the time it was asked; always the same box and points."""
        asked = time.time()
        if query.startswith('take '):
            time.sleep(float(query.split()[1]))
        points = (Point(420, 420), Point(315, 420))
        return format_answer(Answer(Box(210, 210, 630, 630), points, f'{asked:.6f}', ()))

    def close(self) -> None:
        """Nothing to free."""


class InstantSegmenter:
    """Returns a mask that is ready."""

    def __init__(self) -> None:
        self._mask = np.zeros(SHAPE, bool)
        self._mask[120:360, 160:480] = True

    def embed(self, image: Any) -> None:
        """Nothing to do."""

    def segment(self, embedding: None, box: Box, points: Any) -> MaskResult:
        """Return the mask."""
        return MaskResult(self._mask, 1.0)

    def close(self) -> None:
        """Nothing to free."""


class BareNode(Node):
    """The least that can take the same messages and publish the same."""

    def __init__(self) -> None:
        super().__init__('segzero')
        self._image: Image | None = None
        self._outputs = {
            name: self.create_publisher(kind, f'~/{name}', 10) for name, kind in OUTPUTS.items()
        }
        self._mask = np.zeros(SHAPE, np.uint8)
        self.create_subscription(Image, 'image', self._on_image, BEST_EFFORT)
        self.create_subscription(String, '~/query', self._on_query, 10)

    def _on_image(self, message: Image) -> None:
        self._image = message

    def _on_query(self, message: String) -> None:
        assert self._image is not None
        header = self._image.header
        polygon = Polygon(points=[Point32(x=320.0, y=240.0), Point32(x=240.0, y=240.0)])
        result = {'query': message.data, 'status': 'ok', 'stamp': {'sec': header.stamp.sec}}
        self._outputs['mask'].publish(array_to_image(self._mask, 'mono8', header))
        self._outputs['target_pixels'].publish(PolygonStamped(header=header, polygon=polygon))
        self._outputs['reasoning'].publish(String(data='It is the red one.'))
        self._outputs['result'].publish(String(data=json.dumps(result)))


class Client(Node):
    """The camera, and the person who asks both nodes."""

    def __init__(self, names: list[str]) -> None:
        super().__init__('benchmark')
        pixels = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
        self._picture = array_to_image(pixels, 'rgb8', Header(frame_id='camera'))
        self.published = 0
        self._cameras = {n: self.create_publisher(Image, f'/{n}/image', 1) for n in names}
        self._queries = {
            n: self.create_publisher(String, f'/{n}/segzero/query', 10) for n in names
        }
        self._got: dict[str, dict[str, Any]] = {n: {} for n in names}
        self._complete = threading.Event()
        for name in names:
            for output, kind in OUTPUTS.items():
                keep = self._keeper(self._got[name], output)
                self.create_subscription(kind, f'/{name}/segzero/{output}', keep, 10)
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)
        self._thread = threading.Thread(target=self._spinner.spin)
        self._thread.start()

    def _keeper(self, got: dict[str, Any], output: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            got[output] = message
            if len(got) == len(OUTPUTS):
                self._complete.set()

        return keep

    def close(self) -> None:
        """Leave the graph."""
        self._spinner.shutdown()
        self._thread.join()
        self.destroy_node()

    def wait_for_nodes(self) -> None:
        """Wait until every node hears and is heard."""
        deadline = time.monotonic() + LONG_S
        publishers = [*self._cameras.values(), *self._queries.values()]
        while not (
            all(p.get_subscription_count() for p in publishers)
            and all(s.get_publisher_count() for s in self.subscriptions if 'segzero' in s.topic)
        ):
            if time.monotonic() > deadline:
                sys.exit('the nodes did not come up')
            time.sleep(0.05)

    def show(self, name: str) -> None:
        """Publish a frame with the time of now."""
        self._picture.header.stamp = self.get_clock().now().to_msg()
        self._cameras[name].publish(self._picture)
        self.published += 1

    def ask(self, name: str, sentence: str) -> tuple[float, dict[str, Any]]:
        """Return the seconds until everything about a sentence has come, and the result."""
        self._got[name].clear()
        self._complete.clear()
        start = time.perf_counter()
        self._queries[name].publish(String(data=sentence))
        if not self._complete.wait(LONG_S):
            sys.exit(f'{name} did not answer; it published {sorted(self._got[name])}')
        seconds = time.perf_counter() - start
        return seconds, json.loads(self._got[name]['result'].data)


@contextlib.contextmanager
def process(kind: str) -> Iterator[int]:
    """Run one of the nodes; yield its process id."""
    arguments = ['--serve', kind, '--ros-args', '-r', f'__ns:=/{kind}', '--log-level', 'warn']
    running = subprocess.Popen([sys.executable, __file__, *arguments])
    try:
        yield running.pid
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(timeout=20)


def serve(kind: str, arguments: list[str]) -> int:
    """Be one of the two nodes."""
    if kind == 'node':
        from segzero_ros.node import main

        REASONERS['instant'] = Engine('__main__:InstantReasoner', 'core')
        SEGMENTERS['instant'] = Engine('__main__:InstantSegmenter', 'core')
        parameters = ('autostart:=true', 'reasoner.engine:=instant', 'segmenter.engine:=instant')
        return main([*arguments, *(word for p in parameters for word in ('-p', p))])
    rclpy.init(args=arguments)
    with contextlib.suppress(KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        rclpy.spin(BareNode())
    return 0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used."""
    fields = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


@contextlib.contextmanager
def camera(client: Client, name: str, rate: float) -> Iterator[None]:
    """Show frames at a steady rate."""
    ended = threading.Event()

    def show() -> None:
        due = time.monotonic()
        while not ended.is_set():
            client.show(name)
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measure_overhead(client: Client, pids: dict[str, int], queries: int) -> dict[str, Any]:
    """Ask both nodes in turn, each after a frame of its own; then let each watch for a while."""
    latency: dict[str, list[float]] = {name: [] for name in pids}
    for name in pids:
        with camera(client, name, 30.0):  # DDS may lose the very first frames
            time.sleep(1.0)
    for i in range(queries + 10):
        for name in pids:
            client.show(name)
            time.sleep(0.02)
            seconds, _ = client.ask(name, f'query {i}')
            if i >= 10:  # the first ones load what is loaded lazily
                latency[name].append(seconds)
    result = {f'{n}_ms': 1000 * statistics.median(values) for n, values in latency.items()}
    result['ratio'] = result['node_ms'] / result['bare_ms']
    for name, pid in pids.items():
        before, frames = cpu_seconds(pid), client.published
        with camera(client, name, 30.0):
            time.sleep(10.0)
        used = cpu_seconds(pid) - before
        result[f'{name}_cpu_ms_per_frame'] = 1000 * used / (client.published - frames)
    return result


def measure_frame_age(client: Client, queries: int) -> dict[str, Any]:
    """Ask a 1 s model while the camera runs at 30 Hz."""
    received, stamped = [], []
    with camera(client, 'node', 30.0):
        time.sleep(1.0)
        for i in range(queries):
            time.sleep(0.0037 * i)  # at every phase of the camera
            _, result = client.ask('node', 'take 1.0 s')
            stamp = result['stamp']['sec'] + 1e-9 * result['stamp']['nanosec']
            received.append(1000 * result['timings']['frame_age'])
            stamped.append(1000 * (float(result['reasoning']) - stamp))
    return {
        'since_received_ms': [statistics.median(received), max(received)],
        'since_stamped_ms': [statistics.median(stamped), max(stamped)],
        'period_ms': 1000 / 30,
    }


def measure_memory(client: Client, pid: int, frames: int) -> dict[str, Any]:
    """Show frames as at 60 Hz, ask every tenth, and watch the resident memory."""
    samples = []
    for i in range(frames):
        client.show('node')
        if i % 10 == 0:
            client.ask('node', f'query {i}')
        time.sleep(1 / 60)
        if i % max(frames // 20, 1) == 0:
            samples.append(resident_megabytes(pid))
    samples.append(resident_megabytes(pid))
    late = samples[len(samples) // 2 :]
    per_sample = float(np.polyfit(np.arange(len(late)), late, 1)[0])
    return {
        'frames': frames,
        'samples_mb': samples,
        'slope_kb_per_frame': 1024 * per_sample / max(frames // 20, 1),
    }


def measure(queries: int, frames: int) -> dict[str, Any]:
    """Run both nodes and measure everything."""
    with process('bare') as bare, process('node') as node:
        rclpy.init(args=[])
        client = Client(['bare', 'node'])
        client.wait_for_nodes()
        figures = {
            'overhead': measure_overhead(client, {'bare': bare, 'node': node}, queries),
            'frame_age': measure_frame_age(client, 20),
            'memory': measure_memory(client, node, frames),
        }
        client.close()
        rclpy.shutdown()
    return figures


def print_table(figures: dict[str, Any]) -> None:
    """Print what was measured."""
    overhead, age, memory = figures['overhead'], figures['frame_age'], figures['memory']
    print(f'{"VGA frame":<34}{"bare":>9}{"node":>9}{"ratio":>8}')
    for label, name in (
        ('sentence to all outputs, ms', 'ms'),
        ('CPU per frame, ms', 'cpu_ms_per_frame'),
    ):
        bare, node = overhead[f'bare_{name}'], overhead[f'node_{name}']
        print(f'{label:<34}{bare:9.2f}{node:9.2f}{node / bare:8.2f}')
    print(f'frame age when inference starts (30 Hz, period {age["period_ms"]:.1f} ms; 1 s model):')
    for label in ('received', 'stamped'):
        median, most = age[f'since_{label}_ms']
        print(f'  since it was {label:<9} median {median:6.1f} ms, max {most:6.1f} ms')
    samples = memory['samples_mb']
    print(
        f'resident memory over {memory["frames"]} frames: {samples[0]:.1f} MB at first, '
        f'{samples[len(samples) // 2]:.1f} MB half way, {samples[-1]:.1f} MB at the end; '
        f'{memory["slope_kb_per_frame"]:+.2f} KB per frame in the second half'
    )


def main() -> int:
    """Run the benchmark."""
    if sys.argv[1:2] == ['--serve']:
        return serve(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--queries', type=int, default=200, help='per node')
    parser.add_argument('--frames', type=int, default=2000, help='to watch the memory over')
    parser.add_argument('--json', type=Path, help='write the figures to this file, too')
    options = parser.parse_args()
    profile = str(ROOT / 'config' / 'fastdds.xml')
    os.environ['FASTDDS_DEFAULT_PROFILES_FILE'] = profile
    os.environ['FASTRTPS_DEFAULT_PROFILES_FILE'] = profile
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    with domain_coordinator.domain_id() as domain:
        os.environ['ROS_DOMAIN_ID'] = str(domain)
        figures = measure(options.queries, options.frames)
    print_table(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
