# SPDX-License-Identifier: Apache-2.0
"""Tokens to text while they are generated."""

from __future__ import annotations

from collections.abc import Callable


class Detokenizer:
    """Turns tokens into text, whole characters at a time: some characters take several tokens."""

    def __init__(self, decode: Callable[[tuple[int, ...]], str]) -> None:
        """Use ``decode``, which returns the text of a tuple of token ids."""
        self._decode = decode
        self._pending: tuple[int, ...] = ()

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes; '' if it only begins a character."""
        self._pending += (token,)
        text = self._decode(self._pending)
        # A replacement character at the end is usually the first half of a character: wait.
        if not text or text.endswith('\ufffd'):
            return ''
        self._pending = ()
        return text

    def flush(self) -> str:
        """Return the text of the tokens that were still pending when generation ended."""
        text, self._pending = self._decode(self._pending), ()
        return text
