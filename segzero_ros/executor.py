# SPDX-License-Identifier: Apache-2.0
"""The executor of a node some of whose callbacks take minutes."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import EventHandler
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future

EVENTS_S = 1.0


class AsideExecutor(SingleThreadedExecutor):
    """Runs callbacks one after the other, but those of one group beside the others.

    A transition that loads models would else keep the node from answering anything; and rclpy's
    multi-threaded executor wakes up three times for each image.

    DDS events, such as QoS that does not fit, are looked at when something else happens, at most
    once in ``EVENTS_S``. There are two for each topic, more of them than of everything else, and
    each would cost time whenever rclpy prepares to wait.

    Those of the group may destroy what the executor is just waiting for, or responding with.
    rclpy then raises ``InvalidHandle``, which ends the executors it brings.
    """

    def __init__(self, aside: CallbackGroup) -> None:
        """Start without a node; each callback of ``aside`` gets a thread of its own."""
        super().__init__()
        self._aside = aside
        self._events, self._events_due = True, 0.0
        self._events_seen = False

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run one callback; see rclpy."""
        with contextlib.suppress(InvalidHandle):
            super().spin_once(timeout_sec)

    def spin_until_future_complete(
        self, future: Future[Any], timeout_sec: float | None = None
    ) -> None:
        """Run callbacks until ``future`` is done; see rclpy."""
        while True:
            with contextlib.suppress(InvalidHandle):
                super().spin_until_future_complete(future, timeout_sec)
                return

    def can_execute(self, entity: Any) -> bool:
        """Return whether to wait for an entity; see rclpy."""
        if isinstance(entity, EventHandler):
            if not self._events:
                return False
            self._events_seen = True
        return super().can_execute(entity)

    def wait_for_ready_callbacks(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next callback to run here; see rclpy."""
        while True:
            now = time.monotonic()
            if self._events_seen:
                self._events_seen, self._events_due = False, now + EVENTS_S
            self._events = now >= self._events_due
            ready = super().wait_for_ready_callbacks(*args, **kwargs)
            handler, entity, _ = ready
            if entity is None or entity.callback_group is not self._aside:
                return ready
            # A daemon: a model that is still being loaded must not keep the process alive.
            threading.Thread(target=handler, name='transition', daemon=True).start()
