# SPDX-License-Identifier: Apache-2.0
"""The cost of the node without its models, compared with a bare rclpy node.

    python benchmarks/node.py [--queries 200] [--frames 2000] [--json FILE]

Three figures:

overhead
    Time from a sentence to all outputs (mask, reasoning, pixels and result) with engines that
    answer immediately, and CPU time per camera frame. The comparison is a bare rclpy node that
    publishes the same messages. Both run as separate processes and are asked in turn, each time
    about a new frame. Sizes are VGA and 1080p; at 1080p the difference to the bare node is given
    per megapixel.
frame age
    Age of the frame when inference starts, with a 30 Hz camera and a model that takes 1 s:
    measured from the arrival in the node, and from the camera's stamp (which includes DDS).
memory
    Resident memory of the node over many frames with regular queries. The slope is that of a line
    through the second half, which shows a leak.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Point32, Polygon, PolygonStamped
from harness import (
    BEST_EFFORT,
    LONG_S,
    Peer,
    cpu_seconds,
    own_domain,
    process,
    random_picture,
    resident_megabytes,
    serve_node,
    steadily,
    wait_for,
)
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String

from segzero_ros.images import array_to_image

HD = (1080, 1920)
REST_S = 0.05  # between a frame and its sentence, because a large frame takes time to arrive
OUTPUTS = {'mask': Image, 'reasoning': String, 'target_pixels': PolygonStamped, 'result': String}


class BareNode(Node):
    """The smallest node that receives and publishes the same messages."""

    def __init__(self) -> None:
        super().__init__('segzero')
        self._image: Image | None = None
        self._outputs = {
            name: self.create_publisher(kind, f'~/{name}', 10) for name, kind in OUTPUTS.items()
        }
        self._masks: dict[tuple[int, int], Any] = {}
        self.create_subscription(Image, 'image', self._on_image, BEST_EFFORT)
        self.create_subscription(String, '~/query', self._on_query, 10)

    def _on_image(self, message: Image) -> None:
        self._image = message

    def _on_query(self, message: String) -> None:
        assert self._image is not None
        header, size = self._image.header, (self._image.height, self._image.width)
        mask = self._masks.setdefault(size, np.zeros(size, np.uint8))
        polygon = Polygon(points=[Point32(x=320.0, y=240.0), Point32(x=240.0, y=240.0)])
        result = {'query': message.data, 'status': 'ok', 'stamp': {'sec': header.stamp.sec}}
        self._outputs['mask'].publish(array_to_image(mask, 'mono8', header))
        self._outputs['target_pixels'].publish(PolygonStamped(header=header, polygon=polygon))
        self._outputs['reasoning'].publish(String(data='It is the red one.'))
        self._outputs['result'].publish(String(data=json.dumps(result)))


class Client(Peer):
    """The camera, and the client that asks both nodes."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.picture = random_picture()
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

    def _keeper(self, got: dict[str, Any], output: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            got[output] = message
            if len(got) == len(OUTPUTS):
                self._complete.set()

        return keep

    def wait_for_nodes(self) -> None:
        """Wait until the topics of every node are connected in both directions."""
        publishers = [*self._cameras.values(), *self._queries.values()]
        wait_for(
            lambda: (
                all(p.get_subscription_count() for p in publishers)
                and all(
                    s.get_publisher_count() for s in self.subscriptions if 'segzero' in s.topic
                )
            ),
            'the nodes',
        )

    def show(self, name: str) -> None:
        """Publish a frame with the current time; no two frames are equal."""
        self.picture.header.stamp = self.get_clock().now().to_msg()
        for i, byte in enumerate(self.published.to_bytes(4, 'little')):
            self.picture.data[i] = byte
        self._cameras[name].publish(self.picture)
        self.published += 1

    def ask(self, name: str, sentence: str) -> tuple[float, dict[str, Any]]:
        """Return the seconds until all outputs for a sentence have arrived, and the result."""
        self._got[name].clear()
        self._complete.clear()
        start = time.perf_counter()
        self._queries[name].publish(String(data=sentence))
        if not self._complete.wait(LONG_S):
            sys.exit(f'{name} did not answer; it published {sorted(self._got[name])}')
        seconds = time.perf_counter() - start
        return seconds, json.loads(self._got[name]['result'].data)


def serve(kind: str, arguments: list[str]) -> int:
    """Run as one of the two nodes."""
    if kind == 'node':
        return serve_node(arguments, 'harness:InstantReasoner', 'harness:InstantSegmenter')
    rclpy.init(args=arguments)
    with contextlib.suppress(KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        rclpy.spin(BareNode())
    return 0


@contextlib.contextmanager
def camera(client: Client, name: str, rate: float) -> Iterator[None]:
    """Publish frames at a constant rate."""
    with steadily(rate, lambda: client.show(name)):
        yield


def measure_latency(client: Client, names: list[str], queries: int) -> dict[str, Any]:
    """Ask both nodes in turn, each about a new frame."""
    latency: dict[str, list[float]] = {name: [] for name in names}
    for i in range(queries + 10):
        for name in names:
            client.show(name)
            time.sleep(REST_S)
            seconds, _ = client.ask(name, f'query {i}')
            if i >= 10:  # the first queries include lazy imports
                latency[name].append(seconds)
    return {f'{n}_ms': 1000 * statistics.median(values) for n, values in latency.items()}


def measure_overhead(client: Client, pids: dict[str, int], queries: int) -> dict[str, Any]:
    """Ask both nodes about frames of two sizes; then let each one receive frames for a while."""
    for name in pids:
        with camera(client, name, 30.0):  # DDS may lose the very first frames
            time.sleep(1.0)
    result = measure_latency(client, list(pids), queries)
    for name, pid in pids.items():
        before, frames = cpu_seconds(pid), client.published
        with camera(client, name, 30.0):
            time.sleep(10.0)
        used = cpu_seconds(pid) - before
        result[f'{name}_cpu_ms_per_frame'] = 1000 * used / (client.published - frames)
    small, client.picture = client.picture, random_picture(HD)
    for name, value in measure_latency(client, list(pids), queries // 2).items():
        result[f'hd_{name}'] = value
    client.picture = small
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
    """Publish frames at 60 Hz, ask about every tenth, and record the resident memory."""
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
    with (
        process(__file__, 'bare', namespace='bare') as bare,
        process(__file__, 'node', namespace='node') as node,
    ):
        client = Client(['bare', 'node'])
        client.wait_for_nodes()
        pids = {'bare': bare.pid, 'node': node.pid}
        figures = {
            'overhead': measure_overhead(client, pids, queries),
            'frame_age': measure_frame_age(client, 20),
            'memory': measure_memory(client, node.pid, frames),
        }
        client.close()
    return figures


def print_table(figures: dict[str, Any]) -> None:
    """Print the results."""
    overhead, age, memory = figures['overhead'], figures['frame_age'], figures['memory']
    print(f'{"":<34}{"bare":>9}{"node":>9}{"ratio":>8}')
    for label, bare, node in (
        ('VGA: sentence to all outputs, ms', 'bare_ms', 'node_ms'),
        ('VGA: CPU per frame, ms', 'bare_cpu_ms_per_frame', 'node_cpu_ms_per_frame'),
        ('1080p: sentence to all outputs, ms', 'hd_bare_ms', 'hd_node_ms'),
    ):
        ratio = overhead[node] / overhead[bare]
        print(f'{label:<34}{overhead[bare]:9.2f}{overhead[node]:9.2f}{ratio:8.2f}')
    beyond = (overhead['hd_node_ms'] - overhead['hd_bare_ms']) / (HD[0] * HD[1] / 1e6)
    print(f'1080p beyond the bare node: {beyond:.2f} ms per megapixel')
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
    with own_domain():
        figures = measure(options.queries, options.frames)
    print_table(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
