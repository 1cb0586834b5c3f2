# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node ``segzero``: topics and services in, sentences answered, topics out."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer
from std_msgs.msg import String
from std_srvs.srv import Trigger

from segzero_core.runtime.memory import return_memory
from segzero_ros.callbacks import guarded, transition
from segzero_ros.diagnostics import NodeDiagnostics
from segzero_ros.executor import AsideExecutor
from segzero_ros.frames import FrameBuffer
from segzero_ros.parameters import declare_parameters
from segzero_ros.perception import Answerer
from segzero_ros.publishers import TEXTS, Publishers
from segzero_ros.query_manager import QueryManager
from segzero_ros.settings import PARAMETERS, NodeSettings, conflicts, read_settings
from segzero_ros.signals import spin, stop_event
from segzero_ros.subscriptions import Cameras
from segzero_ros.transforms import TargetFrame

FIRST_FRAME_S = 5.0  # after activation: DDS may need half of it to find the camera
STOP_S = 1.0  # for a model to notice that it was cancelled; a process ends within 2 s in all
DIAGNOSTICS_S = 1.0

SUCCESS = TransitionCallbackReturn.SUCCESS


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
        self._settings: NodeSettings | None = None
        self._queries: QueryManager | None = None
        self._frames: FrameBuffer | None = None
        self._cameras: Cameras | None = None
        self._inputs: list[Any] = []
        self._pace: Timer | None = None
        self._outputs: Publishers | None = None
        self._target_frame: TargetFrame | None = None
        declare_parameters(self, PARAMETERS, conflicts, self._settled)
        self.add_post_set_parameters_callback(self._on_parameters_set)
        self._health = NodeDiagnostics(self)
        self._timer = self._every(DIAGNOSTICS_S, self._on_timer)

    def start(self) -> None:
        """Configure and, if that worked, activate."""
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read parameters, load the models, create the outputs."""
        self._state = 'configuring'
        self._health.recovered()
        settings = read_settings(self)

        self._target_frame = self._open_target_frame(settings.target_frame)

        def load() -> Answerer:
            return Answerer(settings, self._health.loading, self._target_frame)

        answerer = load()  # the lock is free: meanwhile all callbacks are served
        with self.lock:
            self._settings = read_settings(self)  # live ones may have been set meanwhile
            self._outputs = Publishers(self)
            self._queries = QueryManager(answerer, load, self._outputs, self._health)
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

    def undo(self, state: str) -> None:
        """Return to ``state``, where a transition that failed began."""
        self.stop_listening()
        if state == 'unconfigured':
            self.release()
        self._state = state

    def release(self) -> bool:
        """Let go of everything; return whether the models stopped in time."""
        with self.lock:
            self.stop_listening()
            stopped = self._queries is None or self._queries.close(STOP_S)
            if self._queries is not None and self._queries.stuck:
                self.get_logger().warning('the model does not stop; it is freed when it does')
            if self._outputs is not None:
                self._outputs.destroy()
            if self._target_frame is not None:
                self._target_frame.close()
            self._queries = self._outputs = self._settings = self._target_frame = None
            self._state = 'unconfigured'
            return stopped

    def close(self) -> bool:
        """Let go of everything, for good; return whether transition and models stopped in time."""
        # Never released: a transition that was asked for just now must not begin any more.
        return self.transition_lock.acquire(timeout=STOP_S) and self.release()

    def _open_target_frame(self, frame_id: str) -> TargetFrame | None:
        if not frame_id:
            return None
        try:
            return TargetFrame(self, frame_id)
        except ModuleNotFoundError as error:
            self.get_logger().warning(
                f'targets stay in the frame of the camera, not {frame_id!r}: {error}; '
                'install tf2_ros_py'
            )
            return None

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _every(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back regularly, also while simulated time stands still or jumps."""
        return self.create_timer(seconds, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _listen(self) -> None:
        settings = self._settings
        assert settings is not None  # configured
        assert self._queries is not None
        self._frames = FrameBuffer(settings.slop, FIRST_FRAME_S, self._now)
        self._queries.listen(self._frames, settings)
        self._cameras = Cameras(self, settings, self._frames)
        self._inputs = [
            self.create_service(Trigger, '~/cancel', self._on_cancel),
            self.create_service(Trigger, '~/clear', self._on_clear),
            self.create_subscription(String, '~/query', self._on_query, TEXTS),
        ]
        self._set_pace(settings.continuous_rate)

    def stop_listening(self) -> None:
        """Destroy the inputs and cancel what runs; its outcome is published before returning."""
        with self.lock:
            self._set_pace(0.0)
            for entity in reversed(self._inputs):
                is_service = hasattr(entity, 'srv_type')
                (self.destroy_service if is_service else self.destroy_subscription)(entity)
            self._inputs = []
            if self._cameras is not None:
                self._cameras.destroy()
            self._cameras = None
            self._frames = None
            if self._queries is not None:
                self._queries.stop()

    def _set_pace(self, rate: float) -> None:
        """Repeat the standing sentence ``rate`` times per second; 0 = not at all."""
        if self._pace is not None:
            self.destroy_timer(self._pace)
        self._pace = self._every(1 / rate, self._on_pace) if rate else None

    def _settled(self) -> str | None:
        """Return why parameters that are read when the node is configured cannot change now."""
        if self._state == 'unconfigured':
            return None
        return (
            f'is read when the node is configured, and it is {self._state}: take it through '
            'deactivate and cleanup, set it, then configure and activate'
        )

    @guarded
    def _on_parameters_set(self, parameters: list[Parameter[Any]]) -> None:
        if self._queries is not None:
            self._settings = read_settings(self)
            self._queries.change(self._settings)
            if self._inputs:
                self._set_pace(self._settings.continuous_rate)

    @guarded
    def _on_query(self, message: String) -> None:
        if self._queries is not None:
            self._queries.ask(message.data)

    @guarded
    def _on_pace(self) -> None:
        if self._queries is not None:
            self._queries.repeat()

    @guarded
    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._queries is not None and self._queries.cancel()
        response.message = 'cancelled' if response.success else 'nothing to cancel'
        return response

    @guarded
    def _on_clear(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._queries is not None:
            self._queries.clear()
            response.success = True
        return response

    @guarded
    def _on_timer(self) -> None:
        queries, settings = self._queries, self._settings
        values, silence = {}, None
        if queries is not None and settings is not None:
            values = {
                'reasoner': settings.reasoner.name,
                'segmenter': settings.segmenter.name,
                'busy': str(queries.busy),
                'queue': str(queries.waiting),
            }
            if not queries.busy:  # a model on the CPU would soon want it again
                return_memory()
            if self._cameras is not None:
                silence = self._cameras.silence(settings.timeout)
        self._health.publish(self._state, self._frames, silence, values)

    def log_error(self, error: Exception) -> None:
        """Log what a callback or transition raised, and keep it for the diagnostics."""
        self._health.failed(error)


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
