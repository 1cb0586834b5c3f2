# SPDX-License-Identifier: Apache-2.0
"""The health of the node: errors and answers are logged and counted, and published."""

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
    UnknownFrameError,
    quoted,
)
from segzero_core.runtime.memory import device_memory
from segzero_core.types import ResultWarning
from segzero_ros.frames import FrameBuffer
from segzero_ros.messages import PerceptionResult, ResultHead, diagnostics_message
from segzero_ros.publishers import NO_EVENTS, RELIABLE

LOADING_LOG_S = 10.0
# Caused by the sentence, the camera, or text that is no answer: the node itself works.
MILD = (
    AnswerError,
    BusyError,
    ImageError,
    NoImageError,
    QueryError,
    StaleFrameError,
    UnknownFrameError,
)

# Warnings about the set-up of camera and nodes; the others are about a single answer.
DOUBTS = ('stale_frame', 'clock_offset', 'frame_id_mismatch', 'duplicate_node')

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class NodeDiagnostics:
    """Collects the values of ``/diagnostics``; every thread may report to it."""

    def __init__(self, node: Node) -> None:
        """Create the publisher."""
        self._node = node
        self._publisher = node.create_publisher(
            DiagnosticArray, '/diagnostics', RELIABLE, event_callbacks=NO_EVENTS
        )
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._latency: dict[str, float] = {}
        # As text: an exception refers to the frames of its callers, and so to half-loaded models.
        self._error = '', OK
        self._loading = ''  # name of the model that is being loaded
        self._loading_since, self._loader = 0.0, 0  # time, and identity of the thread
        self._frames = (0, time.monotonic())  # count of frames at the last look, and its time
        self._duplicates = 0
        self._warnings: tuple[ResultWarning, ...] = ()  # of the last result

    @property
    def standing_warnings(self) -> tuple[ResultWarning, ...]:
        """Warnings that hold for every result, whatever the sentence and the frame."""
        if not self._duplicates:
            return ()
        name = self._node.get_fully_qualified_name()
        message = (
            f'{self._duplicates + 1} nodes are called {name} and each answers every sentence: '
            'give them namespaces, or end one (a killed one counts for up to 20 s)'
        )
        return (ResultWarning('duplicate_node', message),)

    def look_for_duplicates(self) -> None:
        """Look whether other nodes have this node's name; log when that changes."""
        ours = self._node.get_name(), self._node.get_namespace()
        found = self._node.get_node_names_and_namespaces().count(ours) - 1
        before, self._duplicates = self._duplicates, max(found, 0)
        if self._duplicates and not before:
            self._node.get_logger().warning(f'duplicate_node: {self.standing_warnings[0].message}')

    def note(self, message: str) -> None:
        """Log something that is no error."""
        self._node.get_logger().info(message)

    def loading(self, what: str) -> None:
        """Report the model that is being loaded; '' = loading has ended."""
        if self._loading:
            seconds = time.monotonic() - self._loading_since
            self._node.get_logger().info(f'loaded {self._loading} in {seconds:.1f} s')
        self._loading, self._loading_since = what, time.monotonic()
        self._loader = threading.get_ident()
        if what:
            self._node.get_logger().info(f'loading {what}')

    def failed(self, error: BaseException) -> None:
        """Log an error and keep it; unforeseen ones are logged with their traceback."""
        if self._loader == threading.get_ident():  # otherwise another thread is loading
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

    def ended(self, status: str, error: BaseException | None, head: ResultHead) -> None:
        """Count a result, and keep its warnings; see ``status`` of ``~/result``."""
        with self._counting:
            self._counts[status] += 1
            self._counts['parse_failures'] += status == 'error' and isinstance(error, AnswerError)
        before, self._warnings = {warning.kind for warning in self._warnings}, head.warnings
        for kind, message in head.warnings:
            if kind not in before:  # logged when it begins, published with every result
                self._node.get_logger().warning(f'{kind}: {message}')
        if status in ('ok', 'nothing_found'):
            self.recovered()
        elif status in ('error', 'rejected') and error is not None:
            self.failed(error)

    def answered(self, head: ResultHead, answer: PerceptionResult) -> None:
        """Keep the timings of an answer and log it; repetitions only at level debug."""
        with self._counting:
            self._counts['repaired'] += bool(answer.segmentation.repairs)
        self._latency = dict(answer.timings)
        logger = self._node.get_logger()
        said = f'answered {quoted(head.query)} in {answer.timings["total"]:.2f} s'
        if head.repeat:
            logger.debug(said)
            return
        logger.info(said)
        if isinstance(answer.target, SegZeroError):
            logger.warning(f'no metric target: {answer.target}')

    def publish(
        self, state: str, frames: FrameBuffer | None, silence: str | None, values: dict[str, str]
    ) -> None:
        """Publish one status.

        Args:
            state: Of the lifecycle.
            frames: The frames of the camera; ``None`` unless the node is active.
            silence: Why a camera topic is silent; ``None`` if none is.
            values: Further values to publish.
        """
        age = None if frames is None else frames.age()
        (error, error_level), level, summary = self._error, OK, state
        if error:
            level, summary = error_level, 'the last query or transition failed'
        doubts = [w for w in self._all_warnings() if w.kind in DOUBTS]
        if level == OK and doubts:
            level, summary = WARN, doubts[0].message
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
            'warnings': ', '.join(dict.fromkeys(w.kind for w in self._all_warnings())),
            'last_error': error,
        }  # fmt: skip
        header = Header(stamp=self._node.get_clock().now().to_msg())
        name = self._node.get_fully_qualified_name().lstrip('/')
        self._publisher.publish(diagnostics_message(header, name, level, summary, everything))

    def _all_warnings(self) -> tuple[ResultWarning, ...]:
        return (*self.standing_warnings, *self._warnings)

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
    """Return the resident memory of this process in bytes (Linux; proc(5))."""
    pages = Path('/proc/self/statm').read_text(encoding='ascii').split()[1]
    return int(pages) * os.sysconf('SC_PAGE_SIZE')
