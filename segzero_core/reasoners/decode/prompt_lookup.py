# SPDX-License-Identifier: Apache-2.0
"""Draft tokens for speculative decoding, by n-gram lookup.

A model checks several draft tokens in about the time it generates one. Replies are alike: names
and brackets of an answer are the same each time, and thoughts repeat the question and each other.
The draft is the text that followed the last occurrence of the longest n-gram at the end (prompt
lookup decoding; vLLM's ``ngram`` method). Different from these, the lookup also covers earlier
replies, and any number counts as any other: after ``"bbox": [12, 30`` it finds ``, `` behind
``"bbox": [410, 7``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

_LONGEST = 8  # symbols of the longest n-gram; four numbers with commas between them are seven
_SHORTEST = 2
MEMORY = 4096  # tokens that are certainly remembered; at most twice as many are
_NUMBER = -1


class PromptLookup:
    """Proposes drafts; see the module.

    Attributes:
        limit: Maximum number of tokens of a draft.
    """

    def __init__(self, numbers: Collection[int], limit: int) -> None:
        """Begin with an empty text.

        Args:
            numbers: The tokens that are parts of numbers.
            limit: Maximum number of tokens of a draft; 0 = propose nothing.
        """
        self.limit = limit
        self._numbers = numbers
        self._histories = [_History(), _History()]  # the newest first
        self._last: int | None = None  # symbol
        self._hashes = [0] * (_LONGEST + 1)  # at index n: of the n-gram at the end
        # Where the longest n-gram at the end occurred before; place 0 = nowhere.
        self._found = self._histories[0], 0

    @property
    def remembered(self) -> int:
        """Number of tokens that can be looked up."""
        return sum(len(each.tokens) for each in self._histories)

    def add(self, tokens: Iterable[int]) -> None:
        """Append tokens to the text."""
        if self.limit:
            for token in tokens:
                self._add(token)

    def propose(self, count: int) -> list[int]:
        """Return a draft of at most ``count`` tokens, and at most ``limit``.

        It ends after the first part of a number, because the rest of another number is rarely
        right.
        """
        history, place = self._found
        draft = history.tokens[place : place + min(count, self.limit)] if place else []
        numbers = (index for index, token in enumerate(draft) if token in self._numbers)
        return draft[: next(numbers, len(draft)) + 1]

    def fork(self, limit: int) -> PromptLookup:
        """Return a lookup for another text that can also find everything in this one.

        Args:
            limit: Maximum number of tokens of the other's drafts; 0 = it proposes nothing.
        """
        other = PromptLookup(self._numbers, limit)
        other._histories = [_History(), *self._histories]
        return other

    def _add(self, token: int) -> None:
        symbol = _NUMBER if token in self._numbers else token
        complete = not symbol == self._last == _NUMBER  # a number of several tokens is one symbol
        self._last = symbol
        if complete:
            shorter = self._hashes[:-1]
            self._hashes = [0, *(hash((before, symbol)) for before in shorter)]
        keys = self._hashes[_SHORTEST:]
        if complete:
            self._found = self._look_up(keys)
        self._histories[0].add(token, keys)
        if len(self._histories[0].tokens) >= MEMORY:
            self._histories = [_History(), self._histories[0]]

    def _look_up(self, keys: list[int]) -> tuple[_History, int]:
        """Return the history that has the longest n-gram, and the place behind it."""
        for key in reversed(keys):
            for history in self._histories:
                if place := history.places.get(key):
                    return history, place
        return self._histories[0], 0


class _History:
    """Tokens in a row, and for each n-gram the number of tokens up to its last occurrence."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.places: dict[int, int] = {}

    def add(self, token: int, keys: list[int]) -> None:
        self.tokens.append(token)
        self.places.update(dict.fromkeys(keys, len(self.tokens)))
