# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the camera topics, and the reasons why a topic is silent."""

from __future__ import annotations

import functools
import time
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.frames import FrameBuffer
from segzero_ros.settings import NodeSettings


class Cameras:
    """The subscriptions that fill a ``FrameBuffer``."""

    def __init__(self, node: Node, settings: NodeSettings, frames: FrameBuffer) -> None:
        """Create the subscriptions that the settings ask for."""
        self._node, self._settings, self._frames = node, settings, frames
        self._since = time.monotonic()
        self._silent = ''  # name of the topic that was silent at the last look
        topics: dict[str, tuple[Any, Any]] = {
            'image': (CompressedImage if settings.compressed else Image, frames.add_image)
        }
        if settings.slop is not None:
            depth_kind = CompressedImage if settings.compressed_depth else Image
            topics['depth'] = depth_kind, frames.add_depth
            topics['camera_info'] = CameraInfo, frames.add_info
        self._kinds = {name: kind for name, (kind, _) in topics.items()}
        self._subscriptions = [
            node.create_subscription(
                kind,
                name,
                keep,
                camera_qos(settings),
                event_callbacks=SubscriptionEventCallbacks(
                    incompatible_qos=functools.partial(self._on_incompatible, name),
                    use_default_callbacks=False,  # each costs time for every image
                ),
            )
            for name, (kind, keep) in topics.items()
        ]

    def destroy(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def silence(self, timeout: float) -> str | None:
        """Return why a topic has been silent for ``timeout`` seconds; ``None`` if none has.

        It is logged when messages stop and when they come again. Call it regularly.

        Args:
            timeout: Seconds; 0 = no limit.
        """
        silent = [name for name in self._kinds if timeout and self._seconds(name) > timeout]
        first = silent[0] if silent else ''
        reason = None
        if first:
            reason = f'no {first} has come for {self._seconds(first):.0f} s: '
            reason += self._why_silent(first)
        if self._silent and self._silent not in silent:
            self._node.get_logger().info(f'{self._silent} comes again')
        if reason and first != self._silent:
            self._node.get_logger().warning(reason)
        self._silent = first
        return reason

    def _seconds(self, name: str) -> float:
        """Return how long a topic has been silent."""
        age = self._frames.age(name)
        if age is None:
            return time.monotonic() - self._since
        return 0.0 if name == 'camera_info' else age  # one is enough: some drivers send it once

    def _why_silent(self, name: str) -> str:
        topic = self._node.resolve_topic_name(name)
        cameras = self._node.get_publishers_info_by_topic(topic)
        if not cameras:
            return f'nobody publishes {topic}; start the camera, or remap {name} to its topic'
        wanted = f'sensor_msgs/msg/{self._kinds[name].__name__}'
        kinds = sorted({camera.topic_type for camera in cameras})
        if wanted not in kinds:
            remedy = f'remap {name} to another'
            if name != 'camera_info':
                remedy = f'set {name}.transport to what the topic carries, or {remedy}'
            return f'{topic} carries {", ".join(kinds)}, not {wanted}; {remedy}'
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
            f'a publisher of {topic} is not heard because its QoS {policy} does not fit: {remedy}'
        )


def camera_qos(settings: NodeSettings) -> QoSProfile:
    """Return the QoS that the settings ask for on all camera topics."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if settings.keep_all else HistoryPolicy.KEEP_LAST,
        depth=settings.queue,
        reliability=(
            ReliabilityPolicy.RELIABLE if settings.reliable else ReliabilityPolicy.BEST_EFFORT
        ),
    )
