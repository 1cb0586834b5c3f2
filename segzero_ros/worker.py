# SPDX-License-Identifier: Apache-2.0
"""A worker thread and its queue: which jobs run, and how each of them ends. Knows no ROS.

The life of a job::

    submit --> waiting --> running --> done | failed | cancelled
       |          |           |
       |          +-----------+------> cancelled | replaced | failed (timeout)
       +-----------------------------> rejected

The upper row is decided by the worker's own thread, everything below it by the thread that
cancels, submits a newer job, or watches the deadlines. Every job has exactly one outcome, which
is reported at the moment it is decided: a replaced, cancelled or overdue job does not wait for a
model that is slow to stop, and its late return value is dropped. A thread that does not return
``GRACE_S`` after its deadline is abandoned together with its engine, and a new thread loads a new
engine for the next job.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from segzero_core.errors import CancelledError, StalledError
from segzero_ros.outcomes import Outcome, QueuePolicy

Job = TypeVar('Job')
Result = TypeVar('Result')
J = TypeVar('J', contravariant=True)
R = TypeVar('R', covariant=True)

GRACE_S = 5.0  # for an overdue job to notice that it is cancelled

log = logging.getLogger(__name__)


class Engine(Protocol[J, R]):
    """Does the jobs."""

    def answer(self, job: J, cancel: threading.Event) -> R:
        """Do one job in the worker's thread; return soon after ``cancel`` is set."""
        ...

    def close(self) -> None:
        """Free all resources; called when no job uses the engine any more."""
        ...


@dataclass(eq=False)
class _Ticket(Generic[Job]):
    """A job in the queue or in the thread; all fields are guarded by the worker's lock."""

    job: Job
    timeout: float
    idle: bool
    cancel: threading.Event = field(default_factory=threading.Event)
    decided: bool = False  # the outcome has been or is being reported
    deadline: float = math.inf  # of time.monotonic()
    in_grace: bool = False  # the deadline has passed once already


class Worker(Generic[Job, Result]):
    """Runs one job at a time; see the module's docstring."""

    def __init__(
        self,
        engine: Engine[Job, Result],
        load: Callable[[], Engine[Job, Result]],
        report: Callable[[Job, Outcome[Result]], None],
    ) -> None:
        """Start the threads.

        Args:
            engine: Does the jobs. The thread that uses it closes it at the end.
            load: Returns a new engine after a thread was abandoned. An exception becomes the
                outcome of the job that needed the engine; the next job calls ``load`` again.
            report: Called with each outcome, in the thread that decided it.
        """
        self._load, self._report = load, report
        self._lock = threading.Lock()
        self._job_came = threading.Condition(self._lock)  # or the worker was closed
        self._deadline_came = threading.Condition(self._lock)  # an earlier one, or as above
        self._reporting = threading.Lock()
        self._waiting: deque[_Ticket[Job]] = deque()
        self._running: _Ticket[Job] | None = None
        self._loading = False  # a new engine, which may hang just as the abandoned one did
        self._closed = False
        self._wakes = -math.inf  # when the watching thread looks again without being notified
        self._threads: list[threading.Thread] = []  # the last one takes the jobs
        self._start(engine)
        threading.Thread(target=self._watch, name='segzero-watchdog', daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether a job is running or waiting whose outcome is undecided."""
        with self._lock:
            return bool(self._undecided())

    @property
    def waiting(self) -> int:
        """Number of jobs in the queue."""
        with self._lock:
            return len(self._waiting)

    @property
    def stuck(self) -> bool:
        """Whether a job still runs although its outcome is decided."""
        with self._lock:
            return self._running is not None and self._running.decided

    def submit(self, job: Job, policy: QueuePolicy) -> bool:
        """Accept or reject a job; return whether it was accepted.

        Raises:
            RuntimeError: The worker is closed.
        """
        ticket = _Ticket(job, policy.timeout, idle=False)
        with self._lock:
            self._check_not_closed()
            older = [t for t in self._undecided() if policy.mode == 'replace' or t.idle]
            self._decide(older)
            refusal = policy.refusal(len(self._undecided()))
            if refusal is None:
                self._waiting.append(ticket)
                if self._loading:
                    self._set_deadline(ticket)
                self._job_came.notify_all()
        self._tell(older, Outcome('replaced'))
        if refusal is not None:
            self._tell([ticket], Outcome('rejected', error=refusal))
        return refusal is None

    def submit_idle(self, job: Job, policy: QueuePolicy) -> bool:
        """Accept a job only if there is no other; any later ``submit`` replaces it.

        Returns:
            Whether the job was accepted. A job that was not accepted has no outcome.

        Raises:
            RuntimeError: The worker is closed.
        """
        with self._lock:
            self._check_not_closed()
            free = self._running is None and not self._waiting
            if free:
                self._waiting.append(_Ticket(job, policy.timeout, idle=True))
                self._job_came.notify_all()
        return free

    def cancel(self, which: Callable[[Job], bool] = lambda job: True, wait: bool = False) -> bool:
        """Cancel jobs; return whether there was one to cancel.

        Args:
            which: Selects the jobs to cancel.
            wait: Return only after an outcome that is being reported right now.
        """
        with self._lock:
            dropped = self._decide([t for t in self._undecided() if which(t.job)])
        self._tell(dropped, Outcome('cancelled'))
        if wait:
            with self._reporting:
                pass
        return bool(dropped)

    def close(self, timeout: float) -> bool:
        """Cancel all jobs and end the threads.

        Returns:
            Whether the threads ended within ``timeout`` seconds. A thread that did not ends, and
            closes its engine, when its job returns.
        """
        with self._lock:
            self._closed = True
            dropped = self._decide(self._undecided())
            self._job_came.notify_all()
            self._deadline_came.notify_all()
            threads = self._threads
        self._tell(dropped, Outcome('cancelled'))
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # Called with the lock held.

    def _check_not_closed(self) -> None:
        if self._closed:
            raise RuntimeError('the worker is closed')

    def _tickets(self) -> list[_Ticket[Job]]:
        return [*self._waiting] if self._running is None else [self._running, *self._waiting]

    def _undecided(self) -> list[_Ticket[Job]]:
        return [ticket for ticket in self._tickets() if not ticket.decided]

    def _decide(self, tickets: list[_Ticket[Job]]) -> list[_Ticket[Job]]:
        """Mark jobs as decided and cancel them; the caller reports their outcome."""
        for ticket in tickets:
            ticket.decided = True
            ticket.cancel.set()
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.decided)
        return tickets

    def _set_deadline(self, ticket: _Ticket[Job]) -> None:
        ticket.deadline = time.monotonic() + (ticket.timeout or math.inf)
        # With equal timeouts the watching thread wakes up by itself: to watch a job is cheap.
        if ticket.deadline < self._wakes:
            self._deadline_came.notify()

    def _start(self, engine: Engine[Job, Result] | None) -> None:
        # A daemon: a model that cannot be stopped must not keep the process alive.
        thread = threading.Thread(
            target=self._loop, args=[engine], name='segzero-worker', daemon=True
        )
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()

    # The worker's thread.

    def _loop(self, engine: Engine[Job, Result] | None) -> None:
        while (ticket := self._next()) is not None:
            engine = self._run(ticket, engine)
            del ticket  # frees the frame and the result while the thread waits
        try:
            if engine is not None:
                engine.close()
        except Exception:
            log.exception('the models could not be freed')

    def _next(self) -> _Ticket[Job] | None:
        with self._lock:
            if threading.current_thread() is not self._threads[-1]:
                return None  # this thread was abandoned
            self._job_came.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _run(
        self, ticket: _Ticket[Job], engine: Engine[Job, Result] | None
    ) -> Engine[Job, Result] | None:
        """Do a job and report its outcome; return the engine, loaded if it was missing."""
        outcome: Outcome[Result]
        try:
            if engine is None:
                engine = self._load_again()
            with self._lock:
                if ticket.decided:
                    raise CancelledError('cancelled while the models were being loaded')
                self._set_deadline(ticket)
            outcome = Outcome('done', result=engine.answer(ticket.job, ticket.cancel))
        except CancelledError:
            outcome = Outcome('cancelled')
        except BaseException as error:  # noqa: BLE001 (even SystemExit must not end the thread)
            outcome = Outcome('failed', error=error)
        with self._reporting:
            with self._lock:
                if self._running is ticket:
                    self._running = None
                decided = ticket.decided
                ticket.decided = True
            if not decided:
                self._tell([ticket], outcome)
        if outcome.error is not None:
            # The traceback refers to every caller's images, and this frame refers to the error.
            outcome.error.__traceback__ = None
        return engine

    def _load_again(self) -> Engine[Job, Result]:
        with self._lock:
            self._loading = True
            for ticket in self._undecided():
                self._set_deadline(ticket)
        try:
            return self._load()
        finally:
            with self._lock:
                self._loading = False
                for ticket in self._tickets():
                    ticket.deadline = math.inf

    def _tell(self, tickets: Iterable[_Ticket[Job]], outcome: Outcome[Result]) -> None:
        for ticket in tickets:
            try:
                self._report(ticket.job, outcome)
            except Exception:
                log.exception('an outcome could not be reported')

    # The watching thread.

    def _watch(self) -> None:
        while self._wait_for_deadline():
            with self._reporting:
                with self._lock:
                    overdue = self._take_overdue()
                for ticket, error in overdue:
                    self._tell([ticket], Outcome('failed', error=error))
                del overdue

    def _wait_for_deadline(self) -> bool:
        """Return ``True`` when a deadline has passed, ``False`` when the worker is closed."""
        with self._lock:
            while not self._closed:
                first = min((ticket.deadline for ticket in self._tickets()), default=math.inf)
                left = first - time.monotonic()
                if left <= 0:
                    return True
                self._wakes = first
                self._deadline_came.wait(left if math.isfinite(left) else None)
                self._wakes = -math.inf  # it is awake and looks at every deadline anyway
            return False

    def _take_overdue(self) -> list[tuple[_Ticket[Job], StalledError]]:
        """Decide overdue jobs, and abandon the thread of one whose grace is over."""
        now, found = time.monotonic(), []
        for ticket in self._tickets():
            if ticket.deadline > now or self._closed:
                continue
            ticket.deadline = math.inf
            if ticket is self._running and not self._loading:
                if ticket.in_grace:
                    log.error('a model does not return: the next query loads it again')
                    self._running = None
                    self._start(None)
                    continue
                ticket.in_grace, ticket.deadline = True, now + GRACE_S
            if not ticket.decided:
                self._decide([ticket])
                found.append((ticket, _stalled(ticket.timeout, self._loading)))
        return found


def _stalled(timeout: float, loading: bool) -> StalledError:
    if loading:
        return StalledError(
            f'the models are still being loaded again after {timeout:g} s: ask again later; if '
            'this does not end, restart the node'
        )
    return StalledError(
        f'no answer within {timeout:g} s: is the model too slow, or does its server hang? '
        'query.timeout sets the limit'
    )
