# SPDX-License-Identifier: Apache-2.0
"""The publishers of the node, and the messages that belong together."""

from __future__ import annotations

from dataclasses import replace
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
    NOWHERE,
    PerceptionResult,
    ResultHead,
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
# bursts: with a depth of 10, some pieces of text, sentences or results would be lost.
TEXTS = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
# rclpy would create two event handlers for each publisher, and look at each for every image.
NO_EVENTS = PublisherEventCallbacks(use_default_callbacks=False)


class Publishers:
    """The publishers. Any thread may publish; nothing goes out unless the node is active."""

    def __init__(self, node: LifecycleNodeMixin) -> None:
        """Create the publishers; the node's transitions open and close them."""
        self._node = node
        self._shown: tuple[Header, tuple[int, int]] | None = None  # on ~/mask
        self._target_shown: Header | None = None  # on ~/target_point
        self._overlay_shown: tuple[Header, tuple[int, ...]] | None = None

        def create(kind: Any, topic: str, qos: QoSProfile) -> Any:
            return node.create_lifecycle_publisher(kind, topic, qos, event_callbacks=NO_EVENTS)

        self._mask = create(Image, '~/mask', RELIABLE)
        self._target_pixels = create(PolygonStamped, '~/target_pixels', RELIABLE)
        self._target_points = create(PoseArray, '~/target_points', RELIABLE)
        self._target_point = create(PointStamped, '~/target_point', RELIABLE)
        self._reasoning = create(String, '~/reasoning', RELIABLE)
        self._reasoning_stream = create(String, '~/reasoning_stream', TEXTS)
        self._result = create(String, '~/result', TEXTS)
        self._overlay = create(Image, '~/overlay', RELIABLE)

    def answer(self, head: ResultHead, answer: PerceptionResult) -> None:
        """Publish an answer, ``~/result`` after the messages that it joins.

        An answer that cannot be made messages raises before anything is published.
        """
        header, found, target = answer.header, answer.segmentation, answer.target
        mask = mask_message(header, found.mask)
        result = document_message(answer_document(head, answer))
        height, width = found.mask.shape
        self._shown = header, (height, width)
        self._mask.publish(mask)
        self._target_pixels.publish(pixels_message(header, found.points))
        if isinstance(target, GraspTarget):
            where = target_header(header, target)
            self._target_shown = where
            self._target_points.publish(poses_message(where, target.points))
            self._target_point.publish(point_message(where, target.point))
        else:
            self._clear_target()
        self._reasoning.publish(text_message(found.reasoning))
        self._result.publish(result)

    def overlay(self, query: str, answer: PerceptionResult) -> None:
        """Draw an answer for people, only if somebody subscribes: it takes time."""
        if self.overlay_subscribers():
            picture = draw_overlay(answer.image, answer.segmentation, query)
            self._overlay_shown = answer.header, picture.shape
            self._overlay.publish(array_to_image(picture, 'rgb8', answer.header))

    def overlay_subscribers(self) -> int:
        """Return the number of subscribers of ``~/overlay``."""
        return int(self._overlay.get_subscription_count())

    def failure(self, head: ResultHead, status: str, error: BaseException | None = None) -> None:
        """Publish why there is no answer; see ``failure_document``."""
        head = replace(head, query=head.query[:MAX_QUERY_CHARACTERS])
        self._result.publish(document_message(failure_document(head, status, error)))

    def stream(self, piece: str) -> None:
        """Publish a piece of the reasoner's text."""
        self._reasoning_stream.publish(text_message(piece))

    def clear(self, header: Header | None = None) -> None:
        """Take back the last answer on every topic that shows one.

        The mask becomes empty, the overlay black, the reasoning '', the lists of points empty, and
        the single point, which has no empty form, NaN.

        Args:
            header: Of the frame that the object is no longer in; ``None`` or an empty header
                stands for the frame of the last answer.
        """
        if self._shown is None:
            return
        last, shape = self._shown
        header = header if header is not None and header.frame_id else last
        self._shown = None
        self._mask.publish(mask_message(header, np.zeros(shape, bool)))
        self._target_pixels.publish(pixels_message(header, []))
        if self._target_shown is None:
            self._target_points.publish(poses_message(header, []))
        self._clear_target()
        self._reasoning.publish(text_message(''))
        if self._overlay_shown is not None:
            where, size = self._overlay_shown
            self._overlay_shown = None
            black = np.zeros(size, np.uint8)
            self._overlay.publish(array_to_image(black, 'rgb8', where))

    def _clear_target(self) -> None:
        if self._target_shown is not None:
            where, self._target_shown = self._target_shown, None
            self._target_points.publish(poses_message(where, []))
            self._target_point.publish(point_message(where, NOWHERE))

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
