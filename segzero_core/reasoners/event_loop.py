# SPDX-License-Identifier: Apache-2.0
"""An asyncio event loop in a thread, for engines whose library is asynchronous.

caller's thread                      loop's thread
iterate(items(), check)  ---------->  async for item in items(): queue.put(item)
queue.get(), check() every 10 ms
for item in ...        <----------  queue
closing the iterator   ---------->  the task is cancelled, which closes items()
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar('_T')
_POLL_S = 0.01  # upper bound on the delay with which ``check`` notices a cancellation
_END = object()


class EventLoopThread:
    """Runs coroutines in a separate thread; any number of threads may submit them."""

    def __init__(self, name: str) -> None:
        """Start the thread, which does not keep the process alive.

        Args:
            name: Of the thread, for debuggers.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._loop.is_closed()

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run ``coroutine`` in the loop's thread; cancelling the future cancels it.

        Raises:
            RuntimeError: The loop is closed.
        """
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def iterate(
        self, items: AsyncGenerator[_T, None], check: Callable[[], None]
    ) -> Generator[_T, None, None]:
        """Run ``items`` in the loop's thread and yield its items here.

        Closing the iterator, and any exception, cancels ``items`` within its current step.

        Args:
            items: Started by the first ``next`` of the returned iterator.
            check: Called in the caller's thread before each item and every 10 ms while waiting;
                it may raise to stop.

        Raises:
            Exception: Any that ``items`` or ``check`` raises.
        """
        received: queue.SimpleQueue[Any] = queue.SimpleQueue()

        async def pump() -> None:
            async with contextlib.aclosing(items):
                async for item in items:
                    received.put(item)

        task = self.submit(pump())
        task.add_done_callback(lambda _: received.put(_END))
        try:
            while True:
                check()
                with contextlib.suppress(queue.Empty):
                    item = received.get(timeout=_POLL_S)
                    if item is _END:
                        task.result()
                        return
                    yield item
        finally:
            task.cancel()

    def close(self) -> None:
        """Cancel running coroutines and end the thread; calling it again does nothing."""
        if self.closed:
            return
        self.submit(_cancel_others()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
