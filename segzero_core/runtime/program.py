# SPDX-License-Identifier: Apache-2.0
"""The start and the end of every program of the project.

A program is a function ``main(arguments) -> int``. ``run_program`` imports it and runs it so that

* an error is one line on standard error and exit code 2. The traceback is shown only if the
  environment variable ``SEGZERO_TRACEBACK`` is set to 1;
* Ctrl-C ends the program with one line and exit code 130, also while it still imports its
  libraries, and after ``GRACE_S`` at the latest. A second Ctrl-C ends it at once;
* a reader of its output that goes away (``segzero ... | head``) ends it without a word;
* text that the terminal's encoding does not have is written as escapes.

This module imports only small parts of the standard library, so that the signal handlers are in
place before the imports that take seconds.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from segzero_core.errors import SegZeroError

TYPE_CHECKING = False  # as in typing, whose import takes time
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, TextIO

ERROR = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
PIPE_CLOSED = 128 + signal.SIGPIPE  # the shell's code for a program that SIGPIPE ended
GRACE_S = 2.5  # from the first signal until the process is ended in any case
LONGEST_LINE = 1000  # characters of an error message
TRACEBACK = 'SEGZERO_TRACEBACK'

Main = Callable[..., int]


class Shutdown:
    """The signal handlers of a program, and the signals that they have received.

    Attributes:
        exit_code: Exit code that the first signal asks for; 0 before it.
    """

    def __init__(self, service: bool) -> None:
        """Install the handlers; must run in the main thread.

        Args:
            service: The program runs until it is stopped, so a signal is its ordinary end: exit
                code 0. SIGINT is handled even if the shell had it ignored.
        """
        self.exit_code = 0
        self._seen = False
        self._process = os.getpid()
        self._codes = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
        if service:
            self._codes = dict.fromkeys(self._codes, 0)
        for number in self._codes:
            # A shell starts background programs with SIGINT ignored.
            if service or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    @property
    def seen(self) -> bool:
        """Whether a signal has come."""
        return self._seen

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child dies of it, without a traceback
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self._seen:
            end_now(INTERRUPTED if number == signal.SIGINT else TERMINATED)
        self._seen = True
        self.exit_code = self._codes[signal.Signals(number)]
        end_after(GRACE_S, self.exit_code)
        raise KeyboardInterrupt


def run_program(
    name: str,
    target: str,
    arguments: Sequence[str] | None = None,
    *,
    service: bool = False,
    interrupted: str = 'interrupted',
) -> int:
    """Import a program's ``main`` and run it; return the exit code.

    Call it in the main thread, once per process, before the heavy imports::

        if __name__ == '__main__':
            sys.exit(run_program('train.py', 'training.train:main'))

    Args:
        name: The program's name; its error lines begin with it.
        target: ``module:function`` of ``main(arguments) -> int``.
        arguments: Passed to ``main``; None stands for ``sys.argv``.
        service: See ``Shutdown``.
        interrupted: Said on Ctrl-C, unless the program is a service.
    """
    _prepare_streams()
    shutdown = Shutdown(service)
    _install_hooks(name, shutdown)
    try:
        module, _, function = target.partition(':')
        main: Main = getattr(importlib.import_module(module), function)
        code = main() if arguments is None else main(arguments)
        sys.stdout.flush()
    except SystemExit as error:  # argparse
        code = shutdown.exit_code if shutdown.seen else _system_exit_code(name, error)
    except BaseException as error:  # noqa: BLE001 (the last place where it can be reported)
        code = _interrupted_or_failed(name, error, shutdown, interrupted)
    return _close_streams(name, code)


def _interrupted_or_failed(
    name: str, error: BaseException, shutdown: Shutdown, interrupted: str
) -> int:
    """Say why the program ended early; return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        # CPython ends with the signal, whatever the exit code, if the interrupt hit code that a
        # library runs from a string, as dataclasses do. Running a string forgets that.
        exec('')
    if isinstance(error, KeyboardInterrupt) and not shutdown.seen:
        code = INTERRUPTED  # a library has replaced our handler
    elif shutdown.seen:  # whatever a library made of the interrupt
        code = shutdown.exit_code
    else:
        return _report(name, error)
    if code == INTERRUPTED:
        say(f'{name}: {interrupted}')
    return code


def end_now(code: int) -> None:
    """End the process without cleaning up; its ``multiprocessing`` children are killed.

    Nothing is flushed: the thread that this interrupts may hold the stream's lock.
    """
    multiprocessing = sys.modules.get('multiprocessing')
    if multiprocessing is not None:
        with contextlib.suppress(Exception):
            for child in multiprocessing.active_children():
                child.kill()
    os._exit(code)


def end_after(seconds: float, code: int) -> None:
    """End the process after ``seconds``, whatever its threads do then. Safe in signal handlers."""
    import _thread  # threading.Thread takes locks that the interrupted code may hold

    def wait() -> None:
        time.sleep(seconds)
        end_now(code)

    _thread.start_new_thread(wait, ())


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold SIGINT back in this thread; a program that the block starts never gets it.

    For worker processes that their parent ends: a Ctrl-C at the terminal goes to them, too, and
    they would write a traceback while they are starting.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def say(line: str) -> None:
    """Write one line to standard error; not being able to is no error."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def wants_traceback() -> bool:
    """Return whether the user asked for the tracebacks of errors."""
    return os.environ.get(TRACEBACK, '') not in ('', '0')


def one_line(error: BaseException) -> str:
    """Return the message of ``error`` as one line of at most ``LONGEST_LINE`` characters.

    An error without a message is called by its type. An ``OSError`` names its file.
    """
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f'{error.strerror}: {error.filename}'
    else:
        text = str(error)
    line = ' '.join(text.split()) or type(error).__name__
    return line if len(line) <= LONGEST_LINE else f'{line[: LONGEST_LINE - 3]}...'


def _report(name: str, error: BaseException) -> int:
    """Say what went wrong in one line; return the exit code."""
    if isinstance(error, OutputError):
        return _output_failed(name, error)
    if wants_traceback():
        import traceback

        with contextlib.suppress(OSError, ValueError):
            traceback.print_exception(error)
    message = one_line(error)
    if isinstance(error, SegZeroError | OSError):
        say(f'{name}: {message}')
    elif isinstance(error, ModuleNotFoundError):
        say(f'{name}: {message}: install the requirements that the README names for this program')
    elif isinstance(error, MemoryError):
        say(f'{name}: out of memory: use a smaller model or image')
    else:
        kind = type(error).__name__
        said = message if message.startswith(kind) else f'{kind}: {message}'
        say(f'{name}: unexpected {said} (please report it; {TRACEBACK}=1 shows where)')
    return ERROR


class OutputError(OSError):
    """Standard output or standard error cannot be written to."""


class _Output(io.FileIO):
    """A standard stream whose errors can be told from those of other files.

    Attributes:
        error: The last error; ``argparse`` passes over those that its help meets.
    """

    error: OutputError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = OutputError(error.errno, error.strerror)
            raise self.error from error


def _prepare_streams() -> None:
    """Make sure that there are three standard streams, and that the last two take any text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _open_output(1, sys.stdout)
    sys.stderr = _open_output(2, sys.stderr)


def _open_output(number: int, now: TextIO | None) -> TextIO:
    unbuffered = bool(getattr(now, 'write_through', False))  # python -u
    raw = _Output(number, 'w', closefd=False)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=now.encoding if now is not None else 'utf-8',
        errors='backslashreplace',
        line_buffering=unbuffered or number == 2 or os.isatty(number),
        write_through=unbuffered,
    )


def _output_failed(name: str, error: OSError) -> int:
    _discard(sys.stdout)
    if error.errno == errno.EPIPE:
        return PIPE_CLOSED
    say(f'{name}: cannot write to standard output: {one_line(error)}')
    return ERROR


def _close_streams(name: str, code: int) -> int:
    """Flush the buffered output; return the exit code, which a failure changes."""
    try:
        sys.stdout.flush()
        if (missed := _missed_error(sys.stdout)) is not None and code <= 1:
            raise missed
    except OSError as error:
        failed = _output_failed(name, error)
        code = code if code > 1 else failed
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        return code
    _discard(sys.stderr)  # or Python would try again at its end and exit with 120
    return code


def _missed_error(stream: TextIO) -> OutputError | None:
    """Return the error of an unbuffered ``stream`` that whoever wrote to it passed over."""
    raw = getattr(getattr(stream, 'buffer', None), 'raw', getattr(stream, 'buffer', None))
    return raw.error if isinstance(raw, _Output) else None


def _discard(stream: TextIO) -> None:
    """Discard the buffer of ``stream`` and everything that is written to it later."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _system_exit_code(name: str, error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    say(f'{name}: {" ".join(str(error.code).split())}')
    return ERROR


def _install_hooks(name: str, shutdown: Shutdown) -> None:
    """Report errors that no ``except`` can see (threads, finalizers) in one line, too."""

    def on_error(kind: type[BaseException], error: BaseException | None, _: Any) -> None:
        if shutdown.seen or kind is SystemExit:
            return  # libraries that are interrupted complain
        _report(name, error or kind())

    threading.excepthook = lambda hook: on_error(hook.exc_type, hook.exc_value, None)
    sys.excepthook = on_error
    sys.unraisablehook = lambda hook: on_error(hook.exc_type, hook.exc_value, None)
