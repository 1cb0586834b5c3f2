# SPDX-License-Identifier: Apache-2.0
"""A client of a server that speaks OpenAI's chat protocol, on the ``openai`` SDK.

The SDK connects, authenticates, closes streams, and retries requests that failed before any text
came (with growing pauses, or after the server's ``Retry-After``). ``chat_events`` reads the
streams, because the SDK's own decoder fails on legal ones: on events without data, for example
``retry: 3000``, and on plain JSON. Every call ends in bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import httpx2  # the SDK's HTTP library, which comes with it
import openai

from segzero_core.errors import CancelledError, EngineOptionError, ServerError
from segzero_core.reasoners.chat_events import (
    ChatDelta,
    EventReader,
    error_message,
    one_line,
    read_lines,
)
from segzero_core.reasoners.event_loop import EventLoopThread

_CONNECT_S = 5.0
# Status codes that the server refused the current request with; the SDK retries silently.
_REFUSALS: ContextVar[list[int]] = ContextVar('refusals')
_STARTUP_PAUSE_S = 0.5  # between two looks whether a server has started

# The SDK takes fields that only some servers know in a dictionary of their own.
_STANDARD_FIELDS = ('model', 'messages', 'max_tokens', 'temperature', 'stream_options')
_STATUS_HINTS = {
    401: ': it wants an API key, or another one',
    403: ': it wants an API key, or another one',
    404: ': does the url end in /v1, and does the server have this model?',
}
_REMEDIES = {
    'server_unreachable': 'Is the server running, and is this its address?',
    'server_timeout': 'Is it overloaded? Give it more time with option timeout.',
    'server_refused': 'See its log.',
    'server_broken': "Does it speak OpenAI's chat protocol? See its log.",
}


class ModelServer:
    """A server below ``url``. Any number of threads may ask at the same time.

    Attributes:
        url: Without a slash at its end.
    """

    def __init__(self, url: str, key: str = '', timeout: float = 60.0, retries: int = 3) -> None:
        """Note the address; nothing is sent yet.

        A server on this machine is asked directly, any other through the proxy that the
        environment names (``HTTPS_PROXY``, ``NO_PROXY``, ...), if it names one.

        Args:
            url: Up to and including ``/v1``: ``http://127.0.0.1:8000/v1``.
            key: Sent as bearer token; '' = none.
            timeout: Seconds for one request, retries included.
            retries: Maximum number of retries of a request that failed before any text came.

        Raises:
            EngineOptionError: One of them, or a proxy in the environment, cannot be used.
        """
        host = _host(url)
        if not timeout > 0 or retries < 0:
            raise EngineOptionError(
                f'timeout must be above 0 and retries at least 0, got {timeout} and {retries}'
            )
        key = key.strip()  # keys that were read from a file often end in a newline
        if not key.isascii() or not key.isprintable():
            raise EngineOptionError('the API key holds characters that no key can have')
        self.url = url.rstrip('/')
        self._timeout = timeout
        self._headers: dict[str, Any] = {} if key else {'Authorization': openai.Omit()}
        try:
            transport = openai.DefaultAsyncHttpxClient(
                trust_env=not _is_loopback(host), event_hooks={'response': [_note_refusal]}
            )
        except (ValueError, ImportError) as error:
            raise EngineOptionError(
                f'the proxy that the environment names for {self.url} cannot be used '
                f'({one_line(str(error))}). Correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, or add '
                f'{host} to NO_PROXY'
            ) from error
        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=key or 'none',  # the SDK insists on one
            timeout=openai.Timeout(None, connect=_CONNECT_S),  # the caller has a deadline
            max_retries=retries,
            http_client=transport,
        )
        self._loop = EventLoopThread('segzero-server')

    def close(self) -> None:
        """Close all connections and end the thread; calling it again does nothing."""
        if not self._loop.closed:
            self._loop.submit(self._client.close()).result()
        self._loop.close()

    def models(
        self, timeout: float, cancel: threading.Event | None = None
    ) -> list[dict[str, Any]]:
        """Return the entries of ``/models``, asking again for at most ``timeout`` seconds.

        Raises:
            ServerError: It does not answer, or not with a list of models.
            CancelledError: ``cancel`` was set.
        """
        last = [self._error('server_timeout', 'no answer in time')]  # why each attempt failed
        deadline = time.monotonic() + timeout
        found = self._loop.iterate(
            self._wait_for_models(deadline, last), _checker(deadline, cancel, lambda: last[-1])
        )
        with contextlib.closing(found):
            return next(found)

    def chat(
        self, request: dict[str, Any], cancel: threading.Event | None = None
    ) -> Generator[ChatDelta, None, None]:
        """Yield the steps of a streamed chat completion as they come.

        Closing the iterator early closes the connection, and the server then stops generating.

        Args:
            request: The body of the request, without ``stream``.
            cancel: Set it from another thread to stop.

        Raises:
            ServerError: See ``ServerError.KINDS``.
            CancelledError: ``cancel`` was set.
        """
        if self._loop.closed:
            raise self._error('server_unreachable', 'the connection to it has been closed')
        deadline, refusals = time.monotonic() + self._timeout, list[int]()

        def too_late() -> ServerError:
            last = f'; its last one was HTTP {refusals[-1]}' if refusals else ''
            return self._error('server_timeout', f'no answer in time{last}')

        return self._loop.iterate(
            self._deltas(request, refusals), _checker(deadline, cancel, too_late)
        )

    def broken(self, what: str) -> ServerError:
        """Return the error for a server that does not keep to the protocol.

        Args:
            what: The breach, as part of a sentence.
        """
        return self._error('server_broken', what)

    async def _wait_for_models(
        self, deadline: float, last: list[ServerError]
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Yield the list of models once; a server that loads a model refuses for minutes."""
        once = self._client.with_options(max_retries=0)
        while True:
            try:
                async with once.models.with_streaming_response.list(
                    extra_headers=self._headers
                ) as response:
                    yield self._listed(await response.text())
                return
            except (openai.APIError, httpx2.HTTPError) as error:
                last.append(self._explained(error))
                if isinstance(error, openai.APIStatusError) and not _may_pass(error.status_code):
                    raise last[-1] from error
            if time.monotonic() + _STARTUP_PAUSE_S >= deadline:
                raise last[-1]
            await asyncio.sleep(_STARTUP_PAUSE_S)

    def _listed(self, body: str) -> list[dict[str, Any]]:
        try:
            return [{**entry, 'id': str(entry['id'])} for entry in json.loads(body)['data']]
        except (ValueError, KeyError, TypeError) as error:
            raise self.broken(f'its list of models cannot be read ({one_line(body)!r})') from error

    async def _deltas(
        self, request: dict[str, Any], refusals: list[int]
    ) -> AsyncGenerator[ChatDelta, None]:
        """Yield the steps of a reply, in the loop's thread; note refusals that are retried."""
        _REFUSALS.set(refusals)
        events = EventReader()
        create = self._client.chat.completions.with_streaming_response.create
        standard = {name: value for name, value in request.items() if name in _STANDARD_FIELDS}
        extra = {name: value for name, value in request.items() if name not in standard}
        begun = False
        try:
            async with create(
                **standard, stream=True, extra_body=extra, extra_headers=self._headers
            ) as response:
                begun = True
                async for line in read_lines(response.iter_bytes()):
                    delta = events.read(line)
                    if delta is not None:
                        yield delta
                events.end()
        except (openai.APIError, httpx2.HTTPError) as error:
            raise self._explained(error, begun) from error
        except ServerError as error:
            raise self._error(error.kind, str(error)) from error
        if not events.finished:
            raise self.broken('the connection ended in the middle of an answer')

    def _explained(self, error: Exception, begun: bool = False) -> ServerError:
        """Return the error for a request that failed.

        Args:
            error: Of the SDK or of its HTTP library.
            begun: Whether the response had begun.
        """
        if isinstance(error, openai.APIStatusError):
            said = error_message(error.body) or one_line(error.message)
            hint = _STATUS_HINTS.get(error.status_code, '')
            return self._error('server_refused', f'HTTP {error.status_code}{hint} ({said})')
        if begun:
            return self._error('server_broken', f'it broke off ({_root(error)})')
        return self._error('server_unreachable', _root(error))

    def _error(self, kind: str, what: str) -> ServerError:
        return ServerError(kind, f'model server {self.url}: {what}. {_REMEDIES[kind]}')


def _checker(
    deadline: float, cancel: threading.Event | None, too_late: Callable[[], ServerError]
) -> Callable[[], None]:
    """Return a function that raises once a request is cancelled or its time is over."""

    def check() -> None:
        if cancel is not None and cancel.is_set():
            raise CancelledError('cancelled while waiting for the model server')
        if time.monotonic() >= deadline:
            raise too_late()

    return check


async def _note_refusal(response: httpx2.Response) -> None:
    if response.status_code >= 400:
        _REFUSALS.get([]).append(response.status_code)


def _host(url: str) -> str:
    """Return the host that ``url`` names."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ('http', 'https') and parts.hostname and parts.port != 0:
            return httpx2.URL(url).host
    except (ValueError, httpx2.InvalidURL):  # the port is no number, a bracket is not closed, ...
        pass
    raise EngineOptionError(
        f"url must look like 'http://127.0.0.1:8000/v1', got {one_line(url)!r}"
    )


def _is_loopback(host: str) -> bool:
    """Return whether ``host`` is this machine, which no proxy can reach."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == 'localhost' or host.endswith('.localhost')
    return address.is_loopback or address.is_unspecified


def _may_pass(status: int) -> bool:
    """Return whether a refusal with ``status`` may be over a moment later."""
    return status in (408, 409, 425, 429) or status >= 500


def _root(error: BaseException) -> str:
    """Return the first cause of a failed connection: the SDK only says 'Connection error.'."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return f'{type(error).__name__}: {one_line(str(error))}'.removesuffix(': ')
