# SPDX-License-Identifier: Apache-2.0
"""How our processes end: at SIGINT or SIGTERM, in any state, with their last messages sent.

Goes with ``rclpy.init(signal_handler_options=SignalHandlerOptions.NO)``: rclpy's own handlers
close DDS at once, and the last messages with it. A signal interrupts nothing here (an exception
inside of a callback, or of rclpy itself, could break anything): it is noted, and looked at.
"""

from __future__ import annotations

import concurrent.futures
import signal
import threading
from types import FrameType

from rclpy.executors import Executor, ExternalShutdownException
from rclpy.task import Future


def stop_event() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set. Call it in the main thread."""
    stop = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, note)
    return stop


def spin(executor: Executor, stop: threading.Event, timeout: float) -> bool:
    """Run an executor's callbacks until ``stop`` is set or ROS is shut down.

    They run in a thread of their own: Python sees signals only in its main thread, which a
    callback that loads a model, or an idle executor, would keep from looking.

    Args:
        executor: Has its nodes already.
        stop: See ``stop_event``; set when this returns.
        timeout: How long to wait for the callback that still runs then, seconds.

    Returns:
        Whether no callback runs any more.

    Raises:
        Exception: What a callback raised.
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

    # A daemon: a callback that does not return must not keep the process alive.
    threading.Thread(target=work, name='executor', daemon=True).start()
    stop.wait()
    if not ended.done():
        wake.set_result(None)
    done, _ = concurrent.futures.wait([ended], timeout)
    if done:
        ended.result()
    return bool(done)
