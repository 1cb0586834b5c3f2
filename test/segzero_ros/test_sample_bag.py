# SPDX-License-Identifier: Apache-2.0
"""The sample bag: written, read by independent code, and played through the node."""

import sys

import numpy as np
import pytest

from segzero_core.errors import BagError
from segzero_core.synthetic import make_scene
from segzero_ros import sample_bag
from segzero_ros.bag_player import paced
from segzero_ros.demo import choose_queries
from segzero_ros.images import image_to_array
from segzero_ros.sim_camera import SEED

rosbag2 = pytest.importorskip('rosbags.rosbag2', reason=sample_bag.MISSING)
typesys = pytest.importorskip('rosbags.typesys', reason=sample_bag.MISSING)

RATE = 2.0


@pytest.fixture(scope='module')
def bag(domain, tmp_path_factory):
    folder = tmp_path_factory.mktemp('bags') / 'sample'
    assert sample_bag.main(['write', str(folder), '--rate', str(RATE)]) == 0
    return folder


@pytest.fixture(scope='module')
def recorded(bag):
    """The bag's content by topic: (time, message), read with the bag's own definitions."""
    types = typesys.get_typestore(typesys.Stores.EMPTY)
    messages = {}
    with rosbag2.Reader(bag) as reader:
        for connection in reader.connections:
            definition = connection.msgdef.data
            types.register(typesys.get_types_from_msg(definition, connection.msgtype))
        for connection, stamp, data in reader.messages():
            message = types.deserialize_cdr(data, connection.msgtype)
            messages.setdefault(connection.topic, []).append((stamp, message))
    return messages


def nanoseconds(stamp):
    return stamp.sec * 10**9 + stamp.nanosec


def test_the_bag_is_what_a_camera_over_the_scene_publishes(recorded):
    scene = make_scene(SEED)
    frames = list(zip(*(recorded[t] for t in ('/image', '/depth', '/camera_info')), strict=True))
    assert len(frames) == 21
    for number, frame in enumerate(frames):
        stamps = {at for at, _ in frame} | {nanoseconds(m.header.stamp) for _, m in frame}
        assert stamps == {frames[0][0][0] + round(number * 1e9 / RATE)}
        (_, image), (_, depth), (_, info) = frame
        np.testing.assert_array_equal(image.data.reshape(scene.image.shape), scene.image)
        metres = depth.data.view('<u2').reshape(scene.depth.shape) / 1000
        assert abs(np.median((metres - scene.depth)[metres > 0])) < 0.002
        assert info.k.reshape(3, 3)[0, 0] == pytest.approx(scene.intrinsics.fx)
    asked = [(at, message.data) for at, message in recorded['/segzero/query']]
    assert [text for _, text in asked] == [query.text for query in choose_queries(scene)]
    assert asked[0][0] > frames[0][0][0]
    assert asked[-1][0] < frames[-1][0][0]


def test_the_same_arguments_give_the_same_small_bag(bag):
    (file,) = bag.glob('*.mcap')
    assert file.stat().st_size < 24e6
    first, second = (list(sample_bag.scene_messages(make_scene(SEED), 0.5)) for _ in range(2))
    assert first == second
    assert first != list(sample_bag.scene_messages(make_scene(SEED + 1), 0.5))


def test_played_through_the_node_it_is_answered_right(bag, recorded, processes, make_client):
    processes(
        '-m', 'segzero_ros.node', '--ros-args', '-p', 'autostart:=true',
        '-p', 'depth.enabled:=true', '-p', 'image.reliability:=reliable',
        '-p', 'query.mode:=queue',  # however slow the machine is
    )  # fmt: skip
    make = make_client('/')
    make.wait_for_node()
    player = processes('-m', 'segzero_ros.sample_bag', 'play', str(bag))
    scene = make_scene(SEED)
    queries = choose_queries(scene)
    results = make.results(len(queries))
    output, _ = player.communicate(timeout=60)
    assert player.returncode == 0, output
    assert output == ''  # nothing left out, every topic heard
    assert len(make.messages['result']) == len(queries)
    stamps = {at for at, _ in recorded['/image']}
    masks = {nanoseconds(m.header.stamp): m for m in make.messages['mask']}
    for query, result in zip(queries, results, strict=True):
        assert (result['query'], result['status']) == (query.text, 'ok'), result
        stamp = result['stamp']['sec'] * 10**9 + result['stamp']['nanosec']
        assert stamp in stamps
        mask, truth = image_to_array(masks[stamp]) > 0, scene.mask(query.target)
        assert np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth) > 0.5
        assert scene.surface_distance(query.target, result['target']['point_m']) < 0.02


def test_remapped_topics_of_installed_types_are_played(tmp_path, ros, make_client, processes):
    from builtin_interfaces.msg import Time
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from rclpy.serialization import serialize_message
    from rosbags import interfaces as bags

    forever = bags.QosTime(0, 0)
    recorded_qos = bags.Qos(
        bags.QosHistory.KEEP_LAST, 1, bags.QosReliability.RELIABLE,
        bags.QosDurability.TRANSIENT_LOCAL, forever, forever, bags.QosLiveliness.AUTOMATIC,
        forever, avoid_ros_namespace_conventions=False,
    )  # fmt: skip
    types = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    writer = rosbag2.Writer(tmp_path / 'bag', version=9)  # sqlite3
    with writer:
        known = writer.add_connection(
            '/when',
            'builtin_interfaces/msg/Time',
            typestore=types,
            offered_qos_profiles=[recorded_qos],
        )
        strange = writer.add_connection(
            '/strange', 'nobody_msgs/msg/Thing', msgdef='int8 x', rihs01='RIHS01_' + 64 * '0'
        )
        writer.write(strange, 1, bytes(8))
        for second in range(5):
            writer.write(known, 2 + second, serialize_message(Time(sec=second)))
    client = make_client(next(ros))
    heard = client.messages['/elsewhere'] = []
    # Hears only publishers that are transient local themselves, as this one was when recorded.
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    client.node.create_subscription(Time, '/elsewhere', heard.append, latched)
    player = processes(
        '-m', 'segzero_ros.sample_bag', 'play', str(tmp_path / 'bag'),
        '--ros-args', '-r', '/when:=/elsewhere',
    )  # fmt: skip
    output, _ = player.communicate(timeout=60)
    assert player.returncode == 0, output
    assert '/strange is left out: nobody_msgs/msg/Thing is not installed' in output
    client.wait_for(lambda: len(heard) == 5, 'five messages')
    assert [message.sec for message in heard] == [0, 1, 2, 3, 4]


class Clock:
    """A clock that advances only during sleep or work."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


def test_messages_come_when_they_are_due_and_lateness_does_not_add_up():
    clock, came = Clock(), []
    seconds = [0.0, 0.0, 1.0, 1.5, 3.0]
    messages = [('topic', 10**12 + round(1e9 * s), b'') for s in seconds]
    for (_, _, _), work in zip(
        paced(messages, 2.0, clock, clock.sleep), [0, 0.1, 0.5, 0, 0], strict=True
    ):
        came.append(clock.now - 100.0)
        clock.now += work
    # At twice the speed; the fourth, due at 0.75, is kept up by work until 1.0.
    assert came == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.5])


def test_a_bag_that_exists_is_not_written_over(bag):
    before = sorted(bag.iterdir())
    with pytest.raises(BagError, match='exists already'):
        sample_bag.main(['write', str(bag)])
    assert sorted(bag.iterdir()) == before


@pytest.mark.parametrize('interruption', [KeyboardInterrupt, MemoryError])
def test_a_bag_that_is_not_finished_is_removed(tmp_path, interruption):
    def messages():
        yield from list(sample_bag.scene_messages(make_scene(SEED), 0.5))[:3]
        raise interruption

    expected = BagError if issubclass(interruption, Exception) else interruption
    with pytest.raises(expected):
        sample_bag.write(tmp_path / 'bag', messages())
    assert not (tmp_path / 'bag').exists()


def test_without_the_library_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'rosbags.rosbag2', None)
    with pytest.raises(BagError, match=r'requirements/bag\.txt'):
        sample_bag.main(['write', str(tmp_path / 'bag')])
    assert not (tmp_path / 'bag').exists()


@pytest.mark.parametrize('rate', ['0', '-1', 'inf', 'nan', 'fast'])
def test_a_rate_that_is_none(rate, capsys):
    with pytest.raises(SystemExit):
        sample_bag.main(['play', '--rate', rate, 'bag'])
    assert '--rate' in capsys.readouterr().err
