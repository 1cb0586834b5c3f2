# SPDX-License-Identifier: Apache-2.0
"""Forwards the records of Python's loggers to a ROS logger.

With ``--log-level segzero:=debug`` the debug lines of this project appear, without those of rcl
and the middleware, which ``--log-level debug`` turns on as well.
"""

from __future__ import annotations

import logging
from typing import Any

from rclpy.logging import LoggingSeverity

PACKAGES = ('segzero_core', 'segzero_ros')


class RosoutHandler(logging.Handler):
    """Writes records to a ROS logger, with the severity that is nearest to their level."""

    def __init__(self, logger: Any) -> None:
        """Keep the logger, a node's ``get_logger()``."""
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 (as in logging: the program must continue)
            self.handleError(record)
            return
        # rclpy remembers a severity for each line of code that logs: one line for each.
        if record.levelno >= logging.CRITICAL:
            self._logger.fatal(text)
        elif record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def forward_logs(logger: Any) -> RosoutHandler:
    """Forward the records of our packages to ``logger``; return the handler."""
    handler = RosoutHandler(logger)
    debug = logger.get_effective_level() <= LoggingSeverity.DEBUG
    for name in PACKAGES:
        package = logging.getLogger(name)
        package.addHandler(handler)
        package.setLevel(logging.DEBUG if debug else logging.INFO)
        package.propagate = False  # the root logger would print it a second time
    return handler
