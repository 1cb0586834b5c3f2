# SPDX-License-Identifier: Apache-2.0
"""The tokens generated after one prompt, and the check of drafts by speculative decoding."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from segzero_core.reasoners.base import FinishReason
from segzero_core.reasoners.decode.prompt_lookup import PromptLookup


class GeneratedSequence:
    """The reply to one prompt.

    Attributes:
        tokens: Generated so far.
        draft: Tokens that may come next; see ``look_ahead``.
        ended: Whether nothing more is generated.
        finish_reason: ``'stop'`` after an end token, ``'length'`` after the last token allowed, ''
            before.
        seen: (vocabulary,) bool, which tokens occur in prompt and reply; ``None`` without a
            repetition penalty.
    """

    def __init__(self, drafts: PromptLookup, ends: Collection[int], max_tokens: int) -> None:
        """Begin an empty reply.

        Args:
            drafts: Already has the prompt.
            ends: The tokens that end the reply.
            max_tokens: Maximum number of tokens.
        """
        self._drafts, self._ends, self._left = drafts, ends, max_tokens
        self._promising = 2  # number of draft tokens worth checking
        self.tokens: list[int] = []
        self.draft: list[int] = []
        self.ended = False
        self.finish_reason: FinishReason = ''
        self.seen: torch.Tensor | None = None

    def look_ahead(self, limit: int) -> list[int]:
        """Draft at most ``limit`` tokens; return the tokens to compute: the last one and those."""
        if self.ended:
            return []
        self.draft = self._drafts.propose(min(limit, self._left - 1, self._promising))
        return [*self.tokens[-1:], *self.draft]

    def accept(self, tokens: list[int]) -> list[int]:
        """Add the model's next tokens; return those before an end token."""
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        accepted = tokens[:end]
        self.tokens += accepted
        self._drafts.add(accepted)
        if self.seen is not None:
            self.seen[accepted] = True
        self._left -= len(tokens)
        self.ended = end is not None or self._left <= 0
        if self.ended:
            self.finish_reason = 'length' if end is None else 'stop'
        # After a draft of which little was right, a long one is unlikely to be.
        self._promising = len(tokens) + 1
        return accepted


def verify(
    logits: torch.Tensor, replies: Sequence[GeneratedSequence], penalty: float
) -> list[list[int]]:
    """Return for each reply the draft tokens the model agrees with, and its own next token.

    Greedy speculative decoding (arXiv 2211.17192): the output is that of generating one token at a
    time, except for ties within rounding.

    Args:
        logits: (m, vocabulary) for one reply after the other: after its last token, and after each
            token of its draft.
        replies: The replies.
        penalty: Repetition penalty of CTRL (arXiv 1909.05858), as in transformers; 1 = none.
    """
    if penalty != 1:
        seen = torch.cat([_seen_at(each) for each in replies])
        logits = logits.float()
        penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen, penalized, logits)
    likeliest = iter(logits.argmax(-1).tolist())
    found = []
    for each in replies:
        tokens = [next(likeliest) for _ in range(1 + len(each.draft))]
        right = [token == drafted for token, drafted in zip(tokens, each.draft, strict=False)]
        found.append(tokens[: 1 + [*right, False].index(False)])
    return found


def _seen_at(reply: GeneratedSequence) -> torch.Tensor:
    """Return (1 + n, vocabulary) bool: tokens before each of n draft tokens, and behind them."""
    assert reply.seen is not None
    seen = reply.seen.repeat(1 + len(reply.draft), 1)
    for place, token in enumerate(reply.draft, 1):
        seen[place:, token] = True
    return seen
