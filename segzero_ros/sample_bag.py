# SPDX-License-Identifier: Apache-2.0
"""A sample bag of a synthetic scene, and a player for machines without ``ros2 bag``.

``segzero_sample_bag write sample`` records the simulated camera and some sentences;
``segzero_sample_bag play sample`` publishes that again, as ``ros2 bag play sample`` would. Both
go through `rosbags <https://ternaris.gitlab.io/rosbags>`_, which needs no ROS.
"""

from __future__ import annotations

if __name__ == '__main__':  # first: the imports below take seconds
    import sys

    from segzero_ros.programs import segzero_sample_bag

    sys.exit(segzero_sample_bag())

import argparse
import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rclpy.serialization import serialize_message
from rclpy.time import Time
from std_msgs.msg import Header, String

from segzero_core.errors import BagError
from segzero_core.runtime.arguments import ArgumentParser, positive
from segzero_core.runtime.program import one_line
from segzero_core.synthetic import Scene, make_scene, noisy_depth
from segzero_core.types import image_size
from segzero_ros.bag_player import play
from segzero_ros.demo import choose_queries
from segzero_ros.images import array_to_image
from segzero_ros.ros_context import program_arguments
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
# Imported only where it is used, because nothing else needs it.
MISSING = 'needs rosbags: pip install -r requirements/bag.txt'


class Recorded(NamedTuple):
    """One message of a bag: its time, its topic, and the message."""

    stamp_ns: int
    topic: str
    message: Any


def scene_messages(scene: Scene, rate: float) -> Iterator[Recorded]:
    """Yield the messages of a registered RGB-D camera and of somebody who asks a few sentences.

    Frames of ``/image``, ``/depth`` and ``/camera_info`` with one stamp, and the scene's sentences
    among them, in the order of time. The last frame comes ``BETWEEN_QUERIES_S`` after the last
    sentence.

    Args:
        scene: The scene that the camera sees.
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

    A bag that is not finished, for whatever reason, is removed.

    Args:
        bag: The folder to make.
        messages: On the topics of ``TYPES``.

    Raises:
        BagError: ``bag`` exists, or it cannot be written.
    """
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    if bag.exists():
        raise BagError(f'{bag} exists already: choose another name, or remove it')
    types = get_typestore(Stores.ROS2_JAZZY)
    try:
        writer = Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writer:
            connections = {
                topic: writer.add_connection(topic, kind, typestore=types)
                for topic, kind in TYPES.items()
            }
            for stamp, topic, message in messages:
                writer.write(connections[topic], stamp, serialize_message(message))
    except BaseException as error:
        shutil.rmtree(bag, ignore_errors=True)
        if isinstance(error, Exception):
            raise BagError(f'cannot write {bag}: {one_line(error)}') from error
        raise


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, without the part for ROS."""
    parser = ArgumentParser(
        prog='segzero_sample_bag',
        description='Write a bag of a synthetic scene, or publish what a bag holds.',
        epilog='Exit code: 0 when done, 2 for an error, 130 for Ctrl-C. Arguments for ROS go '
        'after --ros-args, for example: play BAG --ros-args -r /color/image:=/image',
    )
    actions = parser.add_subparsers(dest='action', required=True)
    writing = actions.add_parser('write', help='write a bag of a synthetic scene')
    writing.add_argument('--seed', type=int, default=SEED, help='number of the tabletop scene')
    writing.add_argument('--rate', type=positive, default=2.0, help='frames per second')
    playing = actions.add_parser('play', help='publish what a bag holds')
    playing.add_argument('--rate', type=positive, default=1.0, help='2 is twice as fast')
    playing.add_argument(
        '--wait', type=positive, default=30.0, help='longest wait for subscribers, seconds'
    )
    for action in (writing, playing):
        action.add_argument('bag', type=Path, help='the folder of the bag')
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Write or play a bag; return the exit code.

    Raises:
        BagError: The bag cannot be written or read, or rosbags is not installed.
        RosStartError: ROS does not start.
    """
    words, ros_arguments = program_arguments('segzero_sample_bag', args)
    options = build_parser().parse_args(words)
    try:
        import rosbags.rosbag2  # noqa: F401 (only to see whether it is there)
    except ModuleNotFoundError as error:
        raise BagError(f'segzero_sample_bag {MISSING}') from error
    if options.action == 'write':
        write(options.bag, scene_messages(make_scene(options.seed), options.rate))
        return 0
    stop = stop_event()
    play(options.bag, options.rate, options.wait, stop, ros_arguments)
    return stop.exit_code
