# SPDX-License-Identifier: Apache-2.0
"""Control of the thinking before an answer: free, prefilled, limited, or none.

Decoding takes most of the time of an answer, and most of the tokens are thoughts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from segzero_core.answers.tags import TAGS
from segzero_core.errors import EngineOptionError
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.streaming import THINK, StreamedReply
from segzero_core.registry import look_up

_STARTS = {'free': '', 'prefilled': THINK, 'none': '<think></think><answer>'}
_END = '</think><answer>'


@dataclass(frozen=True)
class Thinking:
    """Settings that control the model's thinking.

    A checkpoint that does not think (``Task.think``) has no thoughts to start or to limit.

    Attributes:
        mode: ``free``: the model writes everything itself, as in training. ``prefilled``: the
            reply begins with ``<think>``. ``none``: the thoughts are empty and the model writes
            only the answer, which suits sentences that need no reasoning ("the red mug").
        limit: Maximum number of tokens of thought; 0 = no limit. At the limit the thoughts are
            closed and the answer tag is opened for the model.
    """

    mode: str = 'free'
    limit: int = 0

    def __post_init__(self) -> None:
        """Check both settings.

        Raises:
            UnknownNameError: There is no such mode.
            EngineOptionError: The limit is negative.
        """
        look_up('thinking', self.mode, _STARTS)
        if self.limit < 0:
            raise EngineOptionError(f'max_think_tokens must be at least 0, got {self.limit}')

    def start_of(self, reply: StreamedReply) -> str:
        """Return the text that ``reply`` begins with, after anything the chat template wrote."""
        start = _STARTS[self.mode]
        if _thinks(reply):
            return start.removeprefix(THINK) if reply.opened else start
        tagged = reply.task is not None and reply.task.family.tagged
        return '<answer>' if self.mode == 'none' and tagged else ''

    def write(
        self, reply: StreamedReply, ask: Callable[[str, int], Iterable[Reply]], max_new_tokens: int
    ) -> None:
        """Let a model write ``reply``.

        Args:
            reply: Still empty.
            ask: Takes the text written so far and a maximum number of tokens; yields the pieces
                that the model writes next.
            max_new_tokens: Maximum number of tokens of the whole reply.
        """
        reply.add(self.start_of(reply))
        limit = self._limit(reply, max_new_tokens)
        if _read(reply, ask(reply.written, limit or max_new_tokens)):
            return
        if limit and not _ended_by_itself(reply):
            _end_thoughts(reply)
            _read(reply, ask(reply.written, max_new_tokens - limit))

    def write_all(
        self,
        replies: Sequence[StreamedReply],
        ask: Callable[[list[StreamedReply], int], Sequence[Reply]],
        max_new_tokens: int,
    ) -> None:
        """Let a model write several replies in one batch.

        Args:
            replies: Still empty; all of one task.
            ask: Takes some of them and a maximum number of tokens; returns what comes next in
                each.
            max_new_tokens: Maximum number of tokens of each whole reply.
        """
        for reply in replies:
            reply.add(self.start_of(reply))
        limit = self._limit(replies[0], max_new_tokens) if replies else 0
        _add_all(replies, ask, limit or max_new_tokens)
        left = [
            reply for reply in replies if limit and not (reply.complete or _ended_by_itself(reply))
        ]
        for reply in left:
            _end_thoughts(reply)
        _add_all(left, ask, max_new_tokens - limit)

    def _limit(self, reply: StreamedReply, max_new_tokens: int) -> int:
        """Return the maximum number of tokens of thought; 0 if the thoughts are not limited."""
        limited = self.limit < max_new_tokens and self.mode != 'none' and _thinks(reply)
        return self.limit if limited else 0


def _thinks(reply: StreamedReply) -> bool:
    return reply.task is None or reply.task.think


def _ended_by_itself(reply: StreamedReply) -> bool:
    """Return whether the model ended the reply after it had begun the answer."""
    return reply.finish_reason == 'stop' and TAGS['answer'].search(reply.text) is not None


def _end_thoughts(reply: StreamedReply) -> None:
    """Close the thoughts and open the answer, unless the model has closed its thoughts."""
    if not TAGS['/think'].search(reply.text):
        # The model may have begun to close its thoughts itself.
        written = max(n for n in range(len(_END)) if reply.text.endswith(_END[:n]))
        reply.add(_END[written:])


def _read(reply: StreamedReply, pieces: Iterable[Reply]) -> bool:
    """Add pieces until the reply is complete; return whether it is."""
    return any(reply.add(*piece) for piece in pieces)


def _add_all(
    replies: Sequence[StreamedReply],
    ask: Callable[[list[StreamedReply], int], Sequence[Reply]],
    tokens: int,
) -> None:
    """Add the model's next text to each of ``replies``; do nothing if there are none."""
    if replies:
        for reply, written in zip(replies, ask(list(replies), tokens), strict=True):
            reply.add(*written)
