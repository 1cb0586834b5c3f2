# SPDX-License-Identifier: Apache-2.0
"""One thread that answers questions, and what happens when they come too fast. Knows no ROS."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from segzero_core.errors import CancelledError
from segzero_ros.jobs import Outcome, RejectedError, Rules, StalledError
from segzero_ros.watchdog import Watchdog

Job = TypeVar('Job')
Answer = TypeVar('Answer')
J = TypeVar('J', contravariant=True)
A = TypeVar('A', covariant=True)

GRACE_S = 5.0  # for a job that took too long to notice that it is cancelled

log = logging.getLogger(__name__)


class Engine(Protocol[J, A]):
    """What does the jobs."""

    def answer(self, job: J, cancel: threading.Event) -> A:
        """Do a job, in the worker's thread; stop soon after ``cancel`` is set."""
        ...

    def close(self) -> None:
        """Free what the engine uses; nothing uses it any more."""
        ...


@dataclass(eq=False)
class _Ticket(Generic[Job]):
    job: Job
    timeout: float
    idle: bool
    cancel: threading.Event = field(default_factory=threading.Event)
    settled: bool = False


class Worker(Generic[Job, Answer]):
    """Runs one job at a time.

    Every job ends in exactly one outcome, at the moment its fate is decided: a replaced,
    cancelled or stalled job does not wait for a model that is slow to stop, and what it still
    returns is thrown away. A thread that does not return at all is left behind, with its engine,
    and another takes over with a new one.
    """

    def __init__(
        self,
        engine: Engine[Job, Answer],
        load: Callable[[], Engine[Job, Answer]],
        report: Callable[[Job, Outcome[Answer]], None],
    ) -> None:
        """Start the thread.

        Args:
            engine: Does the jobs; closed by the thread that used it, as its last act.
            load: Returns another engine, for the thread that takes over. What it raises is the
                outcome of the job that needed it, and the next job tries again.
            report: Takes a job's outcome: in the worker's thread, or in the one that decided it.
        """
        self._load, self._report = load, report
        self._changed = threading.Condition()
        self._reporting = threading.Lock()
        self._watchdog = Watchdog()
        self._waiting: deque[_Ticket[Job]] = deque()
        self._running: _Ticket[Job] | None = None
        self._loading = False  # an engine anew, which may get stuck as the last one did
        self._closed = False
        self._threads: list[threading.Thread] = []  # the last is in charge
        self._start(engine)

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits whose outcome is still open."""
        with self._changed:
            return bool(self._open())

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn."""
        with self._changed:
            return len(self._waiting)

    @property
    def stuck(self) -> bool:
        """Whether a job that was dropped has not returned."""
        with self._changed:
            return self._running is not None and self._running.settled

    def submit(self, job: Job, rules: Rules) -> bool:
        """Accept a job, or give it the outcome ``rejected``; return which.

        Raises:
            RuntimeError: The worker is closed.
        """
        ticket = _Ticket(job, rules.timeout, idle=False)
        with self._changed:
            self._check_open()
            older = [each for each in self._open() if rules.mode == 'replace' or each.idle]
            self._settle(older)
            refused = self._no_room(rules)
            if refused is None:
                self._waiting.append(ticket)
                self._changed.notify_all()
                if self._loading:
                    self._limit(ticket)
        self._tell(older, Outcome('replaced'))
        if refused is not None:
            self._tell([ticket], Outcome('rejected', error=refused))
        return refused is None

    def submit_idle(self, job: Job, rules: Rules) -> bool:
        """Accept a job if there is nothing else to do; ``submit`` replaces it in any mode.

        Returns:
            Whether it was accepted. It has no outcome otherwise.

        Raises:
            RuntimeError: The worker is closed.
        """
        with self._changed:
            self._check_open()
            free = self._running is None and not self._waiting
            if free:
                self._waiting.append(_Ticket(job, rules.timeout, idle=True))
                self._changed.notify_all()
        return free

    def cancel(self, wait: bool = False) -> bool:
        """Drop every job; return whether there was one.

        Args:
            wait: Return only when an outcome that is just being reported has been.
        """
        with self._changed:
            dropped = self._settle(self._open())
        self._tell(dropped, Outcome('cancelled'))
        if wait:
            with self._reporting:
                pass
        return bool(dropped)

    def close(self, timeout: float) -> bool:
        """Drop every job and end the thread.

        Returns:
            Whether all threads ended within ``timeout`` seconds. One that did not ends, and
            closes its engine, as soon as the job it is in returns.
        """
        with self._changed:
            self._closed = True
            dropped = self._settle(self._open())
            self._changed.notify_all()
            threads = self._threads
        self._tell(dropped, Outcome('cancelled'))
        self._watchdog.close()
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError('the worker is closed')

    def _open(self) -> list[_Ticket[Job]]:
        running = [] if self._running is None else [self._running]
        return [ticket for ticket in (*running, *self._waiting) if not ticket.settled]

    def _no_room(self, rules: Rules) -> RejectedError | None:
        ahead = len(self._open())
        if rules.mode == 'reject' and ahead:
            return RejectedError('another sentence is being answered: wait for it, or cancel it')
        if rules.mode == 'queue' and ahead > rules.queue_size:
            return RejectedError(
                f'the queue is full, with {rules.queue_size} sentences: wait, or cancel them'
            )
        return None

    def _settle(self, tickets: list[_Ticket[Job]]) -> list[_Ticket[Job]]:
        """Decide the fate of jobs; the caller holds the lock and reports them."""
        for ticket in tickets:
            ticket.settled = True
            ticket.cancel.set()
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.settled)
        return tickets

    def _tell(self, tickets: Iterable[_Ticket[Job]], outcome: Outcome[Answer]) -> None:
        for ticket in tickets:
            try:
                self._report(ticket.job, outcome)
            except Exception:
                log.exception('reporting an outcome failed')

    def _start(self, engine: Engine[Job, Answer] | None) -> None:
        # A daemon: a model that cannot be stopped must not keep the process alive.
        thread = threading.Thread(
            target=self._loop, args=[engine], name='segzero-worker', daemon=True
        )
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()

    def _loop(self, engine: Engine[Job, Answer] | None) -> None:
        while (ticket := self._next()) is not None:
            engine = self._finish(ticket, engine)
            del ticket  # with it go the frame and the answer, while the thread waits
        try:
            if engine is not None:
                engine.close()
        except Exception:
            log.exception('freeing the models failed')

    def _next(self) -> _Ticket[Job] | None:
        with self._changed:
            if threading.current_thread() is not self._threads[-1]:
                return None  # another has taken over
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _finish(
        self, ticket: _Ticket[Job], engine: Engine[Job, Answer] | None
    ) -> Engine[Job, Answer] | None:
        """Do a job and report its outcome; return the engine, loaded if it was missing."""
        outcome: Outcome[Answer]
        try:
            if engine is None:
                engine = self._load_anew()
            if ticket.cancel.is_set():
                raise CancelledError('cancelled while the models were loaded')
            if ticket.timeout:
                self._watchdog.watch(ticket, ticket.timeout, lambda: self._stop(ticket))
            outcome = Outcome('done', answer=engine.answer(ticket.job, ticket.cancel))
        except CancelledError:
            outcome = Outcome('cancelled')
        except Exception as error:  # noqa: BLE001 (a broken model must not end the thread)
            outcome = Outcome('failed', error=error)
        self._watchdog.forget(ticket)
        with self._reporting:
            with self._changed:
                if self._running is ticket:
                    self._running = None
                decided = ticket.settled
                ticket.settled = True
            if not decided:
                self._tell([ticket], outcome)
        if outcome.error is not None:
            # It holds what every caller worked on, images too, and this frame holds the error.
            outcome.error.__traceback__ = None
        return engine

    def _load_anew(self) -> Engine[Job, Answer]:
        with self._changed:
            self._loading = True
            for ticket in self._open():
                self._limit(ticket)
        try:
            return self._load()
        finally:
            with self._changed:
                self._loading = False

    def _limit(self, ticket: _Ticket[Job]) -> None:
        """Let a job wait for an engine no longer than it may run."""
        if ticket.timeout:
            self._watchdog.watch(ticket, ticket.timeout, lambda: self._give_up(ticket))

    def _give_up(self, ticket: _Ticket[Job]) -> None:
        """End the wait of a job for an engine; runs in the watchdog's thread."""
        with self._reporting:
            with self._changed:
                loading = self._loading and not ticket.settled
                dropped = self._settle([ticket]) if loading else []
            error = StalledError(
                f'the models are still being loaded anew, after {ticket.timeout:g} s: ask again '
                'later; if that goes on, start the node anew'
            )
            self._tell(dropped, Outcome('failed', error=error))

    def _stop(self, ticket: _Ticket[Job]) -> None:
        """Cancel a job that takes too long; runs in the watchdog's thread."""
        with self._reporting:
            with self._changed:
                if self._running is not ticket or self._closed:
                    return
                dropped = [] if ticket.settled else self._settle([ticket])
            error = StalledError(
                f'no answer within {ticket.timeout:g} s: is the model too slow, or its server '
                'stuck? query.timeout sets the limit'
            )
            self._tell(dropped, Outcome('failed', error=error))
        self._watchdog.watch(ticket, GRACE_S, lambda: self._abandon(ticket))

    def _abandon(self, ticket: _Ticket[Job]) -> None:
        """Leave a thread behind that does not come back; runs in the watchdog's thread."""
        with self._changed:
            if self._running is ticket and not self._closed:
                log.error('a model does not come back: the next query loads it anew')
                self._running = None
                self._start(None)
