# SPDX-License-Identifier: Apache-2.0
"""The watchdog: acts when it is due, for what is still watched, and never twice."""

import queue
import threading
from types import SimpleNamespace

import pytest

from segzero_ros.watchdog import Watchdog

LONG = 60.0  # seconds; only what is broken takes so long


class Bench:
    """A watchdog, and what it did."""

    def __init__(self):
        self.watchdog = Watchdog()
        self.acted = queue.Queue()

    def watch(self, what, seconds, name=''):
        self.watchdog.watch(what, seconds, lambda: self.acted.put(name or what))

    def next(self):
        return self.acted.get(timeout=LONG)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.watchdog.close()


@pytest.fixture
def at(bench, monkeypatch):
    """Sets the watchdog's clock; returns what it did until then, in order."""
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    monkeypatch.setattr('segzero_ros.watchdog.time', clock)

    def until(seconds):
        clock.now = seconds
        bench.watch('now', 0.0)
        return list(iter(bench.next, 'now'))

    return until


def test_it_acts_in_the_order_of_the_deadlines(bench, at):
    bench.watch('second', 0.02)
    bench.watch('third', 0.03)
    bench.watch('first', 0.01)
    assert at(0.005) == []
    assert at(0.025) == ['first', 'second']
    assert at(0.09) == ['third']


def test_not_for_what_is_forgotten_and_once_for_what_is_watched_anew(bench, at):
    bench.watch('job', 0.01, 'too soon')
    bench.watch('forgotten', 0.01)
    bench.watch('job', 0.03, 'in time')
    for _ in range(2):
        bench.watchdog.forget('forgotten')
    assert at(0.02) == []
    assert at(0.04) == ['in time']
    assert at(0.09) == []


def test_a_deadline_that_comes_before_the_others_wakes_it_up(bench):
    bench.watch('long', LONG)
    bench.watch('short', 0.01)
    assert bench.next() == 'short'


def test_it_watches_on_after_an_act_that_raises_or_watches_more(bench, caplog):
    def again():
        bench.watch('job', 0.001, 'again')
        raise RuntimeError('it broke')

    bench.watchdog.watch('job', 0.01, again)
    assert bench.next() == 'again'
    assert 'it broke' in caplog.text


def test_its_thread_ends_when_it_is_closed():
    before = set(threading.enumerate())
    watchdog = Watchdog()
    (thread,) = set(threading.enumerate()) - before
    watchdog.watch('job', LONG, lambda: None)
    watchdog.close()
    thread.join(LONG)
    assert not thread.is_alive()
