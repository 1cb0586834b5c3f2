# SPDX-License-Identifier: Apache-2.0
"""The topics the node publishes on, and what goes out on them together."""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped, PolygonStamped, PoseArray
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from segzero_core.grasping.target import GraspTarget
from segzero_core.overlay import draw_overlay
from segzero_core.prompts import MAX_QUERY_CHARACTERS
from segzero_ros.images import array_to_image
from segzero_ros.messages import (
    PerceptionResult,
    answer_document,
    document_message,
    failure_document,
    mask_message,
    pixels_message,
    point_message,
    poses_message,
    target_header,
    text_message,
)

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# A fast reasoner writes a whole thought before a subscriber wakes up, and sentences may come in
# bursts: with a depth of 10, some of them or of their results would be lost.
TEXTS = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)


class Publishers:
    """The publishers. Any thread may publish; nothing goes out unless the node is active."""

    def __init__(self, node: LifecycleNodeMixin) -> None:
        """Create the publishers; the node's transitions open and close them."""
        self._node = node
        self._shown: tuple[Header, tuple[int, int]] | None = None  # what ~/mask showed last

        def create(kind: Any, topic: str, qos: QoSProfile) -> Any:
            # Each default event callback is one more entity that the executor looks at for every
            # image; there would be sixteen.
            quiet = PublisherEventCallbacks(use_default_callbacks=False)
            return node.create_lifecycle_publisher(kind, topic, qos, event_callbacks=quiet)

        self._mask = create(Image, '~/mask', RELIABLE)
        self._target_pixels = create(PolygonStamped, '~/target_pixels', RELIABLE)
        self._target_points = create(PoseArray, '~/target_points', RELIABLE)
        self._target_point = create(PointStamped, '~/target_point', RELIABLE)
        self._reasoning = create(String, '~/reasoning', RELIABLE)
        self._reasoning_stream = create(String, '~/reasoning_stream', TEXTS)
        self._result = create(String, '~/result', TEXTS)
        self._overlay = create(Image, '~/overlay', RELIABLE)

    def answer(self, query: str, answer: PerceptionResult, repeat: int = 0) -> None:
        """Publish an answer, ``~/result`` after what it ties together; see ``answer_document``.

        What cannot be made a message raises before anything is published.
        """
        header, found, target = answer.header, answer.segmentation, answer.target
        mask = mask_message(header, found.mask)
        result = document_message(answer_document(answer, query, repeat))
        height, width = found.mask.shape
        self._shown = header, (height, width)
        self._mask.publish(mask)
        self._target_pixels.publish(pixels_message(header, found.points))
        if isinstance(target, GraspTarget):
            where = target_header(header, target)
            self._target_points.publish(poses_message(where, target.points))
            self._target_point.publish(point_message(where, target.point))
        self._reasoning.publish(text_message(found.reasoning))
        self._result.publish(result)

    def overlay(self, query: str, answer: PerceptionResult) -> None:
        """Draw an answer for people, if there are any: it takes time."""
        if self._overlay.get_subscription_count():
            picture = draw_overlay(answer.image, answer.segmentation, query)
            self._overlay.publish(array_to_image(picture, 'rgb8', answer.header))

    def failure(
        self,
        header: Header,
        query: str,
        status: str,
        error: BaseException | None = None,
        repeat: int = 0,
    ) -> None:
        """Publish why there is no answer; see ``failure_document``."""
        recognisable = query[:MAX_QUERY_CHARACTERS]
        document = failure_document(header, recognisable, status, error, repeat)
        self._result.publish(document_message(document))

    def stream(self, piece: str) -> None:
        """Publish a piece of the reasoner's text."""
        self._reasoning_stream.publish(text_message(piece))

    def clear(self, header: Header | None = None) -> None:
        """Take back what was shown last: an empty mask of its size, and no points.

        Args:
            header: Of the frame it is no longer in; ``None`` or an empty one = the one it was in.
        """
        if self._shown is None:
            return
        last, shape = self._shown
        header = header if header is not None and header.frame_id else last
        self._shown = None
        self._mask.publish(mask_message(header, np.zeros(shape, bool)))
        self._target_pixels.publish(pixels_message(header, []))
        self._target_points.publish(poses_message(header, []))

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in (
            self._mask,
            self._target_pixels,
            self._target_points,
            self._target_point,
            self._reasoning,
            self._reasoning_stream,
            self._result,
            self._overlay,
        ):
            self._node.destroy_lifecycle_publisher(publisher)
