# SPDX-License-Identifier: Apache-2.0
"""Callbacks and transitions: nothing blocks the executor, and no exception ends the node."""

import threading
import time

import pytest
import rclpy
import rclpy.parameter_client
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNodeMixin, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String

from segzero_ros.callbacks import (
    ExecutorThread,
    guarded,
    run_transitions_in_threads,
    transition,
)

LONG = 60.0  # seconds; reached only by a defect


class SlowNode(LifecycleNodeMixin, Node):
    """A node whose configure waits for ``release``, and whose callbacks raise given errors."""

    def __init__(self, namespace):
        Node.__init__(self, 'slow', namespace=namespace)
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        run_transitions_in_threads(self)
        self.transition_lock = threading.Lock()
        self.executor_thread = ExecutorThread(self)
        self.begun, self.release = threading.Event(), threading.Event()
        self.failure = None
        self.errors, self.undone, self.threads = [], [], {}

    @transition
    def on_configure(self, state):
        self.threads['transition'] = threading.current_thread()
        self.begun.set()
        assert self.release.wait(LONG)
        if self.failure is not None:
            raise self.failure
        self.executor_thread.call(lambda: self.threads.update(executor=threading.current_thread()))
        return TransitionCallbackReturn.SUCCESS

    @guarded
    def on_message(self, message):
        raise ZeroDivisionError(message.data)

    def log_error(self, error):
        self.errors.append(error)

    def undo(self, state):
        self.undone.append(state)


class Bench:
    """The node in a standard executor, and a client in another one."""

    def __init__(self, namespace):
        self.node = SlowNode(namespace)
        self.client = rclpy.create_node('client', namespace=namespace)
        self.executors, self.threads, self.clients = [], [], {}
        for node in (self.node, self.client):
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            self.executors.append(executor)
            self.threads.append(threading.Thread(target=executor.spin))
            self.threads[-1].start()

    def call(self, kind, name, request):
        client = self.client.create_client(kind, f'slow/{name}')
        assert client.wait_for_service(LONG)
        return client.call_async(request)

    def result(self, reply):
        deadline = time.monotonic() + LONG
        while not reply.done():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return reply.result()

    def change_state(self, label):
        request = ChangeState.Request()
        request.transition.label = label
        return self.call(ChangeState, 'change_state', request)

    def state(self):
        reply = self.call(GetState, 'get_state', GetState.Request())
        return self.result(reply).current_state.label

    def close(self):
        self.node.release.set()
        for executor in self.executors:
            executor.shutdown()
        for thread in self.threads:
            thread.join()
        self.node.destroy_node()
        self.client.destroy_node()


@pytest.fixture
def bench(ros):
    bench = Bench(next(ros))
    yield bench
    bench.close()


def test_a_transition_blocks_no_callback_and_its_response_says_how_it_ended(bench):
    reply = bench.change_state('configure')
    assert bench.node.begun.wait(LONG)
    assert bench.state() == 'configuring'
    assert not bench.result(bench.change_state('shutdown')).success  # one transition at a time
    assert not reply.done()
    bench.node.release.set()
    assert bench.result(reply).success
    assert bench.state() == 'inactive'
    assert bench.node.threads['transition'] not in bench.threads
    assert bench.node.threads['executor'] is bench.threads[0]


def test_waiting_for_a_transition_costs_no_time(bench):
    bench.change_state('configure')
    assert bench.node.begun.wait(LONG)
    before = time.process_time()
    time.sleep(1.0)
    used = time.process_time() - before
    bench.node.release.set()
    assert used < 0.5  # an executor that polls would have used all of it


@pytest.mark.parametrize('failure', [RuntimeError('no memory'), ValueError(), KeyError('weights')])
def test_a_transition_that_raises_fails_and_can_be_tried_again(bench, failure):
    bench.node.failure = failure
    bench.node.release.set()
    assert not bench.result(bench.change_state('configure')).success
    assert bench.node.errors == [failure]
    assert bench.node.undone == ['unconfigured']
    bench.node.failure = None
    assert bench.result(bench.change_state('configure')).success


def test_a_callback_that_raises_does_not_end_the_executor(bench):
    bench.node.create_subscription(String, 'topic', bench.node.on_message, 10)
    publisher = bench.client.create_publisher(String, 'topic', 10)
    deadline = time.monotonic() + LONG
    while len(bench.node.errors) < 2:
        assert time.monotonic() < deadline
        publisher.publish(String(data='text'))
        time.sleep(0.01)
    assert {type(error) for error in bench.node.errors} == {ZeroDivisionError}
    assert bench.state() == 'unconfigured'


def test_entities_can_come_and_go_while_messages_arrive(bench):
    publisher = bench.client.create_publisher(String, 'topic', 10)
    ended, heard = threading.Event(), []

    def publish():
        while not ended.is_set():
            publisher.publish(String(data='text'))
            time.sleep(0.0005)

    thread = threading.Thread(target=publish)
    thread.start()
    for _ in range(50):
        subscription = bench.node.create_subscription(String, 'topic', heard.append, 10)
        count, deadline = len(heard), time.monotonic() + 0.02
        while len(heard) == count and time.monotonic() < deadline:
            time.sleep(0.001)
        bench.node.executor_thread.call(
            lambda each=subscription: bench.node.destroy_subscription(each)
        )
    ended.set()
    thread.join()
    assert all(each.is_alive() for each in bench.threads)
    assert bench.state() == 'unconfigured'


def test_an_exception_reaches_the_thread_that_asked(bench):
    with pytest.raises(ZeroDivisionError):
        bench.node.executor_thread.call(lambda: 1 // 0)
    assert bench.node.executor_thread.call(lambda: 7) == 7


def test_without_an_executor_the_caller_runs_everything(ros):
    node = rclpy.create_node('alone', namespace=next(ros))
    executor_thread = ExecutorThread(node)
    assert executor_thread.call(threading.current_thread) is threading.current_thread()
    executor = SingleThreadedExecutor()
    executor.add_node(node)  # it never spins
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(executor_thread.call(lambda: 1)))
    waiting.start()
    while not node.executor:
        time.sleep(0.001)
    executor_thread.detach()
    waiting.join(LONG)
    assert answers == [1]
    assert executor_thread.call(lambda: 2) == 2
    executor.shutdown()
    node.destroy_node()


def test_parameters_are_served_while_a_transition_runs(bench):
    bench.node.declare_parameter('speed', 1.0)
    bench.change_state('configure')
    assert bench.node.begun.wait(LONG)
    parameters = rclpy.parameter_client.AsyncParameterClient(bench.client, 'slow')
    assert parameters.wait_for_services(LONG)
    answer = bench.result(parameters.set_parameters([Parameter('speed', value=2.0)]))
    assert answer.results[0].successful
    assert bench.node.get_parameter('speed').value == 2.0
