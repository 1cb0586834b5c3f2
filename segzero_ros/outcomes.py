# SPDX-License-Identifier: Apache-2.0
"""The rules by which a worker accepts jobs, and the ways in which a job ends. Knows no ROS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from segzero_core.errors import BusyError

Result = TypeVar('Result')

Status = Literal['done', 'failed', 'cancelled', 'replaced', 'rejected']
Mode = Literal['replace', 'queue', 'reject']


@dataclass(frozen=True)
class QueuePolicy:
    """The rules for a new job.

    Attributes:
        mode: ``replace`` drops all older jobs; ``queue`` lets the new job wait; ``reject``
            accepts it only if there is no other.
        queue_size: Maximum number of jobs that wait behind the first in mode ``queue``.
        timeout: Maximum running time in seconds; 0 = no limit.
    """

    mode: Mode = 'replace'
    queue_size: int = 8
    timeout: float = 0.0

    def refusal(self, ahead: int) -> BusyError | None:
        """Return why a job is rejected; ``None`` if it is accepted.

        Args:
            ahead: Number of jobs that run or wait.
        """
        if self.mode == 'reject' and ahead:
            return BusyError('another sentence is being answered: wait for it, or cancel it')
        if self.mode == 'queue' and ahead > self.queue_size:
            return BusyError(
                f'the queue is full, with {self.queue_size} sentences: wait, or cancel them'
            )
        return None


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The end of a job.

    Attributes:
        status: ``done`` with ``result``, ``failed`` or ``rejected`` with ``error``,
            ``cancelled``, or ``replaced`` by a newer job.
    """

    status: Status
    result: Result | None = None
    error: BaseException | None = None
