# SPDX-License-Identifier: Apache-2.0
"""config/fastdds.xml does what it is for: no colour image is lost between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs rclpy: make demo installs it, or source ROS 2')

from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

COUNT = 30
# A camera driver: VGA colour, 30 Hz, best effort.
CAMERA = f"""
import array, time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node('camera')
qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
publisher = node.create_publisher(Image, 'image', qos)
data = array.array('B', bytes(640 * 480 * 3))
image = Image(width=640, height=480, step=1920, encoding='rgb8', data=data)
while not publisher.get_subscription_count():
    time.sleep(0.05)
time.sleep(0.5)  # the other side may learn of us later than we of it
for number in range({COUNT}):
    image.header.stamp.nanosec = number
    publisher.publish(image)
    time.sleep(1 / 30)
time.sleep(0.5)
"""


def test_every_best_effort_colour_image_arrives(root: Path) -> None:
    profile = str(root / 'config' / 'fastdds.xml')
    names = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
    environment = {**os.environ, **dict.fromkeys(names, profile)}
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('viewer', context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    arrived: list[int] = []
    qos = QoSProfile(depth=COUNT, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(
        Image, 'image', lambda image: arrived.append(image.header.stamp.nanosec), qos
    )
    camera = subprocess.Popen([sys.executable, '-c', CAMERA], env=environment)
    try:
        deadline = time.monotonic() + 60
        while camera.poll() is None and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
    finally:
        camera.kill()
        camera.wait()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert camera.returncode == 0
    assert arrived == list(range(COUNT))
