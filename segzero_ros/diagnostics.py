# SPDX-License-Identifier: Apache-2.0
"""How the node is: what goes wrong is logged and counted here, and told on /diagnostics."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import Header

from segzero_core.errors import (
    AnswerError,
    BusyError,
    ImageError,
    NoImageError,
    QueryError,
    SegZeroError,
    StaleFrameError,
)
from segzero_core.runtime.memory import device_memory
from segzero_ros.frames import FrameBuffer
from segzero_ros.messages import PerceptionResult, diagnostics_message
from segzero_ros.publishers import RELIABLE

LOADING_LOG_S = 10.0
# The fault of the sentence, of the camera, or of an answer that is no answer: the node is well.
MILD = (AnswerError, BusyError, ImageError, NoImageError, QueryError, StaleFrameError)

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class NodeDiagnostics:
    """Keeps what /diagnostics tells. Any thread may report to it."""

    def __init__(self, node: Node) -> None:
        """Create the publisher."""
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', RELIABLE)
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._latency: dict[str, float] = {}
        # As text: an exception holds the frames it went through, and with them half-loaded models.
        self._error = '', OK
        self._loading = ''  # what, while models are loaded
        self._loading_since, self._loader = 0.0, 0  # since when, and in which thread
        self._frames = (0, time.monotonic())  # that had come at the last look, and when that was

    def loading(self, what: str) -> None:
        """Say what is being loaded; '' = nothing any more."""
        if self._loading:
            seconds = time.monotonic() - self._loading_since
            self._node.get_logger().info(f'loaded {self._loading} in {seconds:.1f} s')
        self._loading, self._loading_since = what, time.monotonic()
        self._loader = threading.get_ident()
        if what:
            self._node.get_logger().info(f'loading {what}')

    def failed(self, error: BaseException) -> None:
        """Log an error and keep it; traceback for those nobody foresaw."""
        if self._loader == threading.get_ident():  # else another sentence's error
            self._loading = ''
        level = WARN if isinstance(error, MILD) else ERROR
        self._error = f'{type(error).__name__}: {error}', level
        if isinstance(error, SegZeroError):
            self._node.get_logger().error(str(error))
        else:
            self._node.get_logger().error(''.join(traceback.format_exception(error)))

    def recovered(self) -> None:
        """Forget the last error."""
        self._error = '', OK

    def ended(self, status: str, error: BaseException | None) -> None:
        """Count how a sentence ended; see the ``status`` of results."""
        with self._counting:
            self._counts[status] += 1
            self._counts['parse_failures'] += status == 'error' and isinstance(error, AnswerError)
        if status in ('ok', 'nothing_found'):
            self.recovered()
        elif status in ('error', 'rejected') and error is not None:
            self.failed(error)

    def answered(self, query: str, answer: PerceptionResult) -> None:
        """Keep how long an answer took, and log it."""
        with self._counting:
            self._counts['repaired'] += bool(answer.segmentation.repairs)
        self._latency = dict(answer.timings)
        logger = self._node.get_logger()
        if isinstance(answer.target, SegZeroError):
            logger.warning(f'no metric target: {answer.target}')
        logger.info(f'answered {query!r} in {answer.timings["total"]:.2f} s')

    def publish(
        self, state: str, frames: FrameBuffer | None, silence: str | None, values: dict[str, str]
    ) -> None:
        """Publish one status.

        Args:
            state: Of the lifecycle.
            frames: What the camera fills, while the node is active.
            silence: Why a camera topic is silent, if one is.
            values: What else there is to say.
        """
        age = None if frames is None else frames.age()
        (error, error_level), level, summary = self._error, OK, state
        if error:
            level, summary = error_level, 'the last query or transition failed'
        if level != ERROR and (silence or (state == 'active' and age is None)):
            level, summary = WARN, silence or 'no image has come'
        everything = {
            'state': state,
            'loading': self._loading_for(),
            **values,
            'frame_age_s': '' if age is None else f'{age:.3f}',
            'frame_rate_hz': self._frame_rate(frames),
            **{f'latency_{stage}_s': f'{s:.3f}' for stage, s in self._latency.items()},
            **{
                each: str(self._counts[each])
                for each in (
                    'ok', 'nothing_found', 'error', 'cancelled', 'replaced', 'rejected',
                    'parse_failures', 'repaired',
                )
            },
            'memory_mb': f'{resident_memory() / 1e6:.0f}',
            **{
                f'{device}_memory_mb': f'{used / 1e6:.0f} of {all_ / 1e6:.0f}'
                for device, (used, all_) in device_memory().items()
            },
            'last_error': error,
        }  # fmt: skip
        header = Header(stamp=self._node.get_clock().now().to_msg())
        name = self._node.get_fully_qualified_name().lstrip('/')
        self._publisher.publish(diagnostics_message(header, name, level, summary, everything))

    def _loading_for(self) -> str:
        what = self._loading
        if what:
            what += f' for {time.monotonic() - self._loading_since:.0f} s'
            self._node.get_logger().info(
                f'loading {what}', throttle_duration_sec=LOADING_LOG_S, skip_first=True
            )
        return what

    def _frame_rate(self, frames: FrameBuffer | None) -> str:
        count, now = (0 if frames is None else frames.count), time.monotonic()
        (before, then), self._frames = self._frames, (count, now)
        if frames is None or count < before or now <= then:
            return ''  # a new start
        return f'{(count - before) / (now - then):.1f}'


def resident_memory() -> int:
    """Return the memory this process takes, in bytes (Linux; proc(5))."""
    pages = Path('/proc/self/statm').read_text(encoding='ascii').split()[1]
    return int(pages) * os.sysconf('SC_PAGE_SIZE')
