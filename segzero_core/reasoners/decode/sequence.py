# SPDX-License-Identifier: Apache-2.0
"""What is written after a prompt, alone or beside others: chosen greedily, guessed ahead."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from segzero_core.reasoners.base import FinishReason
from segzero_core.reasoners.decode.prompt_lookup import PromptLookup


class GeneratedSequence:
    """The tokens after one prompt.

    Attributes:
        tokens: Written so far.
        guess: What may come next, see ``look_ahead``.
        ended: Whether nothing is to be written any more.
        finish_reason: ``'stop'`` after an end token, ``'length'`` after the last token allowed.
        seen: (vocabulary,) bool, which tokens occur in prompt and reply; ``None`` if it does not
            matter.
    """

    def __init__(self, drafts: PromptLookup, ends: Collection[int], count: int) -> None:
        """Begin.

        Args:
            drafts: Has been told the prompt.
            ends: Tokens that end it.
            count: Most tokens to write.
        """
        self._drafts, self._ends, self._left = drafts, ends, count
        self._promising = 2  # tokens that are worth guessing
        self.tokens: list[int] = []
        self.guess: list[int] = []
        self.ended = False
        self.finish_reason: FinishReason = ''
        self.seen: torch.Tensor | None = None

    def look_ahead(self, most: int) -> list[int]:
        """Guess at most so many tokens; return what is to be computed: the last one, and those."""
        if self.ended:
            return []
        self.guess = self._drafts.next(min(most, self._left - 1, self._promising))
        return [*self.tokens[-1:], *self.guess]

    def take(self, agreed: list[int]) -> list[int]:
        """Take what the model writes next; return what there is of it before an end."""
        end = next((place for place, token in enumerate(agreed) if token in self._ends), None)
        written = agreed[:end]
        self.tokens += written
        self._drafts.add(written)
        if self.seen is not None:
            self.seen[written] = True
        self._left -= len(agreed)
        self.ended = end is not None or self._left <= 0
        if self.ended:
            self.finish_reason = 'length' if end is None else 'stop'
        # Where little of the last guess was right, a long one will hardly be.
        self._promising = len(agreed) + 1
        return written


def choose(
    logits: torch.Tensor, going: Sequence[GeneratedSequence], penalty: float
) -> list[list[int]]:
    """Return for each the tokens of its guess that the model would have written, and one more.

    Args:
        logits: (m, vocabulary), for one continuation after the other: after its last token, and
            after each of its guess.
        going: Which these are.
        penalty: Of repetition, as in the paper of CTRL (arXiv 1909.05858), and in transformers.
    """
    if penalty != 1:
        seen = torch.cat([_seen(each) for each in going])
        logits = logits.float()
        punished = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen, punished, logits)
    chosen = iter(logits.argmax(-1).tolist())
    found = []
    for each in going:
        written = [next(chosen) for _ in range(1 + len(each.guess))]
        right = [token == guess for token, guess in zip(written, each.guess, strict=False)]
        found.append(written[: 1 + [*right, False].index(False)])
    return found


def _seen(each: GeneratedSequence) -> torch.Tensor:
    """Return (1 + n, vocabulary): what occurs before each of n guesses, and behind them."""
    assert each.seen is not None
    seen = each.seen.repeat(1 + len(each.guess), 1)
    for place, token in enumerate(each.guess, 1):
        seen[place:, token] = True
    return seen
