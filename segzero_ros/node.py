# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node ``segzero``: topics and services in, the worker, topics out."""

from __future__ import annotations

import functools
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from segzero_core.errors import AnswerError, QueryError, SegZeroError
from segzero_core.prompts import check_query
from segzero_ros.answering import Answerer, Job
from segzero_ros.frames import FrameBuffer
from segzero_ros.messages import Answer, diagnostics_message
from segzero_ros.outputs import RELIABLE, Outputs
from segzero_ros.parameters import PARAMETERS, Settings, declare_parameters, read_settings
from segzero_ros.signals import spin, stop_event
from segzero_ros.worker import Outcome, Worker

FIRST_FRAME_S = 5.0  # after activation: DDS may need half of it to find the camera
STOP_S = 1.0  # for a model to notice that it was cancelled; a process ends within 2 s in all
DIAGNOSTICS_S = 1.0

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def guarded(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Log what a callback raises: rclpy would end the node.

    The last argument is returned then: a service's response, with ``success`` still false.
    """

    @functools.wraps(callback)
    def call(self: SegZeroNode, *args: Any) -> Any:
        try:
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
    def call(self: SegZeroNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(self, state)
        except Exception as error:  # noqa: BLE001 (logged, traceback and all)
            self.log_error(error)
            self.stop_listening()
            if state.label == 'unconfigured':
                self.release()
            return FAILURE

    return call


class SegZeroNode(LifecycleNode):
    """Answers sentences about the newest camera image.

    Models and outputs live from configure to cleanup, inputs from activate to deactivate.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Declare parameters; everything else comes with the transitions."""
        super().__init__('segzero', **kwargs)
        declare_parameters(self, PARAMETERS)
        self._state = 'unconfigured'
        self._last_error = ''
        self._settings: Settings | None = None
        self._worker: Worker[Job, Answer] | None = None
        self._frames: FrameBuffer | None = None
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
        self._settings = read_settings(self)
        answerer = Answerer(self._settings)
        run = functools.partial(self._answer, answerer)
        self._worker = Worker(run, self._report, free=answerer.close)
        self._outputs = Outputs(self)
        self._state = 'inactive'
        self._last_error = ''
        return super().on_configure(state)

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the outputs, then the inputs."""
        result = super().on_activate(state)
        self._listen()
        self._state = 'active'
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the inputs, cancel what runs, close the outputs."""
        self.stop_listening()
        self._state = 'inactive'
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the models, destroy the outputs."""
        self.release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Do what deactivate and cleanup do."""
        self.release()
        self._state = 'finalized'
        return super().on_shutdown(state)

    def release(self) -> bool:
        """Let go of everything; return whether the models stopped in time."""
        self.stop_listening()
        stopped = self._worker is None or self._worker.close(STOP_S)
        if not stopped:
            self.get_logger().warning('the model does not stop; it is freed when it does')
        self._worker = None
        if self._outputs is not None:
            self._outputs.destroy()
        self._outputs = None
        self._state = 'unconfigured'
        return stopped

    def _listen(self) -> None:
        settings = self._settings
        assert settings is not None  # configured
        self._frames = frames = FrameBuffer(settings.slop, FIRST_FRAME_S)
        reliability = (
            ReliabilityPolicy.RELIABLE if settings.reliable else ReliabilityPolicy.BEST_EFFORT
        )
        newest = QoSProfile(depth=1, reliability=reliability)
        kind = CompressedImage if settings.compressed else Image
        subscribe = self.create_subscription
        self._inputs = [subscribe(kind, 'image', frames.add_image, newest)]
        if settings.slop is not None:
            self._inputs += [
                subscribe(Image, 'depth', frames.add_depth, newest),
                subscribe(CameraInfo, 'camera_info', frames.add_info, newest),
            ]
        self._inputs += [
            self.create_service(Trigger, '~/cancel', self._on_cancel),
            self.create_service(Trigger, '~/clear', self._on_clear),
            subscribe(String, '~/query', self._on_query, RELIABLE),
        ]

    def stop_listening(self) -> None:
        """Destroy the inputs and cancel what runs; its outcome is published before returning."""
        for entity in reversed(self._inputs):
            is_service = hasattr(entity, 'srv_type')
            (self.destroy_service if is_service else self.destroy_subscription)(entity)
        self._inputs = []
        self._frames = None
        if self._worker is not None:
            self._worker.cancel(wait=True)

    @guarded
    def _on_query(self, message: String) -> None:
        assert self._worker is not None  # as long as the node is active
        assert self._frames is not None
        job = Job(message.data, self._frames)
        try:
            check_query(job.query)
        except QueryError as error:  # not worth dropping a good sentence for
            self._report(job, Outcome('failed', error=error))
        else:
            self._worker.submit(job)

    @guarded
    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        assert self._worker is not None
        response.success = self._worker.cancel()
        response.message = 'cancelled' if response.success else 'nothing to cancel'
        return response

    @guarded
    def _on_clear(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        assert self._worker is not None
        assert self._outputs is not None
        self._worker.cancel(wait=True)
        self._outputs.clear()
        response.success = True
        return response

    @guarded
    def _on_timer(self) -> None:
        age = None if self._frames is None else self._frames.age()
        level, summary = DiagnosticStatus.OK, self._state
        if self._state == 'active' and age is None:
            level, summary = DiagnosticStatus.WARN, 'no image has come'
        elif self._last_error:
            level, summary = DiagnosticStatus.WARN, 'the last query or transition failed'
        values = {
            'state': self._state,
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
    node, executor = SegZeroNode(), SingleThreadedExecutor()
    executor.add_node(node)
    if node.get_parameter('autostart').value:
        executor.create_task(node.start)
    idle = True
    try:
        idle = spin(executor, stop, STOP_S)
    finally:
        if idle:
            idle = node.release()
            node.destroy_node()
            rclpy.try_shutdown()
    if not idle:
        os._exit(0)  # Python would wait for a model that does not return
    return 0


if __name__ == '__main__':
    sys.exit(main())
