# SPDX-License-Identifier: Apache-2.0
"""Guesses of the next tokens, for a model that checks several in the time it writes one.

Replies are alike: the names and brackets of their answers are the same in each, and what a model
thinks repeats what it was asked and what it thought before. What followed the last time is guessed
to follow again (prompt lookup decoding; as speculative decoding, arXiv 2211.17192, with a table
for the small model).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

_LONGEST = 8  # symbols that are looked up; four numbers with commas between are seven
_SHORTEST = 2
_MOST_TOKENS = 4096  # remembered for sure; twice as many at most
_NUMBER = -1


class PromptLookup:
    """What followed the last time the text ended like this.

    Numbers differ from answer to answer, also in their length, so any number counts as any other
    in what the text ends like.

    Attributes:
        most: Tokens of the longest guess.
    """

    def __init__(self, numbers: Collection[int], most: int) -> None:
        """Remember nothing yet.

        Args:
            numbers: The tokens that are parts of numbers.
            most: Tokens of the longest guess; 0 = never guess.
        """
        self.most = most
        self._numbers = numbers
        self._memories = [_Followed(), _Followed()]  # the newest first
        self._last: int | None = None  # symbol
        self._hashes = [0] * (_LONGEST + 1)  # of so many symbols at the end
        self._found = self._memories[0], 0  # where the text ended likewise before; 0 = nowhere

    def add(self, tokens: Iterable[int]) -> None:
        """Remember what comes next in the text."""
        if self.most:
            for token in tokens:
                self._add(token)

    def next(self, count: int) -> list[int]:
        """Return what may come next, at most ``count`` tokens, and ``most``.

        It ends behind its first part of a number: what followed another one is hardly right.
        """
        followed, place = self._found
        guess = followed.tokens[place : place + min(count, self.most)] if place else []
        numbers = (index for index, token in enumerate(guess) if token in self._numbers)
        return guess[: next(numbers, len(guess)) + 1]

    def fork(self, most: int) -> PromptLookup:
        """Return the same for another text, which this one is not to remember.

        Args:
            most: Tokens of the other's longest guess; 0 = it never guesses.
        """
        other = PromptLookup(self._numbers, most)
        other._memories = [_Followed(), *self._memories]
        return other

    def _add(self, token: int) -> None:
        symbol = _NUMBER if token in self._numbers else token
        whole = not symbol == self._last == _NUMBER  # a number of several tokens is one symbol
        self._last = symbol
        if whole:
            shorter = self._hashes[:-1]
            self._hashes = [0, *(hash((before, symbol)) for before in shorter)]
        keys = self._hashes[_SHORTEST:]
        if whole:
            self._found = self._look_up(keys)
        self._memories[0].add(token, keys)
        if len(self._memories[0].tokens) >= _MOST_TOKENS:
            self._memories = [_Followed(), self._memories[0]]

    def _look_up(self, keys: list[int]) -> tuple[_Followed, int]:
        """Return which memory knows the longest ending, and where it was followed."""
        for key in reversed(keys):
            for memory in self._memories:
                if place := memory.places.get(key):
                    return memory, place
        return self._memories[0], 0


class _Followed:
    """Tokens in a row, and for each ending how many there were up to its last occurrence."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.places: dict[int, int] = {}

    def add(self, token: int, keys: list[int]) -> None:
        self.tokens.append(token)
        self.places.update(dict.fromkeys(keys, len(self.tokens)))
