# SPDX-License-Identifier: Apache-2.0
"""The worker: the choice of jobs, and exactly one outcome for each."""

import collections
import logging
import threading

import pytest

from segzero_core.errors import CancelledError
from segzero_ros.outcomes import Outcome, QueuePolicy
from segzero_ros.worker import Worker

LONG = 60.0  # seconds; only what is broken takes so long


REPLACE, REJECT = QueuePolicy('replace'), QueuePolicy('reject')


class Engine:
    """Calls its jobs: functions of their cancel event."""

    def __init__(self):
        self.closed = threading.Event()

    def answer(self, job, cancel):
        return job(cancel)

    def close(self):
        self.closed.set()


class Bench:
    """A worker, and the outcomes of its jobs."""

    def __init__(self):
        self.changed = threading.Condition()
        self.outcomes = collections.defaultdict(list)
        self.threads = {}
        self.engines = []
        self.load = self.load_engine
        self.worker = Worker(self.load(), lambda: self.load(), self.report)

    def load_engine(self):
        self.engines.append(Engine())
        return self.engines[-1]

    def submit(self, job, rules=REPLACE):
        return self.worker.submit(job, rules)

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
    """A job that reports its start and then waits for its cancel event, or without end."""

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
    bench.submit(job)
    assert bench.outcome(job) == Outcome('done', result=7)


def test_an_error_is_an_outcome_and_the_thread_lives(bench):
    def broken(cancel):
        raise ValueError('broken model')

    bench.submit(broken)
    outcome = bench.outcome(broken)
    assert outcome.status == 'failed'
    assert str(outcome.error) == 'broken model'
    job = answer_to(1)
    bench.submit(job)
    assert bench.outcome(job).status == 'done'


def test_a_newer_job_stops_the_running_one(bench):
    running, newer = Running(), answer_to(2)
    bench.submit(running)
    assert running.started.wait(LONG)
    bench.submit(newer)
    assert bench.outcome(running) == Outcome('replaced')
    assert bench.outcome(newer).result == 2
    assert running.finished.is_set()


def test_only_the_newest_of_the_waiting_jobs_is_run(bench):
    running = Running(stubborn=True)
    bench.submit(running)
    assert running.started.wait(LONG)
    waiting = [answer_to(i) for i in range(20)]
    for job in waiting:
        bench.submit(job)
    for job in waiting[:-1]:
        assert bench.outcome(job) == Outcome('replaced')
    running.release.set()
    assert bench.outcome(waiting[-1]).result == 19


def test_what_a_dropped_job_returns_is_thrown_away(bench):
    running = Running(stubborn=True)
    bench.submit(running)
    assert running.started.wait(LONG)
    assert bench.worker.cancel()
    assert bench.outcome(running) == Outcome('cancelled')  # while it still runs
    assert not running.finished.is_set()
    running.release.set()
    last = answer_to(3)
    bench.submit(last)
    assert bench.outcome(last).status == 'done'
    assert bench.outcomes[running] == [Outcome('cancelled')]


def test_cancel_says_whether_there_was_anything(bench):
    assert not bench.worker.cancel()
    running, waiting = Running(stubborn=True), answer_to(1)
    bench.submit(running)
    assert running.started.wait(LONG)
    assert bench.worker.busy
    bench.submit(waiting)
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

    worker = Worker(Engine(), Engine, report)
    worker.submit(answer_to('job'), REPLACE)
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
    done, bad = threading.Event(), answer_to('bad')

    def report(job, outcome):
        if job is bad:
            raise RuntimeError('publisher is gone')
        done.set()

    worker = Worker(Engine(), Engine, report)
    worker.submit(bad, REPLACE)
    worker.cancel(wait=True)
    worker.submit(answer_to('good'), REPLACE)
    assert done.wait(LONG)
    assert 'publisher is gone' in caplog.text
    assert worker.close(LONG)


def test_closing_frees_what_is_used_when_it_is_used_no_more(bench):
    running = Running(stubborn=True)
    bench.submit(running)
    assert running.started.wait(LONG)
    assert not bench.worker.close(0.01)
    assert bench.worker.stuck
    assert bench.outcome(running) == Outcome('cancelled')
    assert not bench.engines[0].closed.is_set()
    running.release.set()
    assert bench.engines[0].closed.wait(LONG)
    assert running.finished.is_set()


def test_closing_an_idle_worker_frees_at_once(bench):
    assert bench.worker.close(LONG)
    assert bench.engines[0].closed.is_set()
    with pytest.raises(RuntimeError, match='closed'):
        bench.submit(answer_to(1))


def test_an_engine_that_takes_long_to_free_is_not_stuck(bench, monkeypatch):
    begun, freed = threading.Event(), threading.Event()

    def close():
        begun.set()
        assert freed.wait(LONG)

    monkeypatch.setattr(bench.engines[0], 'close', close)
    job = answer_to('done')
    bench.submit(job)
    assert bench.outcome(job).status == 'done'
    assert not bench.worker.close(0.01)
    assert begun.wait(LONG)
    assert not bench.worker.stuck
    freed.set()


def test_in_a_queue_each_waits_for_its_turn(bench):
    queue = QueuePolicy('queue', queue_size=2)
    running, jobs = Running(stubborn=True), [answer_to(i) for i in range(4)]
    assert bench.submit(running, queue)
    assert running.started.wait(LONG)
    assert [bench.submit(job, queue) for job in jobs] == [True, True, False, False]
    assert bench.worker.waiting == 2
    for job in jobs[2:]:
        outcome = bench.outcome(job)
        assert outcome.status == 'rejected'
        assert str(outcome.error).startswith('the queue is full, with 2 sentences')
        assert outcome.error.kind == 'busy'
    running.release.set()
    assert bench.outcome(running).result == 'too late'  # it was not replaced
    assert [bench.outcome(job).result for job in jobs[:2]] == [0, 1]
    assert bench.submit(jobs[3], queue) is True
    bench.outcomes.pop(jobs[3])  # its first outcome
    assert bench.outcome(jobs[3]).result == 3


def test_a_busy_worker_can_reject(bench):
    running, job = Running(), answer_to(1)
    assert bench.submit(running, REJECT)
    assert running.started.wait(LONG)
    assert not bench.submit(job, REJECT)
    assert bench.outcome(job).status == 'rejected'
    assert not bench.outcomes[running]
    bench.worker.cancel()
    later = answer_to(2)
    assert bench.submit(later, REJECT)
    assert bench.outcome(later).result == 2


def test_cancelling_empties_the_queue(bench):
    queue = QueuePolicy('queue')
    running, jobs = Running(), [answer_to(i) for i in range(3)]
    for job in (running, *jobs):
        bench.submit(job, queue)
    assert running.started.wait(LONG)
    assert bench.worker.cancel()
    assert {bench.outcome(job).status for job in (running, *jobs)} == {'cancelled'}
    assert bench.worker.waiting == 0


@pytest.mark.parametrize('mode', ['replace', 'queue', 'reject'])
def test_an_idle_job_runs_only_if_there_is_nothing_else_and_gives_way(bench, mode):
    idle, job = Running(), answer_to(1)
    assert bench.worker.submit_idle(idle, REPLACE)
    assert idle.started.wait(LONG)
    assert not bench.worker.submit_idle(answer_to(0), REPLACE)
    assert bench.submit(job, QueuePolicy(mode))
    assert bench.outcome(idle) == Outcome('replaced')
    assert bench.outcome(job).result == 1


def test_a_job_that_takes_too_long_is_an_error_and_stopped(bench):
    running = Running()
    bench.submit(running, QueuePolicy(timeout=0.01))
    outcome = bench.outcome(running)
    assert outcome.status == 'failed'
    assert outcome.error.kind == 'timeout'
    assert 'no answer within 0.01 s' in str(outcome.error)
    assert running.finished.wait(LONG)
    job = answer_to(1)
    bench.submit(job)
    assert bench.outcome(job).result == 1
    assert len(bench.engines) == 1  # it came back, so the engine is still good


def stuck_job(bench, monkeypatch):
    """Return a job whose thread was given up."""
    monkeypatch.setattr('segzero_ros.worker.GRACE_S', 0.01)
    running = Running(stubborn=True)
    bench.submit(running, QueuePolicy(timeout=0.01))
    assert bench.outcome(running).error.kind == 'timeout'
    return running


def test_a_job_that_does_not_come_back_is_left_behind_with_its_engine(bench, monkeypatch):
    running = stuck_job(bench, monkeypatch)
    jobs = [answer_to(i) for i in range(2)]
    for i, job in enumerate(jobs):
        bench.submit(job)
        assert bench.outcome(job).result == i
    assert not running.finished.is_set()
    assert len(bench.engines) == 2
    assert not bench.worker.close(0.01)
    assert bench.engines[1].closed.wait(LONG)
    assert not bench.engines[0].closed.is_set()
    running.release.set()
    assert bench.engines[0].closed.wait(LONG)
    assert [outcome.status for outcome in bench.outcomes[running]] == ['failed']


def test_a_cancelled_job_that_does_not_come_back_is_left_behind_too(bench, monkeypatch):
    monkeypatch.setattr('segzero_ros.worker.GRACE_S', 0.01)
    running, job = Running(stubborn=True), answer_to(1)
    bench.submit(running, QueuePolicy(timeout=0.05))
    assert running.started.wait(LONG)
    bench.worker.cancel()
    bench.submit(job)
    assert bench.outcome(job).result == 1
    assert bench.outcomes[running] == [Outcome('cancelled')]
    running.release.set()


def test_an_engine_that_cannot_be_loaded_again_is_tried_again(bench, monkeypatch):
    running = stuck_job(bench, monkeypatch)
    load, jobs = bench.load, [answer_to(i) for i in range(2)]

    def fail():
        raise RuntimeError('no memory for two')

    bench.load = fail
    bench.submit(jobs[0])
    assert str(bench.outcome(jobs[0]).error) == 'no memory for two'
    bench.load = load
    bench.submit(jobs[1])
    assert bench.outcome(jobs[1]).result == 1
    running.release.set()


def test_while_an_engine_is_loaded_anew_no_job_waits_longer_than_it_may(bench, monkeypatch):
    running, load = stuck_job(bench, monkeypatch), bench.load
    loading, loaded = threading.Event(), threading.Event()

    def load_slowly():
        loading.set()
        assert loaded.wait(LONG)
        return load()

    bench.load = load_slowly
    first, second, third = (answer_to(i) for i in range(3))
    bench.submit(first, QueuePolicy('queue', timeout=0.05))
    assert loading.wait(LONG)
    bench.submit(second, QueuePolicy('queue', timeout=0.05))
    bench.submit(third, QueuePolicy('queue', timeout=LONG))
    for job in (first, second):
        assert bench.outcome(job).error.kind == 'timeout'
        assert 'still being loaded again after 0.05 s' in str(bench.outcome(job).error)
    loaded.set()
    assert bench.outcome(third).result == 2
    assert len(bench.engines) == 2
    running.release.set()


@pytest.mark.parametrize('mode', ['replace', 'queue', 'reject'])
def test_every_job_has_one_outcome_whatever_comes_together(bench, mode):
    rules = QueuePolicy(mode, queue_size=3)
    jobs = [[answer_to((thread, i)) for i in range(200)] for thread in range(4)]
    go = threading.Barrier(5)

    def submit(mine):
        go.wait()
        for job in mine:
            bench.submit(job, rules)

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
    bench.submit(last)
    bench.outcome(last)
    counts = [len(bench.outcomes[job]) for mine in jobs for job in mine]
    assert counts == [1] * 800


@pytest.mark.parametrize('error', [MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_nothing_an_engine_raises_ends_the_thread(bench, error):
    def broken(cancel):
        raise error

    bench.submit(broken)
    assert bench.outcome(broken).error is error
    job = answer_to(1)
    bench.submit(job)
    assert bench.outcome(job).result == 1


def test_some_jobs_can_be_cancelled_and_the_others_go_on(bench):
    queue = QueuePolicy('queue')
    running, jobs = Running(stubborn=True), [answer_to(i) for i in range(3)]
    for job in (running, *jobs):
        bench.submit(job, queue)
    assert running.started.wait(LONG)
    assert bench.worker.cancel(lambda job: job is jobs[1])
    assert not bench.worker.cancel(lambda job: job is jobs[1])
    assert bench.outcome(jobs[1]) == Outcome('cancelled')
    running.release.set()
    assert bench.outcome(running).result == 'too late'  # it was not cancelled
    assert [bench.outcome(job).result for job in (jobs[0], jobs[2])] == [0, 2]


def test_a_shorter_timeout_than_before_is_kept(bench):
    long, short = Running(), Running()
    bench.submit(long, QueuePolicy(timeout=LONG))
    assert long.started.wait(LONG)
    bench.submit(short, QueuePolicy(timeout=0.01))
    assert bench.outcome(long) == Outcome('replaced')
    assert bench.outcome(short).error.kind == 'timeout'


def test_its_threads_end_when_it_is_closed(bench):
    before = set(threading.enumerate())
    other = Bench()
    started = set(threading.enumerate()) - before
    assert len(started) == 2
    assert other.worker.close(LONG)
    for thread in started:
        thread.join(LONG)
        assert not thread.is_alive()
