# SPDX-License-Identifier: Apache-2.0
"""Camera topics over real DDS: subscriptions, and messages if no data arrives."""

import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import rclpy
from rcl_interfaces.msg import Log
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.compressed_depth import HEADER
from segzero_ros.settings import read_settings
from segzero_ros.subscriptions import camera_qos

BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Make the node publish diagnostics continuously."""
    monkeypatch.setattr('segzero_ros.node.DIAGNOSTICS_S', 0.02)


@pytest.fixture
def warnings(graph):
    """The node's log messages, as they arrive."""
    kept = []
    # What was logged before the two had found each other comes too.
    latched = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    graph.client.node.create_subscription(Log, '/rosout', kept.append, latched)
    name = f'{graph.namespace.lstrip("/")}.segzero'

    def logged(text, meanwhile=lambda: None):
        def find():
            meanwhile()
            return [m.msg for m in kept if m.name == name and text in m.msg]

        return graph.client.wait_for(find, f'a log message with {text!r}')

    return logged


def summary(graph, text):
    """Wait until the diagnostics say ``text``."""
    graph.client.wait_for(
        lambda: text in graph.client.diagnostics(bool)[0].message, f'a summary with {text!r}'
    )


def test_a_camera_that_is_not_heard_is_named_with_the_remedy(graph, warnings):
    node = graph.active_node(image__reliability='reliable', image__timeout=0.1)
    graph.client.node.create_publisher(Image, 'image', BEST_EFFORT)
    (message,) = warnings('is not heard')
    assert f'{graph.namespace}/image is not heard because its QoS RELIABILITY' in message
    assert 'set image.reliability to best_effort' in message
    summary(graph, f'{graph.namespace}/image is best effort; set image.reliability')
    assert node.get_parameter('image.reliability').value == 'reliable'


def test_what_is_said_when_nobody_publishes(graph, warnings):
    graph.active_node(image__timeout=0.05)
    (message,) = warnings('no image has come for')
    assert f'nobody publishes {graph.namespace}/image; start the camera, or remap' in message
    graph.client.node.create_publisher(Image, 'image', 1)
    summary(graph, 'has a publisher; if it does publish, give it config/fastdds.xml')


@pytest.fixture
def stranger(ros, domain):
    """A node as in another process: DDS lets no process use a topic with two types."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node('stranger', context=context)
    yield node
    node.destroy_node()
    context.shutdown()


def test_what_is_said_about_a_topic_of_another_type(graph, stranger):
    stranger.create_publisher(CompressedImage, f'{graph.namespace}/image', 1)
    graph.active_node(image__timeout=0.05)
    summary(graph, 'carries sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image; set')


def test_images_that_stop_and_come_again_are_in_the_log(graph, warnings):
    node = graph.active_node('image', image__timeout=0.05)
    graph.client.show_picture()
    graph.client.wait_for(lambda: node.frames.age() is not None, 'the image')
    warnings('no image has come for')
    warnings('image comes again', meanwhile=graph.client.show_picture)


def test_depth_and_camera_info_that_do_not_come_are_told(graph, warnings, stranger, monkeypatch):
    monkeypatch.setattr('segzero_ros.node.DIAGNOSTICS_S', 3600.0)  # the test looks instead
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    for module in ('subscriptions', 'frames'):
        monkeypatch.setattr(f'segzero_ros.{module}.time', clock)
    node = graph.active_node(depth__enabled=True)
    stranger.create_publisher(CompressedImage, f'{graph.namespace}/depth', 1)

    def reason():
        return node.cameras.silence(5.0) or ''

    assert reason() == ''
    clock.now = 110.0
    assert reason().startswith('no image has come for 10 s')
    node.frames.add_image(Image())
    graph.client.wait_for(lambda: 'carries' in reason(), 'the graph')
    assert reason() == (
        f'no depth has come for 10 s: {graph.namespace}/depth carries sensor_msgs/msg/'
        'CompressedImage, not sensor_msgs/msg/Image; set depth.transport to what the topic '
        'carries, or remap depth to another'
    )
    node.frames.add_depth(Image())
    assert f'nobody publishes {graph.namespace}/camera_info; start the camera' in reason()
    node.frames.add_info(CameraInfo())
    clock.now = 120.0
    node.frames.add_image(Image())
    node.frames.add_depth(Image())
    assert reason() == ''  # one camera_info is enough
    clock.now = 130.0
    assert node.cameras.silence(0.0) is None
    for name in ('image', 'depth', 'camera_info'):
        warnings(f'no {name} has come for 10 s')
        warnings(f'{name} comes again')


def test_frames_too_old_are_refused_and_their_stamp_is_named(graph):
    node = graph.active_node('image', image__max_age=100.0)

    def ask(stamp):
        graph.client.show_picture(stamp)
        graph.client.wait_for(
            lambda: node.frames.newest_stamp and node.frames.newest_stamp.sec == stamp,
            'the image',
        )
        return graph.client.ask('the red mug')

    result = ask(stamp=7)
    assert (result['status'], result['error']['kind']) == ('error', 'stale_frame')
    assert result['stamp'] == {'sec': 7, 'nanosec': 0}
    assert 'more than image.max_age = 100 s' in result['error']['message']
    assert graph.client.messages['mask'] == []
    assert ask(stamp=int(time.time()))['status'] == 'ok'
    assert graph.client.set_parameter('image.max_age', 0).successful
    assert ask(stamp=7)['status'] == 'ok'


def test_compressed_depth_gives_the_same_target(graph):
    graph.client.cameras['depth'] = graph.client.node.create_publisher(CompressedImage, 'depth', 1)
    node = graph.active_node(
        'image', 'camera_info', depth__enabled=True, depth__transport='compressedDepth'
    )
    graph.client.wait_for(graph.client.cameras['depth'].get_subscription_count, 'the node')
    graph.client.show_info()
    data = (
        bytes(HEADER.size) + cv2.imencode('.png', np.full((60, 80), 500, np.uint16))[1].tobytes()
    )
    message = CompressedImage(format='16UC1; compressedDepth png', data=data)
    graph.client.show('depth', message, 1)
    graph.client.show_picture(1)
    graph.client.wait_for(lambda: node.frames.has_depth, 'a frame with depth')
    result = graph.client.ask('the red mug')
    assert result['target']['reason'] is None
    assert result['target']['point_m'][2] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, (HistoryPolicy.KEEP_LAST, 1, ReliabilityPolicy.BEST_EFFORT)),
        ({'image__queue': 7}, (HistoryPolicy.KEEP_LAST, 7, ReliabilityPolicy.BEST_EFFORT)),
        (
            {'image__history': 'keep_all', 'image__reliability': 'reliable'},
            (HistoryPolicy.KEEP_ALL, 1, ReliabilityPolicy.RELIABLE),
        ),
    ],
)
def test_quality_of_service_is_what_the_parameters_say(graph, given, expected):
    qos = camera_qos(read_settings(graph.node(**given)))
    assert (qos.history, qos.depth, qos.reliability) == expected


def test_with_keep_all_images_come_too(graph):
    node = graph.active_node('image', image__history='keep_all')
    graph.client.show_picture(3)
    graph.client.wait_for(lambda: node.frames.age() is not None, 'the image')
    assert graph.client.ask('the red mug')['stamp']['sec'] == 3
