# SPDX-License-Identifier: Apache-2.0
"""What becomes of jobs: the rules they come under, and how each ends. Knows no ROS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from segzero_core.errors import SegZeroError

Answer = TypeVar('Answer')
Status = Literal['done', 'failed', 'cancelled', 'replaced', 'rejected']
Mode = Literal['replace', 'queue', 'reject']


class RejectedError(SegZeroError):
    """There is no room for another job. The message says what to do."""

    kind = 'busy'


class StalledError(SegZeroError):
    """A job took longer than it may."""

    kind = 'timeout'


@dataclass(frozen=True)
class Rules:
    """What becomes of a new job.

    Attributes:
        mode: ``replace`` drops all older jobs for it; ``queue`` lets it wait for its turn;
            ``reject`` takes it only if there is no other.
        queue_size: So many jobs may wait behind the first in mode ``queue``.
        timeout: Seconds it may run; 0 = for ever.
    """

    mode: Mode = 'replace'
    queue_size: int = 8
    timeout: float = 0.0


@dataclass(frozen=True)
class Outcome(Generic[Answer]):
    """How a job ended.

    Attributes:
        status: ``done`` with ``answer``, ``failed`` or ``rejected`` with ``error``,
            ``cancelled``, or ``replaced`` by a newer job.
    """

    status: Status
    answer: Answer | None = None
    error: Exception | None = None
