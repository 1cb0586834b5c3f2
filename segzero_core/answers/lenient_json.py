# SPDX-License-Identifier: Apache-2.0
"""A forgiving reader for what language models write when asked for JSON.

Reads single quotes, unquoted words, round brackets, missing and superfluous commas, comments, text
around the value and objects that stop too early. Nothing is evaluated, nothing recurses deeply and
no input takes more than linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_OPENING = re.compile(r'[{[]')
_SEPARATORS = re.compile(r'[\s,;]*')
_COLON = re.compile(r'\s*[:=]')
_SCALAR = re.compile(
    r'"(?P<double>[^"\\]*(?:\\.[^"\\]*)*)"'
    r"|'(?P<single>[^'\\]*(?:\\.[^'\\]*)*)'"
    r'|(?P<bare>[-+]?[\w.][\w.+ -]*)',
    re.DOTALL,
)
_WORDS = {'null': None, 'none': None, 'true': True, 'false': False}
_LINE_COMMENT = re.compile(r'(?://|#)[^\n]*')
_MAX_DEPTH = 8
_SHOWN = 40  # characters of a value that cannot be read
_BROKEN: Any = object()  # a value that could not be read to its end


class Pairs(list[tuple[str, Any]]):
    """An object as it was written: in order, keys possibly twice.

    Attributes:
        unread: The key and the text of the value that could not be read to its end; '' if there
            is none.
    """

    unread: tuple[str, str] = ('', '')


def read_values(text: str, comments: bool = False) -> Iterator[Any]:
    """Yield every list and object in ``text`` that is not inside another.

    Objects are ``Pairs``, numbers floats (possibly not finite), everything else in quotes or
    words a string, ``None`` or a bool. Of an object that stops too early or goes on unreadably
    the pairs before are kept, of such a list the objects; a list of numbers that stops too early
    is left out, since its last number may be cut short.

    Args:
        text: Anything.
        comments: Whether comments (``//``, ``#``, ``/* */``) between keys and values are passed
            over. Without, an object ends at its first comment.
    """
    return _JsonScanner(text, comments).values()


class _JsonScanner:
    """One pass over the text; after something unreadable it goes on from there.

    So each character is looked at a bounded number of times. (A quotation without an end is
    followed to the end of the text, but at most once for each kind of quote: had there been a
    later quote, it would have ended there.)
    """

    def __init__(self, text: str, comments: bool) -> None:
        self.text = text
        self.pos = 0
        self._comments = comments
        self._last_block = text.rfind('*/') if comments else -1

    def values(self) -> Iterator[Any]:
        while opening := _OPENING.search(self.text, self.pos):
            self.pos = opening.start()
            value = self._value(0)
            if value is not _BROKEN:
                yield value
            self.pos = max(self.pos, opening.end())

    def _value(self, depth: int) -> Any:
        self._skip_separators()
        here = self.text[self.pos : self.pos + 1]
        if here in ('{', '[', '(') and depth < _MAX_DEPTH:
            self.pos += 1
            return self._object(depth) if here == '{' else self._list(depth)
        return self._scalar()

    def _object(self, depth: int) -> Any:
        pairs = Pairs()
        while not self._ends('}'):
            key = self._scalar()
            start = self.pos
            value = self._value(depth + 1) if self._skip(_COLON) else _BROKEN
            if value is _BROKEN:
                if key is not _BROKEN:
                    pairs.unread = (str(key), self.text[start : start + _SHOWN])
                return pairs or _BROKEN
            pairs.append((str(key), value))
        return pairs

    def _list(self, depth: int) -> Any:
        items: list[Any] = []
        while not self._ends('])'):
            value = self._value(depth + 1)
            if value is _BROKEN:
                return items if any(isinstance(item, Pairs) for item in items) else _BROKEN
            items.append(value)
        return items

    def _scalar(self) -> Any:
        match = _SCALAR.match(self.text, self.pos)
        if match is None:
            return _BROKEN
        self.pos = match.end()
        if match['bare'] is None:
            return match['double'] if match['single'] is None else match['single']
        word = match['bare'].strip()
        try:
            return float(word)
        except ValueError:
            return _WORDS.get(word.lower(), word)

    def _ends(self, closers: str) -> bool:
        self._skip_separators()
        ended = self.text[self.pos : self.pos + 1] in tuple(closers)
        self.pos += ended
        return ended

    def _skip_separators(self) -> None:
        self._skip(_SEPARATORS)
        while self._comments and self._skip_comment():
            self._skip(_SEPARATORS)

    def _skip_comment(self) -> bool:
        if self.text.startswith('/*', self.pos) and self.pos + 2 <= self._last_block:
            self.pos = self.text.index('*/', self.pos + 2) + 2
            return True
        return self._skip(_LINE_COMMENT)

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self.text, self.pos)
        self.pos = match.end() if match else self.pos
        return match is not None
