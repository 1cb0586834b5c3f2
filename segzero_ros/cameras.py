# SPDX-License-Identifier: Apache-2.0
"""The camera topics the node subscribes, and why nothing comes on them."""

from __future__ import annotations

import functools
import time
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.frames import FrameBuffer
from segzero_ros.settings import Settings


class Cameras:
    """The subscriptions that fill a ``FrameBuffer``."""

    def __init__(self, node: Node, settings: Settings, frames: FrameBuffer) -> None:
        """Subscribe what the settings ask for."""
        self._node, self._settings, self._frames = node, settings, frames
        self._since = time.monotonic()
        self._silent = False
        self._image_kind = CompressedImage if settings.compressed else Image
        depth_kind = CompressedImage if settings.compressed_depth else Image
        topics = [('image', self._image_kind, frames.add_image)]
        if settings.slop is not None:
            topics += [
                ('depth', depth_kind, frames.add_depth),
                ('camera_info', CameraInfo, frames.add_info),
            ]
        self._subscriptions = [
            node.create_subscription(
                kind,
                name,
                keep,
                camera_qos(settings),
                event_callbacks=SubscriptionEventCallbacks(
                    incompatible_qos=functools.partial(self._on_incompatible, name)
                ),
            )
            for name, kind, keep in topics
        ]

    def destroy(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def silence(self, timeout: float) -> str | None:
        """Return why no image has come for ``timeout`` seconds; ``None`` if one has.

        The log gets it when the images stop, and when they come again. Call it regularly.

        Args:
            timeout: 0 if any silence is fine.
        """
        age = self._frames.age()
        seconds = time.monotonic() - self._since if age is None else age
        logger = self._node.get_logger()
        if not timeout or seconds <= timeout:
            if self._silent:
                logger.info('images come again')
            self._silent = False
            return None
        reason = f'no image has come for {seconds:.0f} s: {self._why_silent()}'
        if not self._silent:
            logger.warning(reason)
        self._silent = True
        return reason

    def _why_silent(self) -> str:
        topic = self._node.resolve_topic_name('image')
        cameras = self._node.get_publishers_info_by_topic(topic)
        if not cameras:
            return f'nobody publishes {topic}; start the camera, or remap image to its topic'
        wanted = f'sensor_msgs/msg/{self._image_kind.__name__}'
        kinds = sorted({camera.topic_type for camera in cameras})
        if wanted not in kinds:
            return (
                f'{topic} carries {", ".join(kinds)}, not {wanted}; set image.transport to what '
                'the topic carries, or remap image to another'
            )
        reliable = ReliabilityPolicy.RELIABLE
        if self._settings.reliable and all(
            camera.qos_profile.reliability != reliable for camera in cameras
        ):
            return f'{topic} is best effort; set image.reliability to best_effort'
        return (
            f'{topic} has a publisher; if it does publish, give it config/fastdds.xml and run it '
            'as the same user'
        )

    def _on_incompatible(self, name: str, event: Any) -> None:
        topic = self._node.resolve_topic_name(name)
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        remedy = (
            'set image.reliability to best_effort'
            if policy == 'RELIABILITY'
            else 'let the camera publish with the default'
        )
        self._node.get_logger().warning(
            f'a publisher of {topic} is not heard, its QoS {policy} does not fit ours: {remedy}'
        )


def camera_qos(settings: Settings) -> QoSProfile:
    """Return the QoS that the settings ask for on all camera topics."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if settings.keep_all else HistoryPolicy.KEEP_LAST,
        depth=settings.queue,
        reliability=(
            ReliabilityPolicy.RELIABLE if settings.reliable else ReliabilityPolicy.BEST_EFFORT
        ),
    )
