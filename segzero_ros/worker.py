# SPDX-License-Identifier: Apache-2.0
"""One thread that answers the latest question and drops the others. Knows no ROS."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from segzero_core.errors import CancelledError

Job = TypeVar('Job')
Answer = TypeVar('Answer')
Status = Literal['done', 'failed', 'cancelled', 'replaced']

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome(Generic[Answer]):
    """How a job ended.

    Attributes:
        status: ``done`` with ``answer``, ``failed`` with ``error``, ``cancelled``, or
            ``replaced`` by a newer job.
    """

    status: Status
    answer: Answer | None = None
    error: Exception | None = None


@dataclass(eq=False)
class _Ticket(Generic[Job]):
    job: Job
    cancel: threading.Event = field(default_factory=threading.Event)
    settled: bool = False


class Worker(Generic[Job, Answer]):
    """Runs one job at a time, the newest.

    A new job replaces the one that waits and the one that runs. Every job ends in exactly one
    outcome, at the moment its fate is decided: a replaced or cancelled job does not wait for a
    model that is slow to stop, and what it still returns is thrown away.
    """

    def __init__(
        self,
        run: Callable[[Job, threading.Event], Answer],
        report: Callable[[Job, Outcome[Answer]], None],
        free: Callable[[], None],
    ) -> None:
        """Start the thread.

        Args:
            run: Does a job, in the worker's thread. It should stop soon after the event is set.
            report: Takes a job's outcome: in the worker's thread, or in the one that cancelled
                or replaced the job.
            free: Called once in the worker's thread, as the last thing it does: frees what
                ``run`` uses, which nothing uses any more by then.
        """
        self._run, self._report, self._free = run, report, free
        self._changed = threading.Condition()
        self._reporting = threading.Lock()
        self._waiting: _Ticket[Job] | None = None
        self._running: _Ticket[Job] | None = None
        self._closed = False
        # A daemon: a model that cannot be stopped must not keep the process alive.
        self._thread = threading.Thread(target=self._loop, name='segzero-worker', daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits whose outcome is still open."""
        with self._changed:
            return bool(self._open())

    def submit(self, job: Job) -> None:
        """Accept a job and drop all older ones.

        Raises:
            RuntimeError: The worker is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError('the worker is closed')
            dropped = self._settle_all()
            self._waiting = _Ticket(job)
            self._changed.notify()
        self._tell(dropped, Outcome('replaced'))

    def cancel(self, wait: bool = False) -> bool:
        """Drop every job; return whether there was one.

        Args:
            wait: Return only when an outcome that is just being reported has been.
        """
        with self._changed:
            dropped = self._settle_all()
        self._tell(dropped, Outcome('cancelled'))
        if wait:
            with self._reporting:
                pass
        return bool(dropped)

    def close(self, timeout: float) -> bool:
        """Drop every job and end the thread.

        Returns:
            Whether the thread ended within ``timeout`` seconds. If not, it ends, and frees what
            it uses, as soon as the job it is in returns.
        """
        with self._changed:
            self._closed = True
            dropped = self._settle_all()
            self._changed.notify()
        self._tell(dropped, Outcome('cancelled'))
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _open(self) -> list[_Ticket[Job]]:
        tickets = (self._running, self._waiting)
        return [ticket for ticket in tickets if ticket is not None and not ticket.settled]

    def _settle_all(self) -> list[_Ticket[Job]]:
        """Decide the fate of all open jobs; the caller holds the lock and reports them."""
        tickets = self._open()
        for ticket in tickets:
            ticket.settled = True
            ticket.cancel.set()
        self._waiting = None
        return tickets

    def _tell(self, tickets: list[_Ticket[Job]], outcome: Outcome[Answer]) -> None:
        for ticket in tickets:
            try:
                self._report(ticket.job, outcome)
            except Exception:
                log.exception('reporting an outcome failed')

    def _loop(self) -> None:
        while (ticket := self._next()) is not None:
            self._finish(ticket)
            del ticket  # with it go the frame and the answer, while the thread waits
        try:
            self._free()
        except Exception:
            log.exception('freeing the models failed')

    def _finish(self, ticket: _Ticket[Job]) -> None:
        outcome = self._do(ticket)
        with self._reporting:
            with self._changed:
                decided = ticket.settled
                ticket.settled = True
            if not decided:
                self._tell([ticket], outcome)

    def _next(self) -> _Ticket[Job] | None:
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._waiting is not None or self._closed)
            self._running, self._waiting = self._waiting, None
            return self._running

    def _do(self, ticket: _Ticket[Job]) -> Outcome[Answer]:
        try:
            return Outcome('done', answer=self._run(ticket.job, ticket.cancel))
        except CancelledError:
            return Outcome('cancelled')
        except Exception as error:  # noqa: BLE001 (a broken model must not end the thread)
            return Outcome('failed', error=error)
