# SPDX-License-Identifier: Apache-2.0
"""How much a model thinks before it answers: freely, from a given start, up to a limit, or not.

Decoding takes most of the time of an answer, and most of the tokens are thoughts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from segzero_core.errors import EngineOptionError
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.streaming import StreamedReply
from segzero_core.registry import look_up

_STARTS = {'free': '', 'prefilled': '<think>', 'none': '<think></think><answer>'}
_END = '</think><answer>'


@dataclass(frozen=True)
class Thinking:
    """What is decided for the model instead of by it.

    Attributes:
        mode: ``free``: it writes everything itself, as in training. ``prefilled``: its reply
            begins with ``<think>``. ``none``: its thoughts are empty and it goes straight to the
            answer, for sentences that need no reasoning ("the red mug").
        limit: Most tokens of thought, after which the answer is begun for it; 0 = no limit.
    """

    mode: str = 'free'
    limit: int = 0

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            UnknownNameError: There is no such mode.
            EngineOptionError: The limit is negative.
        """
        look_up('thinking', self.mode, _STARTS)
        if self.limit < 0:
            raise EngineOptionError(f'max_think_tokens must be at least 0, got {self.limit}')

    @property
    def start(self) -> str:
        """What the reply begins with."""
        return _STARTS[self.mode]

    def write(
        self, reply: StreamedReply, ask: Callable[[str, int], Iterable[Reply]], max_new_tokens: int
    ) -> None:
        """Let a model write ``reply``.

        Args:
            reply: Still empty.
            ask: Takes what has been written so far and a number of tokens; yields what the model
                writes next, at most so many tokens of it.
            max_new_tokens: Of the whole reply.
        """
        reply.add(self.start)
        limit = self._limit(max_new_tokens)
        if _read(reply, ask(reply.text, limit or max_new_tokens)) or not limit:
            return
        _end_thoughts(reply)
        _read(reply, ask(reply.text, max_new_tokens - limit))

    def write_all(
        self,
        replies: Sequence[StreamedReply],
        ask: Callable[[list[StreamedReply], int], Sequence[Reply]],
        max_new_tokens: int,
    ) -> None:
        """Let a model write several replies side by side.

        Args:
            replies: Still empty.
            ask: Takes some of them and a number of tokens; returns what comes next in each.
            max_new_tokens: Of each whole reply.
        """
        limit = self._limit(max_new_tokens)
        for reply in replies:
            reply.add(self.start)
        _add_all(replies, ask, limit or max_new_tokens)
        left = [reply for reply in replies if limit and not reply.complete]
        for reply in left:
            _end_thoughts(reply)
        _add_all(left, ask, max_new_tokens - limit)

    def _limit(self, max_new_tokens: int) -> int:
        """Return the most tokens of thought; 0 where nothing is to be cut short."""
        return self.limit if self.limit < max_new_tokens and self.mode != 'none' else 0


def _end_thoughts(reply: StreamedReply) -> None:
    """Begin the answer, unless that has been done."""
    if '</think>' not in reply.text:
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
    """Add to each of ``replies``, if there are any, what the model writes next."""
    if replies:
        for reply, written in zip(replies, ask(list(replies), tokens), strict=True):
            reply.add(*written)
