# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node ``segzero``: connects topics, services and parameters to the pipeline."""

from __future__ import annotations

if __name__ == '__main__':  # first: the imports below take seconds
    import sys

    from segzero_ros.programs import segzero_node

    sys.exit(segzero_node())

import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.timer import Timer
from std_msgs.msg import String
from std_srvs.srv import Trigger

from segzero_core.runtime.memory import return_memory
from segzero_ros.callbacks import ExecutorThread, guarded, run_transitions_in_threads, transition
from segzero_ros.diagnostics import NodeDiagnostics
from segzero_ros.frames import FrameBuffer
from segzero_ros.parameter_files import asks_for_help, foreign_files, help_text
from segzero_ros.parameters import declare_parameters
from segzero_ros.perception import Perception
from segzero_ros.publishers import TEXTS, Publishers
from segzero_ros.query_manager import QueryManager
from segzero_ros.ros_context import creating_node, ros_context
from segzero_ros.rosout import forward_logs
from segzero_ros.settings import PARAMETERS, NodeSettings, conflicts, read_settings
from segzero_ros.signals import StopEvent, spin, stop_event
from segzero_ros.subscriptions import Cameras
from segzero_ros.transforms import TargetFrame

FIRST_FRAME_S = 5.0  # after activation: DDS may need half of it to find the camera
STOP_S = 1.0  # for a model to notice that it was cancelled; the process ends within 2 s
DIAGNOSTICS_S = 1.0


class SegZeroNode(LifecycleNodeMixin, Node):
    """Answers sentences about the newest camera image.

    Models and outputs exist from configure to cleanup, inputs from activate to deactivate.
    Callbacks run in the executor's thread, transitions in separate threads; see
    ``callbacks`` for who may change what.

    Attributes:
        settings: The values of the parameters; ``None`` while unconfigured.
        queries: Answers the sentences; ``None`` while unconfigured.
        outputs: The publishers; ``None`` while unconfigured.
        target_frame: Moves targets to ``depth.target_frame``; ``None`` if that is empty.
        frames: The newest images; ``None`` unless active.
        cameras: The camera subscriptions; ``None`` unless active.
        health: Errors, warnings and ``/diagnostics``.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Declare the parameters; models, outputs and inputs come with the transitions."""
        # LifecycleNode consists of these two, but has no separate group for the transitions.
        Node.__init__(self, 'segzero', **kwargs)
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        run_transitions_in_threads(self)
        self.transition_lock = threading.Lock()
        self._executor_thread = ExecutorThread(self)
        self._state = 'unconfigured'
        self.settings: NodeSettings | None = None
        self.queries: QueryManager | None = None
        self.frames: FrameBuffer | None = None
        self.cameras: Cameras | None = None
        self._inputs: list[Any] = []
        self._pace: Timer | None = None
        self.outputs: Publishers | None = None
        self.target_frame: TargetFrame | None = None
        declare_parameters(self, PARAMETERS, conflicts, self._settled)
        self.add_post_set_parameters_callback(self._on_parameters_set)
        self.health = NodeDiagnostics(self)
        self._timer = self._every(DIAGNOSTICS_S, self._on_timer)

    def start(self) -> None:
        """Configure and, if that worked, activate."""
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            self.say_how_to_start()
            return
        self.trigger_activate()

    def say_how_to_start(self) -> None:
        """Log the state, and the commands that lead on from it."""
        name = self.get_fully_qualified_name()
        self.get_logger().info(
            f'{self._state}: `ros2 lifecycle set {name} configure` loads the models, then '
            f'`ros2 lifecycle set {name} activate` starts answering. With -p autostart:=true the '
            'node does both when it starts'
        )

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the models, create the outputs."""
        self._state = 'configuring'
        self.health.recovered()
        settings = read_settings(self)
        self.target_frame = self._open_target_frame(settings.target_frame)

        def load() -> Perception:
            return Perception(settings, self.health.loading, self.target_frame)

        perception = load()

        def keep() -> None:
            self.settings = read_settings(self)  # live ones may have been set meanwhile
            self.outputs = Publishers(self)
            self.queries = QueryManager(perception, load, self.outputs, self.health)
            self._state = 'inactive'

        self._executor_thread.call(keep)
        return super().on_configure(state)

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable the outputs, then create the inputs."""
        result = super().on_activate(state)
        self._executor_thread.call(self._create_inputs)
        self._state = 'active'
        topics = [self.resolve_topic_name(name) for name in ('~/query', 'image')]
        self.get_logger().info(
            'active: answers sentences on {} about images on {}'.format(*topics)
        )
        return result

    @transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Destroy the inputs, cancel all sentences, disable the outputs."""
        self._stop_inputs()
        self._state = 'inactive'
        return super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the models, destroy the outputs."""
        self.release()
        return super().on_cleanup(state)

    @transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Do the work of deactivate and cleanup."""
        self.release()
        self._state = 'finalized'
        return super().on_shutdown(state)

    def undo(self, state: str) -> None:
        """Return to ``state``, in which a failed transition began."""
        if state == 'unconfigured':
            self.release()
        else:
            self._stop_inputs()
        self._state = state

    def release(self) -> bool:
        """Free everything; return whether the models stopped within ``STOP_S``."""
        self._stop_inputs()
        queries = self.queries
        stopped = queries is None or queries.close(STOP_S)
        if queries is not None and queries.stuck:
            self.get_logger().warning('a model does not stop yet; it is freed when it does')
        self._executor_thread.call(self._forget)
        return stopped

    def close(self) -> bool:
        """Free everything for good, once the executor has stopped.

        Returns:
            Whether the transition in progress and the models ended within ``STOP_S`` each.
        """
        self._executor_thread.detach()
        # Never released: a transition that was requested just now must not begin.
        return self.transition_lock.acquire(timeout=STOP_S) and self.release()

    def _forget(self) -> None:
        if self.outputs is not None:
            self.outputs.destroy()
        if self.target_frame is not None:
            self.target_frame.close()
        self.queries = self.outputs = self.settings = self.target_frame = None
        self._state = 'unconfigured'

    def _open_target_frame(self, frame_id: str) -> TargetFrame | None:
        if not frame_id:
            return None
        try:
            return TargetFrame(self, frame_id)
        except ModuleNotFoundError as error:
            self.get_logger().warning(
                f"targets stay in the camera's frame instead of {frame_id!r}: {error}; "
                'install tf2_ros_py'
            )
            return None

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _every(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Create a timer that also runs while simulated time stands still or jumps."""
        return self.create_timer(seconds, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _create_inputs(self) -> None:
        settings = self.settings
        assert settings is not None  # configured
        assert self.queries is not None
        self.frames = FrameBuffer(settings.slop, FIRST_FRAME_S, self._now)
        self.queries.listen(self.frames, settings)
        self.cameras = Cameras(self, settings, self.frames)
        self._inputs = [
            self.create_service(Trigger, '~/cancel', self._on_cancel),
            self.create_service(Trigger, '~/clear', self._on_clear),
            self.create_subscription(String, '~/query', self._on_query, TEXTS),
        ]
        self._set_pace(settings.continuous_rate)

    def _stop_inputs(self) -> None:
        """Destroy the inputs and cancel all sentences; their results are published then."""
        self._executor_thread.call(self._destroy_inputs)
        if self.queries is not None:
            self.queries.stop()

    def _destroy_inputs(self) -> None:
        self._set_pace(0.0)
        for entity in reversed(self._inputs):
            is_service = hasattr(entity, 'srv_type')
            (self.destroy_service if is_service else self.destroy_subscription)(entity)
        self._inputs = []
        if self.cameras is not None:
            self.cameras.destroy()
        self.cameras = None
        self.frames = None

    def _set_pace(self, rate: float) -> None:
        """Answer the standing sentence ``rate`` times per second; 0 = not at all."""
        if self._pace is not None:
            self.destroy_timer(self._pace)
        self._pace = self._every(1 / rate, self._on_pace) if rate else None

    def _settled(self) -> str | None:
        """Return why parameters that are not live cannot be set now."""
        if self._state == 'unconfigured':
            return None
        return (
            f'is read when the node is configured, and it is {self._state}: take it through '
            'deactivate and cleanup, set it, then configure and activate'
        )

    @guarded
    def _on_parameters_set(self, parameters: list[Parameter[Any]]) -> None:
        if self.queries is not None:
            self.settings = read_settings(self)
            self.queries.change(self.settings)
            if self._inputs:
                self._set_pace(self.settings.continuous_rate)

    @guarded
    def _on_query(self, message: String) -> None:
        if self.queries is not None:
            self.queries.ask(message.data)

    @guarded
    def _on_pace(self) -> None:
        if self.queries is not None:
            self.queries.repeat()

    @guarded
    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self.queries is not None and self.queries.cancel()
        response.message = 'cancelled' if response.success else 'nothing to cancel'
        return response

    @guarded
    def _on_clear(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.queries is not None:
            self.queries.clear()
            response.success = True
        return response

    @guarded
    def _on_timer(self) -> None:
        self.health.look_for_duplicates()
        queries, settings = self.queries, self.settings
        values, silence = {}, None
        if queries is not None and settings is not None:
            values = {
                'reasoner': settings.reasoner.name,
                'segmenter': settings.segmenter.name,
                'busy': str(queries.busy),
                'queue': str(queries.waiting),
            }
            if not queries.busy:  # a model on the CPU would soon need the memory again
                return_memory()
            if self.cameras is not None:
                silence = self.cameras.silence(settings.timeout)
        self.health.publish(self._state, self.frames, silence, values)

    def log_error(self, error: Exception) -> None:
        """Log the exception of a callback or transition, and keep it for the diagnostics."""
        self.health.failed(error)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; ``args`` is the command line without the program.

    Raises:
        SegZeroError: An argument is unknown, or the node cannot be created.
    """
    stop = stop_event(service=True, grace_s=None)
    arguments = sys.argv[1:] if args is None else args
    if asks_for_help(arguments):
        print(help_text(), end='')
        return 0
    with ros_context(['segzero_node', *arguments]):
        return _run(stop, arguments)


def _run(stop: StopEvent, arguments: Sequence[str]) -> int:
    with creating_node():
        node = SegZeroNode()
    forward_logs(node.get_logger())
    for problem in foreign_files(arguments, node.get_fully_qualified_name()):
        node.get_logger().warning(problem)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    if node.get_parameter('autostart').value:
        threading.Thread(target=node.start, name='autostart', daemon=True).start()
    else:
        node.say_how_to_start()
    idle = True
    try:
        idle = spin(executor, stop, STOP_S)
    finally:
        idle = idle and node.close()
        if idle:
            node.destroy_node()
    if not idle:
        os._exit(0)  # Python would wait for a model that does not return
    return 0
