# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node ``segzero``: topics and services in, the worker, topics out."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from segzero_core.errors import AnswerError, QueryError, SegZeroError
from segzero_core.prompts import check_query
from segzero_ros.answering import Answerer, Job
from segzero_ros.callbacks import guarded, transition
from segzero_ros.cameras import Cameras
from segzero_ros.executor import AsideExecutor
from segzero_ros.frames import FrameBuffer
from segzero_ros.messages import Answer, diagnostics_message
from segzero_ros.outputs import RELIABLE, Outputs
from segzero_ros.parameters import PARAMETERS, Settings, declare_parameters, read_settings
from segzero_ros.signals import spin, stop_event
from segzero_ros.worker import Outcome, Worker

FIRST_FRAME_S = 5.0  # after activation: DDS may need half of it to find the camera
STOP_S = 1.0  # for a model to notice that it was cancelled; a process ends within 2 s in all
DIAGNOSTICS_S = 1.0
LOADING_LOG_S = 10.0

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class SegZeroNode(LifecycleNodeMixin, Node):
    """Answers sentences about the newest camera image.

    Models and outputs live from configure to cleanup, inputs from activate to deactivate.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Declare parameters; everything else comes with the transitions."""
        # LifecycleNode is just these two, but gives transitions no group of their own.
        Node.__init__(self, 'segzero', **kwargs)
        self.transitions = ReentrantCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=self.transitions)
        self.lock = threading.RLock()
        self.transition_lock = threading.Lock()
        self._state = 'unconfigured'
        self._loading = ''  # what, while models are loaded
        self._loading_since = 0.0
        declare_parameters(self, PARAMETERS, self._settled)
        self.add_post_set_parameters_callback(self._on_parameters_set)
        self._last_error = ''
        self._settings: Settings | None = None
        self._worker: Worker[Job, Answer] | None = None
        self._frames: FrameBuffer | None = None
        self._cameras: Cameras | None = None
        self._inputs: list[Any] = []
        self._outputs: Outputs | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', RELIABLE)
        self._timer = self.create_timer(DIAGNOSTICS_S, self._on_timer)

    def start(self) -> None:
        """Configure and, if that worked, activate."""
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read parameters, load the models, create the outputs."""
        self._state, self._last_error = 'configuring', ''
        settings = read_settings(self)
        answerer = Answerer(settings, self._on_progress)  # meanwhile all callbacks are served
        self._loading = ''
        run = functools.partial(self._answer, answerer)
        with self.lock:
            self._settings = settings
            self._worker = Worker(run, self._report, free=answerer.close)
            self._outputs = Outputs(self)
            self._state = 'inactive'
        return super().on_configure(state)

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the outputs, then the inputs."""
        result = super().on_activate(state)
        with self.lock:
            self._listen()
            self._state = 'active'
        return result

    @transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the inputs, cancel what runs, close the outputs."""
        self.stop_listening()
        self._state = 'inactive'
        return super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the models, destroy the outputs."""
        self.release()
        return super().on_cleanup(state)

    @transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Do what deactivate and cleanup do."""
        self.release()
        self._state = 'finalized'
        return super().on_shutdown(state)

    def release(self) -> bool:
        """Let go of everything; return whether the models stopped in time."""
        with self.lock:
            self.stop_listening()
            stopped = self._worker is None or self._worker.close(STOP_S)
            if not stopped:
                self.get_logger().warning('the model does not stop; it is freed when it does')
            self._worker = None
            if self._outputs is not None:
                self._outputs.destroy()
            self._outputs = None
            self._settings = None
            self._state = 'unconfigured'
            return stopped

    def undo(self, state: str) -> None:
        """Return to ``state``, where a transition that failed began."""
        self._loading = ''
        self.stop_listening()
        if state == 'unconfigured':
            self.release()
        self._state = state

    def close(self) -> bool:
        """Let go of everything; return whether transition and models stopped in time."""
        if not self.transition_lock.acquire(timeout=STOP_S):
            return False
        try:
            return self.release()
        finally:
            self.transition_lock.release()

    def _settled(self) -> str | None:
        """Return why parameters that are read when the node is configured cannot change now."""
        if self._state == 'unconfigured':
            return None
        return (
            f'is read when the node is configured, and it is {self._state}: take it through '
            'deactivate and cleanup, set it, then configure and activate'
        )

    def _on_parameters_set(self, parameters: list[Parameter[Any]]) -> None:
        with self.lock:
            if self._settings is not None:
                self._settings = read_settings(self)

    def _on_progress(self, what: str) -> None:
        """Say what is being loaded; runs in the transition's thread."""
        self._loading, self._loading_since = what, time.monotonic()
        self.get_logger().info(f'loading {what}')

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _listen(self) -> None:
        settings = self._settings
        assert settings is not None  # configured
        self._frames = FrameBuffer(settings.slop, FIRST_FRAME_S, self._now)
        self._cameras = Cameras(self, settings, self._frames)
        self._inputs = [
            self.create_service(Trigger, '~/cancel', self._on_cancel),
            self.create_service(Trigger, '~/clear', self._on_clear),
            self.create_subscription(String, '~/query', self._on_query, RELIABLE),
        ]

    def stop_listening(self) -> None:
        """Destroy the inputs and cancel what runs; its outcome is published before returning."""
        with self.lock:
            for entity in reversed(self._inputs):
                is_service = hasattr(entity, 'srv_type')
                (self.destroy_service if is_service else self.destroy_subscription)(entity)
            self._inputs = []
            if self._cameras is not None:
                self._cameras.destroy()
            self._cameras = None
            self._frames = None
            if self._worker is not None:
                self._worker.cancel(wait=True)

    @guarded
    def _on_query(self, message: String) -> None:
        if self._worker is None or self._frames is None or self._settings is None:
            return  # deactivated while the sentence was on its way here
        job = Job(message.data, self._frames, self._settings)
        try:
            check_query(job.query)
        except QueryError as error:  # not worth dropping a good sentence for
            self._report(job, Outcome('failed', error=error))
        else:
            self._worker.submit(job)

    @guarded
    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._worker is not None and self._worker.cancel()
        response.message = 'cancelled' if response.success else 'nothing to cancel'
        return response

    @guarded
    def _on_clear(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._worker is not None and self._outputs is not None:
            self._worker.cancel(wait=True)
            self._outputs.clear()
            response.success = True
        return response

    @guarded
    def _on_timer(self) -> None:
        age = None if self._frames is None else self._frames.age()
        level, summary = DiagnosticStatus.OK, self._state
        silence = None
        if self._cameras is not None and self._settings is not None:
            silence = self._cameras.silence(self._settings.timeout)
        if silence or (self._state == 'active' and age is None):
            level, summary = DiagnosticStatus.WARN, silence or 'no image has come'
        elif self._last_error:
            level, summary = DiagnosticStatus.WARN, 'the last query or transition failed'
        loading = self._loading
        if loading:
            loading += f' for {time.monotonic() - self._loading_since:.0f} s'
            self.get_logger().info(
                f'loading {loading}', throttle_duration_sec=LOADING_LOG_S, skip_first=True
            )
        values = {
            'state': self._state,
            'loading': loading,
            'busy': str(self._worker is not None and self._worker.busy),
            'frame_age_s': '' if age is None else f'{age:.3f}',
            'last_error': self._last_error,
        }
        header = Header(stamp=self.get_clock().now().to_msg())
        name = self.get_fully_qualified_name().lstrip('/')
        self._diagnostics.publish(diagnostics_message(header, name, level, summary, values))

    def _answer(self, answerer: Answerer, job: Job, cancel: threading.Event) -> Answer:
        """Run in the worker's thread."""

        def stream(piece: str) -> None:
            if self._outputs is not None and not cancel.is_set():
                self._outputs.stream(piece)

        return answerer.answer(job, stream, cancel)

    def _report(self, job: Job, outcome: Outcome[Answer]) -> None:
        """Publish how a job ended, in whichever thread decided it."""
        assert self._outputs is not None  # they are destroyed after the worker is closed
        answer, error = outcome.answer, outcome.error
        if answer is not None:
            self._last_error = ''
            self._outputs.answer(job.query, answer)
            if isinstance(answer.target, SegZeroError):
                self.get_logger().warning(f'no metric target: {answer.target}')
            seconds = answer.timings['total']
            self.get_logger().info(f'answered {job.query!r} in {seconds:.2f} s')
        elif isinstance(error, AnswerError) and error.kind == 'nothing_found':
            self._outputs.failure(job.header, job.query, 'nothing_found', error)
        elif error is not None:
            self.log_error(error)
            self._outputs.failure(job.header, job.query, 'error', error)
        else:
            self._outputs.failure(job.header, job.query, outcome.status)

    def log_error(self, error: Exception) -> None:
        """Log an error and keep it for the diagnostics; traceback for those nobody foresaw."""
        self._last_error = f'{type(error).__name__}: {error}'
        if isinstance(error, SegZeroError):
            self.get_logger().error(str(error))
        else:
            self.get_logger().error(''.join(traceback.format_exception(error)))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    stop = stop_event()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = SegZeroNode()
    executor = AsideExecutor(node.transitions)
    executor.add_node(node)
    if node.get_parameter('autostart').value:
        threading.Thread(target=node.start, name='autostart', daemon=True).start()
    idle = True
    try:
        idle = spin(executor, stop, STOP_S)
    finally:
        idle = idle and node.close()
        if idle:
            node.destroy_node()
            rclpy.try_shutdown()
    if not idle:
        os._exit(0)  # Python would wait for a model that does not return
    return 0


if __name__ == '__main__':
    sys.exit(main())
