# SPDX-License-Identifier: Apache-2.0
"""The watchdog: acts when it is due, for what is still watched, and never twice."""

import queue
import threading

import pytest

from segzero_ros.watchdog import Watchdog

LONG = 60.0  # seconds; only what is broken takes so long


@pytest.fixture
def watchdog():
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


def test_a_shorter_deadline_is_met_before_a_longer_one(watchdog):
    acted = queue.Queue()
    watchdog.watch('long', 0.2, lambda: acted.put('long'))
    watchdog.watch('forgotten', LONG, lambda: acted.put('forgotten'))
    watchdog.watch('short', 0.01, lambda: acted.put('short'))
    watchdog.forget('forgotten')
    assert [acted.get(timeout=LONG) for _ in range(2)] == ['short', 'long']
    assert acted.empty()


def test_what_is_forgotten_or_watched_anew_is_not_acted_for(watchdog):
    acted = queue.Queue()
    for _ in range(100):
        watchdog.watch('job', 0.001, lambda: acted.put('too soon'))
        watchdog.forget('job')
        watchdog.forget('job')
    while not acted.empty():  # where this thread was slower than the deadline
        acted.get()
    watchdog.watch('job', LONG, lambda: acted.put('much too late'))
    watchdog.watch('job', 0.01, lambda: acted.put('in time'))
    assert acted.get(timeout=LONG) == 'in time'
    watchdog.watch('another', 0.01, lambda: acted.put('another'))
    assert acted.get(timeout=LONG) == 'another'
    assert acted.empty()


def test_it_watches_on_after_an_act_that_raises_or_watches_more(watchdog, caplog):
    acted = queue.Queue()

    def again():
        watchdog.watch('job', 0.01, lambda: acted.put('again'))
        raise RuntimeError('it broke')

    watchdog.watch('job', 0.01, again)
    assert acted.get(timeout=LONG) == 'again'
    assert 'it broke' in caplog.text


def test_its_thread_ends_when_it_is_closed():
    before = set(threading.enumerate())
    watchdog = Watchdog()
    (thread,) = set(threading.enumerate()) - before
    watchdog.watch('job', LONG, lambda: None)
    watchdog.close()
    thread.join(LONG)
    assert not thread.is_alive()
