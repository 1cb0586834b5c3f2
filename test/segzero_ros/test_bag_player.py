# SPDX-License-Identifier: Apache-2.0
"""Bags that others recorded: odd names and types, damaged files, wrong clocks."""

import random
import shutil
import threading

import pytest

from segzero_core.errors import BagError
from segzero_ros.bag_player import open_bag, paced, read_messages
from segzero_ros.sample_bag import MISSING

rosbag2 = pytest.importorskip('rosbags.rosbag2', reason=MISSING)
typesys = pytest.importorskip('rosbags.typesys', reason=MISSING)

HASH = 'RIHS01_' + 64 * '0'


def text(words):
    """Return a std_msgs/String as CDR."""
    data = words.encode() + b'\0'
    return b'\0\1\0\0' + len(data).to_bytes(4, 'little') + data


def write(folder, topics, storage='mcap'):
    """Write a bag: (topic, type, messages) each; a message a second."""
    writer = rosbag2.Writer(
        folder, version=9, storage_plugin=getattr(rosbag2.StoragePlugin, storage.upper())
    )
    with writer:
        for topic, kind, messages in topics:
            connection = writer.add_connection(topic, kind, msgdef='string data', rihs01=HASH)
            for second, message in enumerate(messages):
                writer.write(connection, 10**9 * (1 + second // 100), message)
    return folder


CHAT = ('/chat', 'std_msgs/msg/String', [text(f'word {n}') for n in range(20)])


@pytest.fixture
def hear(ros, make_client, processes):
    """Play a bag; return what was heard on /chat, the player's output and its exit code."""

    def run(bag, heard_at_least):
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from std_msgs.msg import String

        client = make_client(next(ros))
        heard = []
        qos = QoSProfile(depth=50, durability=DurabilityPolicy.VOLATILE)
        client.node.create_subscription(String, '/chat', heard.append, qos)
        player = processes('-m', 'segzero_ros.sample_bag', 'play', str(bag), '--wait', '6')
        output, _ = player.communicate(timeout=60)
        client.wait_for(lambda: len(heard) >= heard_at_least, 'the messages of the bag')
        return [message.data for message in heard], output, player.returncode

    return run


def test_what_cannot_be_published_is_left_out_and_the_rest_is_played(tmp_path, hear):
    bag = write(
        tmp_path / 'bag',
        [
            ('/device 0/sensor 1', 'std_msgs/msg/String', [text('a')]),
            ('/1st', 'std_msgs/msg/String', [text('a')]),
            ('/two\nlines', 'std_msgs/msg/String', [text('a')]),
            ('/strange', 'nobody_msgs/msg/Thing', [text('a')]),
            ('/odd', 'Thing', [text('a')]),
            ('/path', '../../x/msg/y', [text('a')]),
            ('/service', 'std_srvs/srv/Trigger_Event', [text('a')]),
            CHAT,
        ],
    )
    heard, output, code = hear(bag, 20)
    assert code == 0, output
    assert heard == [f'word {n}' for n in range(20)]
    assert 'Traceback' not in output
    assert output.count('is left out') == 7
    assert '/strange is left out: nobody_msgs/msg/Thing is not installed' in output


def test_a_message_that_is_none_ends_its_topic_only(tmp_path, hear):
    bag = write(tmp_path / 'bag', [('/short', 'std_msgs/msg/String', [b'', b'\0']), CHAT])
    heard, output, code = hear(bag, 20)
    assert (len(heard), code) == (20, 0)
    assert output.count('/short is left out: a message of 0 bytes') == 1


def test_a_bag_of_nothing_that_can_be_published(tmp_path, ros, processes):
    bag = write(tmp_path / 'bag', [('/x', 'nobody_msgs/msg/Thing', [text('a')])])
    player = processes('-m', 'segzero_ros.sample_bag', 'play', str(bag))
    output, _ = player.communicate(timeout=60)
    assert player.returncode == 2
    assert f'segzero_sample_bag: {bag} holds nothing that can be published here' in output


def read(bag):
    with open_bag(bag) as reader:
        return len(list(read_messages(reader, bag)))


def cut(bag):
    (file,) = bag.glob('*.mcap')
    file.write_bytes(file.read_bytes()[:-60])


@pytest.mark.parametrize(
    ('damage', 'said'),
    [
        (shutil.rmtree, 'does not exist'),
        (cut, 'mcap recover'),
        (lambda bag: (bag / 'metadata.yaml').unlink(), 'ros2 bag reindex'),
        (lambda bag: (bag / 'metadata.yaml').write_text('a: ['), 'cannot be read'),
        (lambda bag: (bag / 'metadata.yaml').write_bytes(b'\xff\xfe'), 'cannot be read'),
        (lambda bag: (bag / 'metadata.yaml').write_text('[]'), 'cannot be read'),
        (lambda bag: next(bag.glob('*.mcap')).write_bytes(b''), 'is empty'),
        (lambda bag: next(bag.glob('*.mcap')).write_bytes(b'#ROSBAG V2.0\n'), 'mcap recover'),
        (lambda bag: next(bag.glob('*.mcap')).unlink(), 'cannot be read'),
        (lambda bag: [file.unlink() for file in bag.iterdir()], 'is no bag'),
    ],
)
def test_a_damaged_bag_is_named_with_a_remedy(tmp_path, damage, said):
    bag = write(tmp_path / 'bag', [CHAT])
    assert read(bag) == 20
    damage(bag)
    with pytest.raises(BagError) as error:
        read(bag)
    assert said in str(error.value)
    assert str(bag) in str(error.value)
    assert '\n' not in str(error.value)


def test_a_bag_of_ros_1(tmp_path):
    bag = tmp_path / 'old.bag'
    bag.write_bytes(b'#ROSBAG V2.0\n')
    with pytest.raises(BagError, match='rosbags-convert'):
        read(bag)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_any_damage_is_a_typed_error(tmp_path, storage):
    bag = write(tmp_path / 'bag', [CHAT], storage)
    whole = {file: file.read_bytes() for file in bag.iterdir()}
    chance = random.Random(5)
    refused = []
    for _ in range(60):
        file, data = chance.choice(list(whole.items()))
        broken = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        file.write_bytes(broken[: chance.choice([len(broken), chance.randrange(len(broken))])])
        try:
            read(bag)
        except BagError as error:
            refused.append(str(error))
        file.write_bytes(data)
    assert len(refused) > 10
    assert not [line for line in refused if '\n' in line]
    assert read(bag) == 20


def test_a_clock_that_jumps_by_decades_is_said_and_can_be_stopped():
    stop, pauses = threading.Event(), []
    messages = [('topic', 0, b''), ('topic', 1_700_000_000 * 10**9, b'')]

    def sleep(seconds):
        assert seconds <= 3600
        stop.set()
        return stop.wait(seconds)

    came = list(paced(messages, 0.001, sleep=sleep, say_pause=pauses.append))
    assert len(came) == 1
    assert pauses == [pytest.approx(1.7e12, rel=1e-3)]
