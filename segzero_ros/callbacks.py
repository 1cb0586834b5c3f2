# SPDX-License-Identifier: Apache-2.0
"""What holds for every callback of the node: what it raises is logged, and the node lives on."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn


class Guarded(Protocol):
    """A node whose callbacks and transitions run in several threads.

    Attributes:
        lock: Held by callbacks, and by transitions where they change what callbacks use.
        transition_lock: Held by a transition from its beginning to its end.
    """

    lock: threading.RLock
    transition_lock: threading.Lock

    def log_error(self, error: Exception) -> None:
        """Log an error and keep it for the diagnostics."""
        ...

    def undo(self, state: str) -> None:
        """Return to ``state``, where a transition that failed began."""
        ...


def guarded(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Log what a callback raises: rclpy would end the node.

    The last argument is returned then: a service's response, with ``success`` still false.
    """

    @functools.wraps(callback)
    def call(self: Guarded, *args: Any) -> Any:
        try:
            with self.lock:
                return callback(self, *args)
        except Exception as error:  # noqa: BLE001 (logged, traceback and all)
            self.log_error(error)
            return args[-1] if args else None

    return call


def transition(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Log what a transition raises, undo its half of the work, and let it be tried again.

    rclpy itself throws such exceptions away.
    """

    @functools.wraps(callback)
    def call(self: Guarded, state: LifecycleState) -> TransitionCallbackReturn:
        with self.transition_lock:
            try:
                return callback(self, state)
            except Exception as error:  # noqa: BLE001 (logged, traceback and all)
                self.log_error(error)
                self.undo(state.label)
                return TransitionCallbackReturn.FAILURE

    return call
