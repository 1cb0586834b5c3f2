# SPDX-License-Identifier: Apache-2.0
"""The executor: one group's callbacks keep nobody waiting, and destroy what they like."""

import threading

import pytest
import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.waitable import NumberOfEntities, Waitable
from std_msgs.msg import String
from std_srvs.srv import Trigger

from segzero_ros.executor import AsideExecutor

LONG = 60.0  # seconds; only what is broken takes so long
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture
def node(ros):
    node = rclpy.create_node('node', namespace=next(ros))
    yield node
    node.destroy_node()


def spin_until(node, aside, done):
    executor = AsideExecutor(aside)
    executor.add_node(node)
    end = rclpy.task.Future(executor=executor)
    timer = node.create_timer(0.01, lambda: done() and end.set_result(None))
    executor.spin_until_future_complete(end, timeout_sec=LONG)
    assert end.done()
    node.destroy_timer(timer)
    executor.shutdown()


def test_a_callback_aside_keeps_nobody_waiting(node):
    aside, begun, release = ReentrantCallbackGroup(), threading.Event(), threading.Event()
    threads = {}

    def wait():
        if not begun.is_set():
            begun.set()
            threads['aside'] = threading.current_thread()
            assert release.wait(LONG)
            threads['aside ended'] = True

    def go_on():
        if begun.is_set():
            threads['here'] = threading.current_thread()
            release.set()

    timers = [node.create_timer(0.01, wait, callback_group=aside), node.create_timer(0.01, go_on)]
    spin_until(node, aside, lambda: len(threads) == 3)
    assert threads['here'] is threading.current_thread()
    assert threads['aside'] is not threading.current_thread()
    for timer in timers:
        node.destroy_timer(timer)


class Destroyed(Waitable):
    """Like a QoS event whose subscription is destroyed while the executor prepares to wait."""

    seen = 0

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass

    def get_num_entities(self):
        return NumberOfEntities()

    def is_ready(self, wait_set):
        return False

    def add_to_wait_set(self, wait_set):
        self.seen += 1
        if self.seen == 2:
            raise InvalidHandle('destruction was requested')


def test_what_is_destroyed_meanwhile_does_not_end_the_executor(node):
    waitable = Destroyed(node.default_callback_group)
    node.add_waitable(waitable)
    spin_until(node, ReentrantCallbackGroup(), lambda: waitable.seen > 3)
    node.remove_waitable(waitable)


def test_a_service_that_is_destroyed_before_it_responds_does_not_end_the_executor(node):
    called = threading.Event()

    def respond(request, response):
        node.destroy_service(service)
        called.set()
        return response

    service = node.create_service(Trigger, 'service', respond)
    client = node.create_client(Trigger, 'service')
    assert client.wait_for_service(LONG)
    client.call_async(Trigger.Request())
    spin_until(node, ReentrantCallbackGroup(), called.is_set)
    node.destroy_client(client)


def test_dds_events_are_told_though_not_waited_for_each_time(node, monkeypatch):
    monkeypatch.setattr('segzero_ros.executor.EVENTS_S', 0.05)
    told = []
    for name in ('first', 'second'):  # the second begins when the executor has looked before
        events = SubscriptionEventCallbacks(incompatible_qos=told.append)
        hears = node.create_subscription(
            String, name, told.append, RELIABLE, event_callbacks=events
        )
        says = node.create_publisher(String, name, BEST_EFFORT)
        count = len(told) + 1
        spin_until(node, ReentrantCallbackGroup(), lambda count=count: len(told) == count)
        node.destroy_publisher(says)
        node.destroy_subscription(hears)
    assert all(event.total_count == 1 for event in told)


def test_dds_events_are_not_waited_for_each_time(node, monkeypatch):
    monkeypatch.setattr('segzero_ros.executor.EVENTS_S', LONG)
    executor = AsideExecutor(ReentrantCallbackGroup())
    executor.add_node(node)
    publisher = node.create_publisher(String, 'topic', BEST_EFFORT)
    event, looks = publisher.event_handlers[0], []
    add = event.add_to_wait_set
    monkeypatch.setattr(event, 'add_to_wait_set', lambda wait: looks.append(add(wait)))
    woken = []
    timer = node.create_timer(0.001, lambda: woken.append(len(looks)))
    while len(woken) < 10:
        executor.spin_once(timeout_sec=LONG)
    assert woken[-1] == woken[1] >= 1
    node.destroy_timer(timer)
    node.destroy_publisher(publisher)
    executor.shutdown()
