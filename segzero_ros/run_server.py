# SPDX-License-Identifier: Apache-2.0
"""Runs a model server, and takes all of its processes along when it ends.

    segzero_model_server COMMAND [ARGUMENT]...

vLLM's server is several processes. When the one that was started is killed, by the kernel for want
of memory for instance, the others stay, and with them the GPU's memory: one started anew finds
none. Here they are a session of their own, which ends as a whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

_PATIENCE_S = 10.0  # for a server that was asked to end


def run(command: Sequence[str]) -> int:
    """Run ``command`` until it ends or this process is asked to; return its exit status.

    SIGINT and SIGTERM are passed on. What is left of its processes then is killed.
    """
    try:
        server = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        print(f'segzero_model_server: cannot run {command[0]!r}: {error}', file=sys.stderr)
        return 127

    def end(number: int, _: FrameType | None) -> None:
        server.send_signal(signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: _kill(server.pid))
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE_S)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    status = server.wait()
    _kill(server.pid)
    return status if status >= 0 else 128 - status


def _kill(session: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # nothing is left
        os.killpg(session, signal.SIGKILL)


def main() -> int:
    """Run the command line."""
    command = sys.argv[1:]
    if not command:
        print('usage: segzero_model_server COMMAND [ARGUMENT]...', file=sys.stderr)
        return 2
    return run(command)


if __name__ == '__main__':
    sys.exit(main())
