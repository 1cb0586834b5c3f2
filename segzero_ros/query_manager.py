# SPDX-License-Identifier: Apache-2.0
"""From a sentence to its result: accepts, runs and repeats sentences."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from std_msgs.msg import Header

from segzero_core.errors import AnswerError
from segzero_ros.diagnostics import NodeDiagnostics
from segzero_ros.frames import FrameBuffer
from segzero_ros.messages import PerceptionResult, ResultHead
from segzero_ros.outcomes import Outcome
from segzero_ros.perception import Perception, QueryJob
from segzero_ros.publishers import Publishers
from segzero_ros.query_request import read_request
from segzero_ros.settings import NodeSettings
from segzero_ros.worker import Worker

log = logging.getLogger(__name__)


class QueryManager:
    """Answers sentences while it listens; each sentence has exactly one result.

    The sentence accepted last is the *standing* one until it is cancelled: with
    ``query.continuous_rate`` it is answered again for new frames, at most at that rate. Such a
    repetition has a result only if it is answered or fails. A sentence about a named frame is
    answered once.
    """

    def __init__(
        self,
        perception: Perception,
        load: Callable[[], Perception],
        outputs: Publishers,
        health: NodeDiagnostics,
    ) -> None:
        """Start the worker.

        Args:
            perception: The models; closed with this manager.
            load: Loads them again if they hang.
            outputs: Publishes the results.
            health: Logs and counts errors.
        """
        self._outputs = outputs
        self._health = health
        self.worker = Worker(perception, load, self._report)
        self._frames: FrameBuffer | None = None
        self._standing: QueryJob | None = None
        self._seen = 0  # frames that had come when the standing sentence was last submitted

    @property
    def waiting(self) -> int:
        """Number of sentences in the queue."""
        return self.worker.waiting

    @property
    def busy(self) -> bool:
        """Whether a sentence is being answered."""
        return self.worker.busy

    @property
    def stuck(self) -> bool:
        """Whether a model still runs although its sentence was dropped."""
        return self.worker.stuck

    def listen(self, frames: FrameBuffer, settings: NodeSettings) -> None:
        """Accept sentences about ``frames`` from now on."""
        self._frames = frames
        self.change(settings)

    def change(self, settings: NodeSettings) -> None:
        """Use these settings for all sentences to come."""
        self._settings = settings

    def ask(self, text: str) -> None:
        """Accept or refuse the text of a ``~/query`` message; see ``query_request``."""
        if self._frames is None:
            return  # deactivated while the sentence was on its way here
        request = read_request(text)
        if request.cancel is not None and request.problem is None:
            self._cancel_id(request.cancel)
            return
        job = QueryJob(request, self._frames, self._settings, self._outputs.stream)
        if request.problem is not None:  # not worth dropping a good sentence for
            self._report(
                job, Outcome('rejected' if request.rejected else 'failed', error=request.problem)
            )
            return
        seen = self._frames.count
        accepted = self.worker.submit(job, self._settings.policy)
        log.debug('%s %r', 'accepted' if accepted else 'rejected', request.query)
        if accepted:
            self._standing, self._seen = job, seen

    def repeat(self) -> None:
        """Answer the standing sentence again if the worker is idle and a new frame has come.

        Called ``query.continuous_rate`` times per second. Where images have stopped coming for
        ``image.timeout``, the last answer is taken back.
        """
        job, frames = self._standing, self._frames
        if job is None or frames is None or job.request.stamp is not None:
            return
        age, timeout, seen = frames.age(), self._settings.timeout, frames.count
        if timeout and age is not None and age > timeout:
            self._outputs.clear()
        if seen == self._seen:
            return
        again = replace(
            job, settings=self._settings, repeat=job.repeat + 1, header=Header(), warnings=()
        )
        if self.worker.submit_idle(again, self._settings.policy):
            self._standing, self._seen = again, seen

    def cancel(self, wait: bool = False) -> bool:
        """Drop all sentences, also the standing one; return whether there was one.

        Args:
            wait: Return only when a result that is being published has been published.
        """
        stood, self._standing = self._standing, None
        repeated = stood is not None and bool(self._settings.continuous_rate)
        return self.worker.cancel(wait=wait) or repeated

    def clear(self) -> None:
        """Drop all sentences and take back the last answer."""
        self.cancel(wait=True)
        self._outputs.clear()

    def stop(self) -> None:
        """Stop listening and drop all sentences; returns when all results are published."""
        self._frames = None
        self.cancel(wait=True)

    def close(self, timeout: float) -> bool:
        """Drop everything; return whether the models stopped within ``timeout`` seconds."""
        self.stop()
        return self.worker.close(timeout)

    def _cancel_id(self, wanted: str) -> None:
        stood = self._standing
        repeated = False
        if stood is not None and stood.request.id == wanted:
            repeated = bool(self._settings.continuous_rate)
            self._standing = None
        if not self.worker.cancel(lambda job: job.request.id == wanted) and not repeated:
            self._health.note(f'there is no sentence with the id {wanted!r} to cancel')

    def _report(self, job: QueryJob, outcome: Outcome[PerceptionResult]) -> None:
        """Publish how a sentence ended, in the thread that decided it."""
        answer, error = outcome.result, outcome.error
        status: str = outcome.status
        if status in ('done', 'failed'):
            nothing = isinstance(error, AnswerError) and error.kind == 'nothing_found'
            status = 'ok' if error is None else 'nothing_found' if nothing else 'error'
        if job.repeat and status in ('cancelled', 'replaced'):
            return  # this one was not requested by a user
        found = job.warnings if answer is None else answer.warnings
        head = ResultHead(
            job.header,
            job.request.query,
            job.request.id,
            job.repeat,
            (*found, *self._health.standing_warnings),
        )
        if answer is not None:
            try:
                self._outputs.answer(head, answer)
            except Exception as broken:  # noqa: BLE001 (logged; even this has a result)
                answer, error, status = None, broken, 'error'
        log.debug('%r ended: %s', job.request.query, status)
        self._health.ended(status, error, head)
        if answer is not None:
            self._health.answered(head, answer)
            self._outputs.overlay(job.request.query, answer)
            return
        if job.repeat:
            self._outputs.clear(job.header)  # the object that was shown is no longer there
        self._outputs.failure(head, status, error)
