# SPDX-License-Identifier: Apache-2.0
"""Rules for the callbacks and transitions of a lifecycle node.

A standard ``SingleThreadedExecutor`` runs all callbacks one after another, so none of them may
take long. Transitions may: configuring loads models for minutes. Therefore

* each transition runs in a separate thread. The ``change_state`` service is a coroutine that
  waits for that thread, so its response still says how the transition *ended*, ``get_state``
  truthfully reports ``configuring`` meanwhile, and parameters, other services and diagnostics are
  served all the time (``run_transitions_in_threads``);
* what callbacks use is changed, and ROS entities are destroyed, in the executor's thread only
  (``ExecutorThread``). No lock is needed, and the executor never waits for an entity that
  is being destroyed;
* an exception in a callback or transition is logged and the node lives on (``guarded``,
  ``transition``): rclpy would end the node, or drop the exception.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.task import Future

T = TypeVar('T')


class Guarded(Protocol):
    """A node whose callbacks and transitions run in several threads.

    Attributes:
        transition_lock: Held by a transition from its beginning to its end.
    """

    transition_lock: threading.Lock

    def log_error(self, error: Exception) -> None:
        """Log an error and keep it for the diagnostics."""
        ...

    def undo(self, state: str) -> None:
        """Return to ``state``, in which a failed transition began."""
        ...


def guarded(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Log exceptions of a callback, which would otherwise end the node.

    After an exception the callback returns its last argument: the response of a service, with
    ``success`` still false.
    """

    @functools.wraps(callback)
    def call(self: Guarded, *args: Any) -> Any:
        try:
            return callback(self, *args)
        except Exception as error:  # noqa: BLE001 (logged with its traceback)
            self.log_error(error)
            return args[-1] if args else None

    return call


def transition(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Log exceptions of a transition, undo its work so far, and allow another attempt.

    rclpy itself drops such exceptions.
    """

    @functools.wraps(callback)
    def call(self: Guarded, state: LifecycleState) -> TransitionCallbackReturn:
        with self.transition_lock:
            try:
                return callback(self, state)
            except Exception as error:  # noqa: BLE001 (logged with its traceback)
                self.log_error(error)
                self.undo(state.label)
                return TransitionCallbackReturn.FAILURE

    return call


def run_transitions_in_threads(node: Node) -> None:
    """Let the node's ``change_state`` service run each transition in a separate thread.

    Call it after the lifecycle services have been created, in a reentrant callback group: the
    others must be served while a transition runs.
    """
    for service in node.services:
        if service.srv_type is ChangeState:
            service.callback = functools.partial(_change_state, node, service.callback)


async def _change_state(
    node: Node,
    change: Callable[[Any, Any], Any],
    request: ChangeState.Request,
    response: ChangeState.Response,
) -> ChangeState.Response:
    executor = node.executor
    assert executor is not None  # it runs this coroutine
    done: Future[Any] = Future(executor=executor)

    def work() -> None:
        answer = response
        try:
            answer = change(request, response)
        finally:
            done.set_result(answer)
            with contextlib.suppress(InvalidHandle):  # the executor has been shut down meanwhile
                executor.wake()

    # A daemon: a model that is still being loaded must not keep the process alive.
    threading.Thread(target=work, name='transition', daemon=True).start()
    return await done


class ExecutorThread:
    """Runs functions in the thread that spins a node, for threads that wait for the result.

    Where no executor has the node, and after ``detach``, the caller's thread runs them.
    """

    def __init__(self, node: Node) -> None:
        """Create the guard condition that wakes the executor."""
        self._node = node
        self._lock = threading.Lock()
        self._pending: deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = deque()
        self._detached = False
        self._guard = node.create_guard_condition(self._run, ReentrantCallbackGroup())

    def call(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns; must not be called in the executor's thread.

        Raises:
            Exception: See ``work``.
        """
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            waits = not self._detached and self._node.executor is not None
            if waits:
                self._pending.append((done, work))
        if not waits:
            return work()
        self._guard.trigger()
        return done.result()

    def detach(self) -> None:
        """Run everything that waits, here; call it when the executor no longer spins."""
        with self._lock:
            self._detached = True
        self._run()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._pending:
                    return
                done, work = self._pending.popleft()
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 (raised in the thread that waits)
                done.set_exception(error)
