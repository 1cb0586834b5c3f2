# SPDX-License-Identifier: Apache-2.0
"""A sample bag of a synthetic scene, and a player for machines without ``ros2 bag``.

``segzero_sample_bag write sample`` records what the simulated camera sees, and some sentences;
``segzero_sample_bag play sample`` publishes that again, as ``ros2 bag play sample`` would. Both
go through `rosbags <https://ternaris.gitlab.io/rosbags>`_, which needs no ROS.
"""

from __future__ import annotations

if __name__ == '__main__':  # first: the imports below take seconds
    import sys

    from segzero_ros.programs import segzero_sample_bag

    sys.exit(segzero_sample_bag())

import argparse
import importlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.time import Time
from rclpy.utilities import remove_ros_args
from std_msgs.msg import Header, String

from segzero_core.synthetic import Scene, make_scene, noisy_depth
from segzero_core.types import image_size
from segzero_ros.demo import choose_queries, use_fastdds_profile
from segzero_ros.images import array_to_image
from segzero_ros.ros_context import creating_node, ros_context
from segzero_ros.signals import stop_event
from segzero_ros.sim_camera import SEED, depth_message, info_message

TYPES = {
    '/image': 'sensor_msgs/msg/Image',
    '/depth': 'sensor_msgs/msg/Image',
    '/camera_info': 'sensor_msgs/msg/CameraInfo',
    '/segzero/query': 'std_msgs/msg/String',
}
FRAME_ID = 'camera_color_optical_frame'
START_NS = 1_000_000_000_000  # stamp of the first frame: the same arguments give the same bag
FIRST_QUERY_S = 1.0
BETWEEN_QUERIES_S = 3.0  # long enough for `rules` to answer; a sentence replaces the one before
ACKNOWLEDGE_S = 5.0
# Needed by nothing else; hence imported only where it is used.
MISSING = 'needs rosbags: pip install -r requirements/bag.txt'


class Recorded(NamedTuple):
    """One message of a bag: when it came, where, and as what."""

    stamp_ns: int
    topic: str
    message: Any


def scene_messages(scene: Scene, rate: float) -> Iterator[Recorded]:
    """Yield what a registered RGB-D camera and somebody with a few sentences publish.

    In the order of time: frames of ``/image``, ``/depth`` and ``/camera_info`` with one stamp,
    and the scene's sentences among them. It ends ``BETWEEN_QUERIES_S`` after the last of these.

    Args:
        scene: What the camera looks at.
        rate: Frames per second.
    """
    asked = itertools.count(START_NS + round(1e9 * FIRST_QUERY_S), round(1e9 * BETWEEN_QUERIES_S))
    queries = [
        Recorded(stamp, '/segzero/query', String(data=query.text))
        for query, stamp in zip(choose_queries(scene), asked, strict=False)
    ]
    end = next(asked)
    rng = np.random.default_rng(scene.seed)
    for number in itertools.count():
        stamp = START_NS + round(number * 1e9 / rate)
        while queries and queries[0].stamp_ns <= stamp:
            yield queries.pop(0)
        if stamp > end:
            return
        header = Header(frame_id=FRAME_ID, stamp=Time(nanoseconds=stamp).to_msg())
        info = info_message(header, scene.intrinsics, image_size(scene.image))
        yield Recorded(stamp, '/image', array_to_image(scene.image, 'rgb8', header))
        yield Recorded(stamp, '/depth', depth_message(header, noisy_depth(scene, rng), '16UC1'))
        yield Recorded(stamp, '/camera_info', info)


def write(bag: Path, messages: Iterable[Recorded]) -> None:
    """Write a rosbag2 (mcap, its chunks compressed) that ``ros2 bag`` reads since Jazzy.

    Args:
        bag: The folder to make.
        messages: On the topics of ``TYPES``.

    Raises:
        rosbags.rosbag2.WriterError: ``bag`` exists.
    """
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_JAZZY)
    writer = Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=types)
            for topic, kind in TYPES.items()
        }
        for stamp, topic, message in messages:
            writer.write(connections[topic], stamp, serialize_message(message))


class Player(Node):
    """Publishes what a bag holds, on its topics, which ``--ros-args -r`` may remap."""

    def __init__(self, connections: Iterable[Any], **kwargs: Any) -> None:
        """Create a publisher for each of the bag's connections whose message type is installed.

        All are reliable: they serve best-effort subscribers too. Those recorded as transient
        local (``/tf_static``, maps) are so again.
        """
        from rosbags.interfaces import QosDurability

        super().__init__('segzero_bag_player', **kwargs)
        self._by_id: dict[int, Publisher] = {}
        for connection in connections:
            package, *_, name = connection.msgtype.split('/')
            try:
                kind = getattr(importlib.import_module(f'{package}.msg'), name)
            except (ImportError, AttributeError):
                self.get_logger().warning(
                    f'{connection.topic} is left out: {connection.msgtype} is not installed'
                )
                continue
            qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
            offered = connection.ext.offered_qos_profiles
            if any(each.durability is QosDurability.TRANSIENT_LOCAL for each in offered):
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            self._by_id[connection.id] = self.create_publisher(kind, connection.topic, qos)

    def wait_for_listeners(self, seconds: float, stop: threading.Event) -> None:
        """Wait until every topic is heard; go on with a warning after ``seconds``."""
        deadline = time.monotonic() + seconds
        publishers = self._by_id.values()
        while not stop.is_set():
            alone = [each for each in publishers if not each.get_subscription_count()]
            if not alone:
                return
            if time.monotonic() > deadline:
                names = ', '.join(publisher.topic_name for publisher in alone)
                self.get_logger().warning(f'nobody listens to {names}')
                return
            stop.wait(0.05)

    def publish(self, messages: Iterable[tuple[Any, int, bytes]]) -> None:
        """Publish (connection, time in ns, serialised message), each at once."""
        for connection, _, data in messages:
            if connection.id in self._by_id:
                self._by_id[connection.id].publish(data)
        for publisher in self._by_id.values():
            publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))


def paced(
    messages: Iterable[tuple[Any, int, bytes]],
    rate: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[tuple[Any, int, bytes]]:
    """Yield each message when it is due; what is late comes at once, and delays nothing after it.

    Args:
        messages: (connection, time in ns, data), in the order of time.
        rate: 1 is as fast as recorded, 2 twice as fast.
        clock: Seconds.
        sleep: Sleeps so many seconds.
    """
    began, first = clock(), None
    for item in messages:
        first = item[1] if first is None else first
        pause = began + (item[1] - first) / 1e9 / rate - clock()
        if pause > 0:
            sleep(pause)
        yield item


def play(bag: Path, rate: float, wait_s: float, ros_args: Sequence[str] = ()) -> bool:
    """Publish a rosbag2 (mcap or sqlite3) with the timing it was recorded with.

    Initialises ROS for as long as that takes.

    Args:
        bag: The folder, or an mcap file.
        rate: 1 is as fast as recorded.
        wait_s: Longest time to wait for subscribers before it begins.
        ros_args: For ``rclpy.init``.

    Returns:
        Whether it came to the end: SIGINT and SIGTERM stop it.

    Raises:
        rosbags.rosbag2.ReaderError: ``bag`` is no bag.
    """
    from rosbags.rosbag2 import Reader

    stop = stop_event()
    with Reader(bag) as reader:
        use_fastdds_profile()  # this process takes the place of a camera
        with ros_context([*ros_args]):
            with creating_node():
                player = Player(reader.connections)
            player.wait_for_listeners(wait_s, stop)
            messages = paced(reader.messages(), rate, sleep=stop.wait)
            player.publish(itertools.takewhile(lambda _: not stop.is_set(), messages))
            player.destroy_node()
    return not stop.is_set()


def positive(text: str) -> float:
    """Return the number above zero that ``text`` is.

    Raises:
        ValueError: It is none.
    """
    number = float(text)
    if not 0 < number < float('inf'):
        raise ValueError(text)
    return number


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog='segzero_sample_bag', description=__doc__)
    actions = parser.add_subparsers(dest='action', required=True)
    writing = actions.add_parser('write', help='write a bag of a synthetic scene')
    writing.add_argument('--seed', type=int, default=SEED, help='which tabletop scene')
    writing.add_argument('--rate', type=positive, default=2.0, help='frames per second')
    playing = actions.add_parser('play', help='publish what a bag holds')
    playing.add_argument('--rate', type=positive, default=1.0, help='2 is twice as fast')
    playing.add_argument(
        '--wait', type=positive, default=30.0, help='longest wait for subscribers, seconds'
    )
    for action in (writing, playing):
        action.add_argument('bag', type=Path, help='the folder')
    return parser.parse_args(arguments)


def main(args: Sequence[str] | None = None) -> int:
    """Write or play a bag; 0 if that worked."""
    arguments = sys.argv if args is None else ['segzero_sample_bag', *args]
    options = parse(remove_ros_args(args=arguments)[1:])
    try:
        from rosbags.rosbag2 import ReaderError, WriterError
    except ModuleNotFoundError:
        print(f'segzero_sample_bag: {MISSING}', file=sys.stderr)
        return 2
    try:
        if options.action == 'write':
            write(options.bag, scene_messages(make_scene(options.seed), options.rate))
        else:
            ended = play(options.bag, options.rate, options.wait, arguments)
            return 0 if ended else 1
    except (ReaderError, WriterError, OSError) as error:
        print(f'segzero_sample_bag: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while it writes
        return 1
    return 0
