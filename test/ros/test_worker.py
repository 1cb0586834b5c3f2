# SPDX-License-Identifier: Apache-2.0
"""The worker: the latest job wins, and every job ends in exactly one outcome."""

import collections
import logging
import threading

import pytest

from segzero_core.errors import CancelledError
from segzero_ros.worker import Outcome, Worker

LONG = 60.0  # seconds; only what is broken takes so long


class Bench:
    """A worker whose jobs are functions of their cancel event."""

    def __init__(self):
        self.changed = threading.Condition()
        self.outcomes = collections.defaultdict(list)
        self.threads = {}
        self.freed = threading.Event()
        self.worker = Worker(self.run, self.report, self.freed.set)

    def run(self, job, cancel):
        return job(cancel)

    def report(self, job, outcome):
        with self.changed:
            self.outcomes[job].append(outcome)
            self.threads[job] = threading.current_thread()
            self.changed.notify_all()

    def outcome(self, job):
        with self.changed:
            assert self.changed.wait_for(lambda: self.outcomes[job], LONG)
            return self.outcomes[job][0]


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    assert bench.worker.close(LONG)
    for outcomes in bench.outcomes.values():
        assert len(outcomes) == 1


class Running:
    """A job that says when it has started and then waits, for its cancel event or for ever."""

    def __init__(self, stubborn=False):
        self.started = threading.Event()
        self.release = threading.Event()
        self.finished = threading.Event()
        self.stubborn = stubborn

    def __call__(self, cancel):
        self.started.set()
        if not self.stubborn:
            assert cancel.wait(LONG)
            self.finished.set()
            raise CancelledError('stopped')
        assert self.release.wait(LONG)
        self.finished.set()
        return 'too late'


def answer_to(value):
    return lambda cancel: value


def test_a_job_is_done(bench):
    job = answer_to(7)
    bench.worker.submit(job)
    assert bench.outcome(job) == Outcome('done', answer=7)


def test_an_error_is_an_outcome_and_the_thread_lives(bench):
    def broken(cancel):
        raise ValueError('broken model')

    bench.worker.submit(broken)
    outcome = bench.outcome(broken)
    assert outcome.status == 'failed'
    assert str(outcome.error) == 'broken model'
    job = answer_to(1)
    bench.worker.submit(job)
    assert bench.outcome(job).status == 'done'


def test_a_newer_job_stops_the_running_one(bench):
    running, newer = Running(), answer_to(2)
    bench.worker.submit(running)
    assert running.started.wait(LONG)
    bench.worker.submit(newer)
    assert bench.outcome(running) == Outcome('replaced')
    assert bench.outcome(newer).answer == 2
    assert running.finished.is_set()


def test_only_the_newest_of_the_waiting_jobs_is_run(bench):
    running = Running(stubborn=True)
    bench.worker.submit(running)
    assert running.started.wait(LONG)
    waiting = [answer_to(i) for i in range(20)]
    for job in waiting:
        bench.worker.submit(job)
    for job in waiting[:-1]:
        assert bench.outcome(job) == Outcome('replaced')
    running.release.set()
    assert bench.outcome(waiting[-1]).answer == 19


def test_what_a_dropped_job_returns_is_thrown_away(bench):
    running = Running(stubborn=True)
    bench.worker.submit(running)
    assert running.started.wait(LONG)
    assert bench.worker.cancel()
    assert bench.outcome(running) == Outcome('cancelled')  # while it still runs
    assert not running.finished.is_set()
    running.release.set()
    last = answer_to(3)
    bench.worker.submit(last)
    assert bench.outcome(last).status == 'done'
    assert bench.outcomes[running] == [Outcome('cancelled')]


def test_cancel_says_whether_there_was_anything(bench):
    assert not bench.worker.cancel()
    running, waiting = Running(stubborn=True), answer_to(1)
    bench.worker.submit(running)
    assert running.started.wait(LONG)
    assert bench.worker.busy
    bench.worker.submit(waiting)
    assert bench.worker.cancel()
    assert not bench.worker.cancel()
    assert not bench.worker.busy
    assert bench.outcome(waiting) == Outcome('cancelled')
    assert bench.outcome(running) == Outcome('replaced')
    running.release.set()


def test_cancel_can_wait_for_an_outcome_that_is_being_reported():
    reporting, go_on, reported = threading.Event(), threading.Event(), threading.Event()

    def report(job, outcome):
        reporting.set()
        assert go_on.wait(LONG)
        reported.set()

    worker = Worker(lambda job, cancel: job, report, lambda: None)
    worker.submit('job')
    assert reporting.wait(LONG)
    assert not worker.cancel()
    assert not reported.is_set()
    threading.Timer(0.05, go_on.set).start()
    worker.cancel(wait=True)
    assert reported.is_set()
    assert worker.close(LONG)


def test_a_report_that_raises_does_not_end_the_thread(caplog, monkeypatch):
    # ROS's launch library keeps loggers made after it to themselves.
    monkeypatch.setattr(logging.getLogger('segzero_ros.worker'), 'propagate', True)
    done = threading.Event()

    def report(job, outcome):
        if job == 'bad':
            raise RuntimeError('publisher is gone')
        done.set()

    worker = Worker(lambda job, cancel: job, report, lambda: None)
    worker.submit('bad')
    worker.cancel(wait=True)
    worker.submit('good')
    assert done.wait(LONG)
    assert 'publisher is gone' in caplog.text
    assert worker.close(LONG)


def test_closing_frees_what_is_used_when_it_is_used_no_more(bench):
    running = Running(stubborn=True)
    bench.worker.submit(running)
    assert running.started.wait(LONG)
    assert not bench.worker.close(0.01)
    assert bench.outcome(running) == Outcome('cancelled')
    assert not bench.freed.is_set()
    running.release.set()
    assert bench.freed.wait(LONG)
    assert running.finished.is_set()


def test_closing_an_idle_worker_frees_at_once(bench):
    assert bench.worker.close(LONG)
    assert bench.freed.is_set()
    with pytest.raises(RuntimeError, match='closed'):
        bench.worker.submit(answer_to(1))


def test_every_job_has_one_outcome_whatever_comes_together(bench):
    jobs = [[answer_to((thread, i)) for i in range(200)] for thread in range(4)]
    go = threading.Barrier(5)

    def submit(mine):
        go.wait()
        for job in mine:
            bench.worker.submit(job)

    def cancel():
        go.wait()
        for _ in range(200):
            bench.worker.cancel()

    threads = [threading.Thread(target=submit, args=(mine,)) for mine in jobs]
    threads.append(threading.Thread(target=cancel))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = answer_to('last')
    bench.worker.submit(last)
    bench.outcome(last)
    counts = [len(bench.outcomes[job]) for mine in jobs for job in mine]
    assert counts == [1] * 800
