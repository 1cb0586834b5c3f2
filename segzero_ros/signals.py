# SPDX-License-Identifier: Apache-2.0
"""How our processes end: at the first signal, and undisturbed by the next."""

from __future__ import annotations

import signal
from types import FrameType


def interrupt_once() -> None:
    """Let the first SIGINT or SIGTERM raise ``KeyboardInterrupt``, and ignore any further one.

    Of a Ctrl-C under ``ros2 launch`` every process gets two: from the terminal and from launch.
    Goes with ``rclpy.init(signal_handler_options=SignalHandlerOptions.NO)``: rclpy's own handlers
    close DDS at once, and the last messages with it.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, interrupt)
