# SPDX-License-Identifier: Apache-2.0
"""From a sentence to its result: what is accepted, what runs, what stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from std_msgs.msg import Header

from segzero_core.errors import AnswerError, QueryError
from segzero_core.prompts import check_query
from segzero_ros.diagnostics import NodeDiagnostics
from segzero_ros.frames import FrameBuffer
from segzero_ros.messages import PerceptionResult
from segzero_ros.perception import Perception, Query
from segzero_ros.publishers import Publishers
from segzero_ros.settings import NodeSettings
from segzero_ros.worker import Outcome, Worker


class QueryManager:
    """Answers sentences while it listens; each that is asked ends in exactly one result.

    The sentence accepted last *stands* until it is cancelled: with ``query.continuous_rate`` it is
    answered again, for each new frame but at most at that rate. Such a repetition has a result
    only if it comes to an end.
    """

    def __init__(
        self,
        answerer: Perception,
        load: Callable[[], Perception],
        outputs: Publishers,
        health: NodeDiagnostics,
    ) -> None:
        """Start the worker.

        Args:
            answerer: The models; closed with this.
            load: Returns others, should these get stuck.
            outputs: Where results go.
            health: Where errors are logged and counted.
        """
        self._outputs = outputs
        self._health = health
        self._worker = Worker(answerer, load, self._report)
        self._frames: FrameBuffer | None = None
        self._standing: Query | None = None
        self._seen = 0  # frames that had come when the standing sentence was last looked at

    @property
    def waiting(self) -> int:
        """How many sentences wait for their turn."""
        return self._worker.waiting

    @property
    def busy(self) -> bool:
        """Whether a sentence is being answered."""
        return self._worker.busy

    @property
    def stuck(self) -> bool:
        """Whether a model has not stopped, though its sentence was dropped."""
        return self._worker.stuck

    def listen(self, frames: FrameBuffer, settings: NodeSettings) -> None:
        """Accept sentences about ``frames``."""
        self._frames = frames
        self.change(settings)

    def change(self, settings: NodeSettings) -> None:
        """Treat sentences as the settings now say."""
        self._settings = settings

    def ask(self, sentence: str) -> None:
        """Accept a sentence, or refuse it; either way it has a result."""
        if self._frames is None:
            return  # deactivated while the sentence was on its way here
        job = Query(sentence, self._frames, self._settings, self._outputs.stream)
        try:
            check_query(sentence)
        except QueryError as error:  # not worth dropping a good sentence for
            self._report(job, Outcome('failed', error=error))
            return
        seen = self._frames.count
        if self._worker.submit(job, self._settings.policy):
            self._standing, self._seen = job, seen

    def repeat(self) -> None:
        """Answer the standing sentence again, if there is time and something new to see.

        To be called ``query.continuous_rate`` times per second.
        Where images have stopped coming (``image.timeout``), take back what is shown.
        """
        job, frames = self._standing, self._frames
        if job is None or frames is None:
            return
        age, timeout, seen = frames.age(), self._settings.timeout, frames.count
        if timeout and age is not None and age > timeout:
            self._outputs.clear()
        if seen == self._seen:
            return
        again = replace(job, settings=self._settings, repeat=job.repeat + 1, header=Header())
        if self._worker.submit_idle(again, self._settings.policy):
            self._standing, self._seen = again, seen

    def cancel(self, wait: bool = False) -> bool:
        """Drop every sentence, the standing one too; return whether one was or would be answered.

        Args:
            wait: Return only when a result that is just being published has been.
        """
        stood, self._standing = self._standing, None
        repeated = stood is not None and bool(self._settings.continuous_rate)
        return self._worker.cancel(wait=wait) or repeated

    def clear(self) -> None:
        """Drop every sentence and take back what was shown."""
        self.cancel(wait=True)
        self._outputs.clear()

    def stop(self) -> None:
        """Accept nothing more, drop every sentence; all results have been published then."""
        self._frames = None
        self.cancel(wait=True)

    def close(self, timeout: float) -> bool:
        """Drop everything; return whether the models stopped within ``timeout`` seconds."""
        self.stop()
        return self._worker.close(timeout)

    def _report(self, job: Query, outcome: Outcome[PerceptionResult]) -> None:
        """Publish how a job ended, in whichever thread decided it."""
        answer, error = outcome.result, outcome.error
        status: str = outcome.status
        if status in ('done', 'failed'):
            nothing = isinstance(error, AnswerError) and error.kind == 'nothing_found'
            status = 'ok' if error is None else 'nothing_found' if nothing else 'error'
        if job.repeat and status in ('cancelled', 'replaced'):
            return  # nobody asked for this one
        if answer is not None:
            try:
                self._outputs.answer(job.query, answer, job.repeat)
            except Exception as broken:  # noqa: BLE001 (logged; even this has a result)
                answer, error, status = None, broken, 'error'
        self._health.ended(status, error)
        if answer is not None:
            self._health.answered(job.query, answer)
            self._outputs.overlay(job.query, answer)
            return
        if job.repeat:
            self._outputs.clear(job.header)  # what was shown is no longer there
        self._outputs.failure(job.header, job.query, status, error, job.repeat)
