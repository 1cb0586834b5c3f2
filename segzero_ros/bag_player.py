# SPDX-License-Identifier: Apache-2.0
"""Publishes the messages of a bag with their recorded timing.

The player does not need ``ros2 bag``. A topic that it cannot publish, because ROS here does not
know the message type or refuses the name, is left out with a warning. A bag that cannot be read
is a ``BagError`` that names the file and the remedy.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from segzero_core.errors import BagError, first_line
from segzero_ros.paths import use_fastdds_profile
from segzero_ros.ros_context import creating_node, ros_context

Message = tuple[Any, int, bytes]  # connection of rosbags, time in ns, serialised message

ACKNOWLEDGE_S = 5.0
PATIENCE_S = 3.0  # before it says whom it waits for
LONG_PAUSE_S = 10.0  # a pause in the recording that is worth a line
LONGEST_SLEEP_S = 3600.0  # Python cannot sleep for as long as a wrong clock may ask
SMALLEST_MESSAGE = 4  # bytes: the header of CDR
_MESSAGE_TYPE = re.compile(r'([A-Za-z]\w*)/(?:msg/)?([A-Za-z]\w*)')


class BagPlayer(Node):
    """Publishes a bag's messages on its topics, which ``--ros-args -r`` may remap."""

    def __init__(self, connections: Iterable[Any], **kwargs: Any) -> None:
        """Create a publisher for each of the bag's connections that ROS here knows.

        All are reliable, which serves best-effort subscribers too. Topics recorded as transient
        local (``/tf_static``, maps) are so again.

        Args:
            connections: Of rosbags' reader.
            kwargs: For ``Node``.
        """
        super().__init__('segzero_bag_player', **kwargs)
        self._by_id: dict[int, Publisher] = {}
        for connection in connections:
            try:
                self._by_id[connection.id] = self._publisher(connection)
            except Exception as error:  # noqa: BLE001 (rcl and DDS raise many types)
                self._leave_out(connection, _why_not(connection, error))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to publish."""
        return not self._by_id

    def wait_for_listeners(self, seconds: float, stop: threading.Event) -> None:
        """Wait until every topic has a subscriber; continue with a warning after ``seconds``."""
        began = time.monotonic()
        told = False
        publishers = self._by_id.values()
        while not stop.is_set():
            alone = [each for each in publishers if not each.get_subscription_count()]
            if not alone:
                return
            names = ', '.join(publisher.topic_name for publisher in alone)
            waited = time.monotonic() - began
            if waited > seconds:
                self.get_logger().warning(f'nobody listens to {names}')
                return
            if waited > PATIENCE_S and not told:
                self.get_logger().info(
                    f'waiting up to {seconds:g} s for subscribers of {names}; --wait shortens it'
                )
                told = True
            stop.wait(0.05)

    def publish(self, messages: Iterable[Message]) -> None:
        """Publish each message at once. A topic that ROS refuses is left out from then on."""
        for connection, _, data in messages:
            publisher = self._by_id.get(connection.id)
            if publisher is None:
                continue
            try:
                if len(data) < SMALLEST_MESSAGE:
                    raise ValueError(f'a message of {len(data)} bytes')
                publisher.publish(bytes(data))
            except Exception as error:  # noqa: BLE001 (see above)
                del self._by_id[connection.id]
                self._leave_out(connection, first_line(error))

    def wait_until_sent(self) -> None:
        """Wait until the subscribers have acknowledged all messages."""
        for publisher in self._by_id.values():
            publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))

    def say_pause(self, seconds: float) -> None:
        """Log that the recording has a long pause."""
        self.get_logger().info(f'the next message comes in {seconds:.0f} s')

    def _publisher(self, connection: Any) -> Publisher:
        from rosbags.interfaces import QosDurability

        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        offered = connection.ext.offered_qos_profiles
        if any(each.durability is QosDurability.TRANSIENT_LOCAL for each in offered):
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        return self.create_publisher(message_class(connection), connection.topic, qos)

    def _leave_out(self, connection: Any, why: str) -> None:
        topic = ' '.join(connection.topic.split())
        self.get_logger().warning(f'{topic} is left out: {why}')


class _NotInstalledError(Exception):
    """There is no such message type here."""


def message_class(connection: Any) -> Any:
    """Return the Python class of a connection's messages.

    Raises:
        _NotInstalledError: It is not installed, or it is not serialised as ROS 2 does.
    """
    form = connection.ext.serialization_format
    if form != 'cdr':
        raise _NotInstalledError(f'it is serialised as {form or "nothing known"}, not as CDR')
    name = _MESSAGE_TYPE.fullmatch(connection.msgtype)
    if name is None:
        raise _NotInstalledError(f'{first_line(connection.msgtype, 80)!r} is no message type')
    try:
        return getattr(importlib.import_module(f'{name[1]}.msg'), name[2])
    except (ImportError, AttributeError) as error:
        raise _NotInstalledError(f'{connection.msgtype} is not installed') from error


def paced(
    messages: Iterable[Message],
    rate: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    say_pause: Callable[[float], None] = lambda seconds: None,
) -> Iterator[Message]:
    """Yield each message when it is due; a late one comes at once and delays nothing after it.

    Args:
        messages: In the order of time.
        rate: 1 is as fast as recorded, 2 twice as fast.
        clock: Seconds.
        sleep: Waits for the given seconds; returns true if the player must stop.
        say_pause: Called with the seconds of a pause longer than ``LONG_PAUSE_S``.
    """
    began, first = clock(), None
    for item in messages:
        first = item[1] if first is None else first
        due = began + (item[1] - first) / 1e9 / rate
        if due - clock() > LONG_PAUSE_S:
            say_pause(due - clock())
        while (pause := due - clock()) > 0:
            if sleep(min(pause, LONGEST_SLEEP_S)):
                return
        yield item


def play(
    bag: Path, rate: float, wait_s: float, stop: threading.Event, ros_arguments: Sequence[str]
) -> None:
    """Publish a rosbag2 (mcap or sqlite3) with the timing it was recorded with.

    Initialises ROS for as long as that takes.

    Args:
        bag: The folder, or a file of it.
        rate: 1 is as fast as recorded.
        wait_s: Longest time to wait for subscribers before it begins.
        stop: Ends it.
        ros_arguments: For ``ros_context``.

    Raises:
        BagError: The bag cannot be read, or holds nothing that can be published.
    """
    with open_bag(bag) as reader:
        use_fastdds_profile()  # this process takes the place of a camera
        with ros_context(ros_arguments):
            with creating_node():
                player = BagPlayer(reader.connections)
            if player.is_empty:
                raise BagError(f'{bag} holds nothing that can be published here')
            player.wait_for_listeners(wait_s, stop)
            messages = paced(
                read_messages(reader, bag), rate, sleep=stop.wait, say_pause=player.say_pause
            )
            player.publish(itertools.takewhile(lambda _: not stop.is_set(), messages))
            if not stop.is_set():
                player.wait_until_sent()
            player.destroy_node()


@contextlib.contextmanager
def open_bag(bag: Path) -> Iterator[Any]:
    """Open a bag with rosbags' ``Reader``.

    Raises:
        BagError: It cannot be read.
    """
    from rosbags.rosbag2 import Reader

    try:
        reader = Reader(bag)
        reader.open()
    except Exception as error:
        raise BagError(_explain(bag, error)) from error
    try:
        yield reader
    finally:
        reader.close()


def read_messages(reader: Any, bag: Path) -> Iterator[Message]:
    """Yield the messages of an open bag.

    Raises:
        BagError: What comes next cannot be read.
    """
    count = 0
    try:
        for message in reader.messages():
            yield message
            count += 1
    except Exception as error:
        raise BagError(f'after {count} messages: {_explain(bag, error)}') from error


def _why_not(connection: Any, error: Exception) -> str:
    if isinstance(error, _NotInstalledError):
        return str(error)
    return f'ROS does not take the topic {connection.topic!r} ({first_line(error, 120)})'


def _explain(bag: Path, error: Exception) -> str:
    """Return a message that names the bad file of a bag, its fault, and the remedy."""
    said = first_line(error, 200).rstrip('.')
    if not bag.exists():
        return f'{bag} does not exist'
    if bag.is_dir() and not (bag / 'metadata.yaml').exists():
        if not any(bag.glob('*.mcap')) and not any(bag.glob('*.db3')):
            return f'{bag} is no bag: it holds no .mcap and no .db3 file'
        return f'{bag} has no metadata.yaml: make one with: ros2 bag reindex {bag}'
    if bag.is_file() and bag.suffix == '.bag':
        return f'{bag} is a bag of ROS 1: convert it with: rosbags-convert --src {bag} --dst NEW'
    if isinstance(error, PermissionError):
        return f'{bag}: you have no permission to read it'
    for file in sorted([*bag.glob('*.mcap'), *bag.glob('*.db3')] if bag.is_dir() else [bag]):
        problem = _problem_of_file(file)
        if problem is not None:
            return f'{file} {problem}'
    return f'{bag} cannot be read: {said}'


def _problem_of_file(file: Path) -> str | None:
    """Return the fault of a message file and the remedy; None if the file can be opened."""
    from rosbags.rosbag2 import Reader

    if file.stat().st_size == 0:
        return 'is empty: nothing was recorded in it'
    try:
        with Reader(file):
            return None
    except Exception as error:  # noqa: BLE001 (a damaged file can raise anything)
        said = first_line(error, 200).rstrip('.')
    if file.suffix == '.mcap':
        if 'ros2' in said:
            return f'was not recorded by ROS 2 ({said}): convert it to ROS 2 messages first'
        return (
            f'is cut off or damaged, as when a recording is killed ({said}): save the rest '
            f'with: mcap recover {file} -o FIXED.mcap, then: ros2 bag reindex FOLDER'
        )
    return f'is damaged ({said}): copy what is left with: sqlite3 {file} .recover'
