# SPDX-License-Identifier: Apache-2.0
"""Streamed chat completions in the dialects of the servers that speak OpenAI's protocol.

A response is a sequence of lines, ``data: {...}`` for the most part (server-sent events), or a
single JSON document from a server that cannot stream. The functions here turn both into
``ChatDelta``; they know nothing of HTTP, and their errors do not name the server yet.

These variations of OpenAI's protocol are read too:

* thoughts in a field of their own: ``reasoning_content`` (DeepSeek, vLLM, SGLang, llama.cpp),
  ``reasoning`` (vLLM, Ollama, OpenRouter), ``thinking``, or parts of ``content`` (Mistral);
* ``event:``, ``id:`` and ``retry:`` lines, comments, ``data:[DONE]`` without a blank, events
  without an empty line between them, ``"delta": null``, ``"choices": null``, ``"error": null``;
* errors inside a response of status 200, as an event or as a plain JSON document.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from segzero_core.errors import ServerError
from segzero_core.reasoners.base import FinishReason

_LONGEST_LINE = 1 << 20  # bytes; an event has a few hundred
_LINE_END = re.compile(rb'\r\n|\n|\r')
_OTHER_FIELD = re.compile(rb'[A-Za-z][\w-]*(:|$)')  # a field of an event, to be ignored
_THOUGHT_FIELDS = ('reasoning_content', 'reasoning', 'thinking')
_LENGTH_REASONS = ('length', 'max_tokens', 'model_length')  # the same in different servers


class ChatDelta(NamedTuple):
    """One step of a reply.

    Attributes:
        thoughts: Text of the model's reasoning, where the server separates it.
        text: Text of the reply.
        finish_reason: ``'length'`` if the limit of tokens was reached, ``'stop'`` if the reply
            ended for any other reason, ``''`` while it goes on.
        tokens: Tokens of the whole reply, thoughts included; 0 where the event does not say.
    """

    thoughts: str = ''
    text: str = ''
    finish_reason: FinishReason = ''
    tokens: int = 0


async def read_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a response without their ends.

    Raises:
        ServerError: A line is longer than a megabyte.
    """
    rest = b''
    async for chunk in chunks:
        # Not str.splitlines: it also splits at U+2028, which JSON may contain.
        *lines, rest = _LINE_END.split(rest + chunk)
        for line in lines:
            yield line
        if len(rest) > _LONGEST_LINE:
            raise _broken(rest)
    if rest:
        yield rest


class EventReader:
    """Turns the lines of one response into deltas.

    Attributes:
        finished: Whether the server said that the reply is complete.
    """

    def __init__(self) -> None:
        """Expect the first line."""
        self.finished = False
        self._pending = b''  # an event whose JSON is not complete

    def read(self, line: bytes) -> ChatDelta | None:
        """Return the delta of the event that ``line`` completes, or ``None`` if it completes none.

        Raises:
            ServerError: The line, or the event it ends, cannot be understood, or is an error that
                the server reports.
        """
        line = line.removeprefix(b'\xef\xbb\xbf').strip()
        if not line:
            self.end()
            return None
        if line.startswith(b'data:'):
            data = line.removeprefix(b'data:').strip()
        elif line.startswith(b'{') or (self._pending and not _OTHER_FIELD.match(line)):
            data = line  # a JSON document instead of events
        elif line.startswith(b':') or _OTHER_FIELD.match(line):
            return None
        else:
            raise _broken(line)
        if data == b'[DONE]' and not self._pending:
            self.finished = True
            return None
        self._pending += (b'\n' if self._pending else b'') + data
        try:
            event = json.loads(self._pending)
        except ValueError:
            if len(self._pending) > _LONGEST_LINE:
                raise _broken(self._pending) from None
            return None  # it may go on in the next line
        except RecursionError:
            raise _broken(self._pending) from None
        delta = _delta(event, self._pending)
        self._pending = b''
        self.finished = self.finished or bool(delta.finish_reason)
        return delta

    def end(self) -> None:
        """Note that an event, or the response, has ended.

        Raises:
            ServerError: In the middle of an event.
        """
        if self._pending:
            raise _broken(self._pending)


def _delta(event: Any, shown: bytes) -> ChatDelta:
    """Return the delta of a decoded event; ``shown`` is quoted if the event is malformed."""
    if not isinstance(event, dict):
        raise _broken(shown)
    if event.get('error') or event.get('object') == 'error' or 'choices' not in event:
        message = error_message(event)
        if message:
            raise ServerError('server_refused', message)
        if 'usage' not in event:
            raise _broken(shown)
    usage = event.get('usage')
    tokens = usage.get('completion_tokens') if isinstance(usage, dict) else 0
    choices = event.get('choices') or [{}]  # some events only count tokens
    try:
        choice = choices[0]
        # A server that does not stream sends the whole message.
        said = choice.get('delta') or choice.get('message') or {}
        thoughts, text = _content(said)
        ended = choice.get('finish_reason')
        reason: FinishReason = (
            '' if not ended else 'length' if ended in _LENGTH_REASONS else 'stop'
        )
        return ChatDelta(thoughts, text, reason, tokens if isinstance(tokens, int) else 0)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _broken(shown) from None


def _content(said: dict[str, Any]) -> tuple[str, str]:
    """Return the thoughts and the text of a delta or message."""
    own = (said.get(field) for field in _THOUGHT_FIELDS)
    thoughts = next((value for value in own if isinstance(value, str) and value), '')
    content = said.get('content') or said.get('refusal') or ''
    if isinstance(content, str):
        return thoughts, content
    text = ''
    for part in content:
        if part.get('type') == 'thinking':
            thought = part.get('thinking') or ''
            if not isinstance(thought, str):
                thought = ''.join(piece.get('text') or '' for piece in thought)
            thoughts += thought
        else:
            text += part.get('text') or ''
    return thoughts, text


def error_message(body: Any) -> str:
    """Return the server's own words in an error document, on one line; '' = there are none."""
    if isinstance(body, dict):
        for field in ('error', 'message', 'detail'):
            if body.get(field):
                return error_message(body[field]) or one_line(json.dumps(body[field]))
        return ''
    if isinstance(body, list) and body:  # FastAPI's validation errors
        first = body[0]
        return error_message(first.get('msg') if isinstance(first, dict) else first)
    return one_line(str(body)) if body else ''


def one_line(text: str | bytes, length: int = 200) -> str:
    """Return the beginning of foreign text, on one line."""
    if isinstance(text, bytes):
        text = text[: 4 * length].decode(errors='replace')
    line = ' '.join(text.split()).rstrip('.')
    return line if len(line) <= length else f'{line[:length]}...'


def _broken(sent: bytes) -> ServerError:
    return ServerError('server_broken', f'it sent {one_line(sent)!r}')
