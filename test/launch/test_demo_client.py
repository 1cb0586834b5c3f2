# SPDX-License-Identifier: Apache-2.0
"""The client of segzero_demo, with this test in the node's place."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs rclpy: make test installs it, or source ROS 2')

from geometry_msgs.msg import PointStamped  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_msgs.msg import Header, String  # noqa: E402

from segzero_ros import demo_client  # noqa: E402
from segzero_ros.images import array_to_image  # noqa: E402

if TYPE_CHECKING:
    from conftest import Peer


def test_two_sentences_about_one_frame_get_a_mask_and_a_text_each(
    peer: Peer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_client, 'REST_S', 60.0)  # this machine may be busy
    kinds = {'mask': Image, 'overlay': Image, 'target_point': PointStamped}
    topics = {n: peer.node.create_publisher(k, f'segzero/{n}', 10) for n, k in kinds.items()}
    results = peer.node.create_publisher(String, 'segzero/result', 10)
    stream = peer.node.create_publisher(String, 'segzero/reasoning_stream', 10)

    def answer(message: String) -> None:
        while not all(p.get_subscription_count() for p in (*topics.values(), results, stream)):
            time.sleep(0.01)
        # The result comes first, because the order of topics is not defined.
        document = {'stamp': {'sec': 1, 'nanosec': 2}, 'status': 'ok', 'target': None}
        results.publish(String(data=json.dumps(document)))
        picture = np.full((2, 2), int(message.data), np.uint8)
        header = Header()
        header.stamp.sec, header.stamp.nanosec = 1, 2
        for name in ('mask', 'overlay'):
            topics[name].publish(array_to_image(picture, 'mono8', header))
        for piece in ('<think>', f'about {message.data}', '</think><answer>', '</answer>'):
            stream.publish(String(data=piece))

    peer.node.create_subscription(String, 'segzero/query', answer, 10)
    camera = peer.node.create_publisher(CameraInfo, 'camera_info', 10)
    peer.node.create_timer(0.1, lambda: camera.publish(CameraInfo()))
    rclpy.init()
    client = demo_client.DemoClient([])
    try:
        client.wait_for_camera()
        client.wait_for_node()
        answers = [client.ask('7')]
        assert capsys.readouterr().out == '<think>about 7</think><answer></answer>'
        answers.append(client.ask('8'))
    finally:
        client.destroy_node()
        rclpy.shutdown()
    assert [int(answer.images['mask'][0, 0]) for answer in answers] == [7, 8]
