# SPDX-License-Identifier: Apache-2.0
"""Runs a model server and ends all of its processes when it ends.

    segzero_model_server [--grace SECONDS] COMMAND [ARGUMENT]...

vLLM's server consists of several processes. If one of them is killed, for instance by the kernel
because memory ran out, the others stay and keep the GPU's memory, and the next server finds none.
Two processes prevent that:

    supervisor (this program)       forwards signals, reports how the server ended
      keeper                        a session of its own; adopts every orphan of the server
        server and its processes

The keeper ends the server when the supervisor dies in any way, ``kill -9`` included: the kernel
then sends it SIGTERM (``PR_SET_PDEATHSIG``). Both adopt orphans (``PR_SET_CHILD_SUBREAPER``), so
that nothing the server started escapes, whatever session it moved to. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from segzero_core.errors import CommandError
from segzero_core.runtime.program import run_program

_GRACE_S = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None)


def run(command: Sequence[str], grace: float = _GRACE_S) -> int:
    """Run ``command`` until it ends or this process is asked to end; return an exit code.

    SIGINT, SIGTERM and SIGHUP ask the server to end; a second one kills it. Whatever processes
    are left of it then are killed.

    Args:
        command: The server's program and its arguments.
        grace: Seconds from the first signal until the server is killed.

    Returns:
        0 if a signal asked for the end. Else the server's exit code, or 128 plus the number of
        the signal that killed it.

    Raises:
        CommandError: The program does not exist or cannot be executed.
    """
    if shutil.which(command[0]) is None:
        raise CommandError(
            f'cannot run {command[0]!r}: no such program here or on the PATH. Give the path of '
            'one that is executable'
        )
    sys.stdout.flush()
    sys.stderr.flush()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Signals wait until there is somebody to forward them to.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    supervisor = os.getpid()
    keeper = os.fork()
    if keeper == 0:
        code = 1
        try:
            code = _Keeper(supervisor, grace).run(command)
        finally:
            os._exit(code)
    asked = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGTERM)

    for number in _SIGNALS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    code = _wait_for(keeper)
    _end_children()  # the keeper has done so, unless it was killed itself
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # this process ends now anyway
    return 0 if asked else code


class _Keeper:
    """The process between the supervisor and the server."""

    def __init__(self, supervisor: int, grace: float) -> None:
        """Become the leader of a session and outlive the supervisor by ``grace`` seconds."""
        os.setsid()
        self._server = 0
        self._asked = False
        self._grace = grace
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # of no terminal: the supervisor is asked
        signal.signal(signal.SIGTERM, self._on_asked)
        signal.signal(signal.SIGALRM, self._on_late)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # it died before the line above
            os.kill(os.getpid(), signal.SIGTERM)

    def run(self, command: Sequence[str]) -> int:
        """Run the server to its end; return the exit code."""

        def die_with_keeper() -> None:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        try:
            server = subprocess.Popen(command, preexec_fn=die_with_keeper)
        except OSError as error:
            print(
                f'segzero_model_server: cannot run {command[0]!r}: {error.strerror}',
                file=sys.stderr,
            )
            return 2
        self._server = server.pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        code = _wait_for(self._server)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _end_children()
        return 0 if self._asked else code

    def _on_asked(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._kill()
            return
        self._asked = True
        signal.setitimer(signal.ITIMER_REAL, self._grace)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._server, signal.SIGTERM)

    def _on_late(self, number: int, frame: FrameType | None) -> None:
        print(
            f'segzero_model_server: the server did not end within {self._grace:g} s and is killed',
            file=sys.stderr,
            flush=True,
        )
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._server, signal.SIGKILL)


def _wait_for(child: int) -> int:
    """Wait for ``child`` and reap adopted orphans meanwhile; return the shell's exit code."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _end_children() -> None:
    """Kill all children, then the orphans that this process adopts by that, and so on."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Return the ids of this process's children."""
    found, parent = [], str(os.getpid())
    for file in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):  # it has ended
            # pid (name) state parent ...; the name may contain anything.
            if file.read_bytes().rpartition(b')')[2].split()[1].decode() == parent:
                found.append(int(file.parent.name))
    return found


def _prctl(option: int, value: int) -> None:
    """Call Linux's prctl(2), which only fails for options that the kernel does not know."""
    _LIBC.prctl(option, ctypes.c_ulong(int(value)), 0, 0, 0)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Raises:
        CommandError: See ``run``.
    """
    parser = argparse.ArgumentParser(
        prog='segzero_model_server',
        usage='%(prog)s [-h] [--grace SECONDS] COMMAND [ARGUMENT]...',
        description='Run a model server and end all of its processes when it ends, or when this '
        'program ends for any reason.',
    )
    parser.add_argument(
        '--grace',
        type=float,
        default=_GRACE_S,
        metavar='SECONDS',
        help='time the server has to end after Ctrl-C before it is killed (default: %(default)g)',
    )
    parser.add_argument('command', nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args(args)
    if not given.command:
        parser.error('name the command that starts the server')
    if not given.grace > 0:
        parser.error(f'--grace must be above 0, got {given.grace:g}')
    return run(given.command, given.grace)


if __name__ == '__main__':
    sys.exit(run_program('segzero_model_server', 'segzero_ros.run_server:main', service=True))
