# SPDX-License-Identifier: Apache-2.0
"""Shutdown of ROS programs at SIGINT or SIGTERM, in any state, with all messages sent.

Goes with ``ros_context``, which initialises rclpy without its own signal handlers: those close DDS
at once, and the last messages are lost. Here a signal does not interrupt anything, because an
exception inside of a callback or of rclpy could leave either in a broken state. The handler sets
an event, and the program looks at the event.
"""

from __future__ import annotations

import concurrent.futures
import signal
import threading
from types import FrameType

from rclpy.executors import Executor, ExternalShutdownException
from rclpy.task import Future

from segzero_core.runtime.program import GRACE_S, INTERRUPTED, TERMINATED, end_after, end_now


class StopEvent(threading.Event):
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once.

    Attributes:
        exit_code: The program's exit code after the signal; 0 before it, and for a service.
    """

    def __init__(self, service: bool, grace_s: float | None) -> None:
        """Install the signal handlers; must run in the main thread. See ``stop_event``."""
        super().__init__()
        self.exit_code = 0
        self._codes = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
        self._service, self._grace_s = service, grace_s
        for number in self._codes:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        code = self._codes[signal.Signals(number)]
        if self.is_set():
            end_now(code)
        if not self._service:
            self.exit_code = code
        if self._grace_s is not None:
            end_after(self._grace_s, self.exit_code)
        self.set()


def stop_event(service: bool = False, grace_s: float | None = GRACE_S) -> StopEvent:
    """Return an event that SIGINT and SIGTERM set. Call it in the main thread.

    Args:
        service: The program runs until it is stopped: a signal is its ordinary end, exit code 0.
        grace_s: Seconds after the signal until the process is ended in any case; None for a
            program that sees to this itself.
    """
    return StopEvent(service, grace_s)


def spin(executor: Executor, stop: threading.Event, timeout: float) -> bool:
    """Run an executor's callbacks until ``stop`` is set or ROS is shut down.

    The callbacks run in a second thread. Python handles signals only in its main thread, and a
    callback that loads a model, or an idle executor, would keep the main thread from doing so.

    Args:
        executor: Has its nodes already.
        stop: See ``stop_event``; set when this returns.
        timeout: Seconds to wait for the callback that is still running after ``stop``.

    Returns:
        Whether all callbacks have ended.

    Raises:
        Exception: A callback raised it.
    """
    wake: Future[None] = Future(executor=executor)
    ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def work() -> None:
        try:
            executor.spin_until_future_complete(wake)
            ended.set_result(None)
        except ExternalShutdownException:
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 (raised again where somebody catches it)
            ended.set_exception(error)
        finally:
            stop.set()

    # A daemon thread: a callback that does not return must not keep the process alive.
    threading.Thread(target=work, name='executor', daemon=True).start()
    stop.wait()
    if not ended.done():
        wake.set_result(None)
    done, _ = concurrent.futures.wait([ended], timeout)
    if done:
        ended.result()
    return bool(done)
