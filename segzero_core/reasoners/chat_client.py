# SPDX-License-Identifier: Apache-2.0
"""The line to a server that speaks OpenAI's chat protocol: everything on it ends in bounded time.

Whatever blocks (name resolution, connecting, reading) runs in a thread of its own. The caller
waits for what that thread hands over, for the deadline, or for a cancellation; in the latter two
cases it closes the socket under the thread, which ends it, and tells the server to stop.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import random
import socket
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from segzero_core.errors import CancelledError, EngineOptionError, ServerError
from segzero_core.reasoners.base import Reply

_POLL_S = 0.01  # how late a cancellation is noticed at most
_CONNECT_S = 5.0
_LONGEST_LINE = 1 << 20  # bytes; one event of a stream has a few hundred
_FIRST_PAUSE_S = 0.25  # before the first repetition; each next pause is twice as long
_LONGEST_PAUSE_S = 8.0
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)


class _Refusal(NamedTuple):
    """A response that is not 200."""

    status: int
    text: str
    retry_after: str


class _TransientError(Exception):
    """What failed may work a moment later."""

    def __init__(self, error: ServerError, pause: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.pause = error, pause


class ModelServer:
    """A server below ``url``. Any number of threads may ask at the same time."""

    def __init__(self, url: str, key: str = '', timeout: float = 60.0, retries: int = 3) -> None:
        """Note the address; nothing is sent yet.

        Args:
            url: Up to and with ``/v1``: ``http://127.0.0.1:8000/v1``.
            key: Sent as bearer token; '' = none.
            timeout: Seconds for one request, repetitions included.
            retries: How often a request is repeated that failed before it brought anything.

        Raises:
            EngineOptionError: One of them cannot be used.
        """
        parts = urlsplit(url)
        if parts.scheme not in ('http', 'https') or not parts.hostname:
            raise EngineOptionError(f"url must look like 'http://127.0.0.1:8000/v1', got {url!r}")
        if not timeout > 0 or retries < 0:
            raise EngineOptionError(
                f'timeout must be above 0 and retries at least 0, got {timeout} and {retries}'
            )
        self.url = url.rstrip('/')
        self._key, self._timeout, self._retries = key, timeout, retries

    def models(
        self, timeout: float, cancel: threading.Event | None = None
    ) -> list[dict[str, Any]]:
        """Return what ``/models`` lists, asking until it answers or ``timeout`` seconds are over.

        Raises:
            ServerError: It does not answer, or not with a list of models.
            CancelledError: ``cancel`` was set.
        """
        deadline = time.monotonic() + timeout
        # As often as it takes: a server that loads a large model refuses connections for minutes.
        lines = self._persistent('GET', '/models', None, deadline, cancel, retries=None)
        try:
            listed = json.loads(b''.join(lines))['data']
            return [{**entry, 'id': str(entry['id'])} for entry in listed]
        except (ValueError, KeyError, TypeError) as error:
            raise self._error(
                'server_broken', 'what it calls its models is no such list'
            ) from error

    def chat(
        self, body: dict[str, Any], cancel: threading.Event | None = None
    ) -> Generator[Reply, None, None]:
        """Yield the pieces of a streamed chat completion as they come.

        Closing the iterator early closes the connection, on which the server stops writing.

        Args:
            body: The request without ``stream``.
            cancel: Set it from another thread to stop.

        Raises:
            ServerError: See ``ServerError.KINDS``.
            CancelledError: ``cancel`` was set.
        """
        deadline = time.monotonic() + self._timeout
        data = json.dumps({**body, 'stream': True}).encode()
        finished = False
        for line in self._persistent(
            'POST', '/chat/completions', data, deadline, cancel, self._retries
        ):
            event = line.strip()
            if event == b'data: [DONE]':
                return
            if event and not event.startswith(b':'):
                piece = self._piece(event)
                if piece is not None:
                    finished = finished or bool(piece.finish_reason)
                    yield piece
        if not finished:
            raise self._error('server_broken', 'the connection ended in the middle of an answer')

    def _piece(self, event: bytes) -> Reply | None:
        """Return the text in one line of the stream; its ``finish_reason`` marks the last one."""
        try:
            if not event.startswith(b'data:'):
                raise ValueError('no event')
            content = json.loads(event.removeprefix(b'data:'))
            if 'error' in content:
                raise self._error('server_refused', _summary(str(content['error'])))
            choices = content['choices']
            if not choices:  # the last event of some servers only counts tokens
                return None
            text = choices[0]['delta'].get('content') or ''
            if not isinstance(text, str):
                raise TypeError('content is no text')
            reason = choices[0].get('finish_reason')
            if reason is None:
                return Reply(text, '', int(bool(text)))
            return Reply(text, 'length' if reason == 'length' else 'stop', int(bool(text)))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            shown = _summary(event.decode(errors='replace'))
            raise self._error('server_broken', f'it sent {shown!r}') from error

    def _persistent(
        self,
        method: str,
        path: str,
        body: bytes | None,
        deadline: float,
        cancel: threading.Event | None,
        retries: int | None,
    ) -> Iterator[bytes]:
        """Yield the lines of the response; repeat what fails before the first of them.

        ``retries`` None = until the deadline.
        """
        for attempt in range(1 << 30):
            try:
                yield from self._once(method, path, body, deadline, cancel)
            except _TransientError as failure:
                last = retries is not None and attempt >= retries
                pause = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
                # At random, so that clients that failed together do not come back together.
                pause = max(failure.pause, pause * random.uniform(0.5, 1.0))
                if last or time.monotonic() + pause >= deadline:
                    raise failure.error from failure
                _sleep(pause, cancel)
            else:
                return

    def _once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        deadline: float,
        cancel: threading.Event | None,
    ) -> Iterator[bytes]:
        headers = {'Content-Type': 'application/json'}
        if self._key:
            headers['Authorization'] = f'Bearer {self._key}'
        exchange = _Exchange(self.url, method, path, body, headers, deadline)
        begun = False
        try:
            while True:
                found = self._next(exchange, deadline, cancel)
                if found is None:
                    return
                if isinstance(found, _Refusal):
                    raise self._refused(found)
                if isinstance(found, Exception):
                    reason = f'{type(found).__name__}: {_summary(str(found))}'
                    if time.monotonic() >= deadline:
                        raise self._error('server_timeout', reason)
                    if begun:
                        raise self._error('server_broken', f'it broke off ({reason})')
                    raise _TransientError(self._error('server_unreachable', reason))
                begun = True
                yield found
        finally:
            exchange.abort()

    def _next(
        self, exchange: _Exchange, deadline: float, cancel: threading.Event | None
    ) -> bytes | Exception | _Refusal | None:
        while True:
            if cancel is not None and cancel.is_set():
                raise CancelledError('cancelled while waiting for the model server')
            if time.monotonic() >= deadline:
                raise self._error('server_timeout', 'no whole answer in time')
            try:
                return exchange.received.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def _refused(self, refusal: _Refusal) -> Exception:
        hint = {
            401: ': it wants an API key, or another one',
            403: ': it wants an API key, or another one',
            404: ': does the url end in /v1, and does the server have this model?',
        }.get(refusal.status, '')
        said = f'HTTP {refusal.status}{hint} ({_summary(refusal.text)})'
        error = self._error('server_refused', said)
        if refusal.status not in _RETRIED:
            return error
        pause = float(refusal.retry_after) if refusal.retry_after.isdecimal() else 0.0
        return _TransientError(error, pause)

    def _error(self, kind: str, what: str) -> ServerError:
        remedy = {
            'server_unreachable': 'Is the server running, and is this its address?',
            'server_timeout': 'Is it overloaded? Give it more time with option timeout.',
            'server_refused': 'See its log.',
            'server_broken': "Does it speak OpenAI's chat protocol? See its log.",
        }[kind]
        return ServerError(kind, f'model server {self.url}: {what}. {remedy}')


class _Exchange:
    """One request and its response, in a thread. ``received`` gets the lines, then ``None``."""

    def __init__(
        self,
        url: str,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        deadline: float,
    ) -> None:
        self.received: queue.SimpleQueue[bytes | Exception | _Refusal | None]
        self.received = queue.SimpleQueue()
        self._socket: socket.socket | None = None
        self._aborted = False
        self._lock = threading.Lock()
        parts = urlsplit(url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == 'https' else http.client.HTTPConnection
        )
        patience = max(min(_CONNECT_S, deadline - time.monotonic()), 0.001)
        self._connection = kind(parts.hostname or '', parts.port, timeout=patience)
        self._request = (method, parts.path + path, body, headers)
        self._thread = threading.Thread(target=self._run, name='segzero-server', daemon=True)
        self._thread.start()

    def abort(self) -> None:
        """End the thread, and the server's work on the request; harmless after the end."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                # Not the method of an SSL socket: that one waits for the other side.
                with contextlib.suppress(OSError):  # the other side was faster
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            self._connection.connect()
            with self._lock:
                self._socket = self._connection.sock
                if self._aborted:
                    return
            self._socket.settimeout(None)  # the caller's deadline counts from here
            self._receive()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.received.put(error)
        finally:
            self._connection.close()

    def _receive(self) -> None:
        self._connection.request(*self._request)
        response = self._connection.getresponse()
        if response.status != http.client.OK:
            text = response.read(4096).decode(errors='replace')
            again = response.headers.get('Retry-After', '')
            self.received.put(_Refusal(response.status, text, again))
            return
        while line := response.readline(_LONGEST_LINE):
            self.received.put(line)
        self.received.put(None)


def _sleep(seconds: float, cancel: threading.Event | None) -> None:
    if cancel is None:
        time.sleep(seconds)
    elif cancel.wait(seconds):
        raise CancelledError('cancelled while waiting for the model server')


def _summary(text: str, length: int = 200) -> str:
    """Return the beginning of what a stranger wrote, on one line."""
    line = ' '.join(text.split()).rstrip('.')
    return line if len(line) <= length else f'{line[:length]}...'
