# SPDX-License-Identifier: Apache-2.0
"""``segzero_model_server``: all processes that it started end with it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segzero_core.errors import CommandError
from segzero_ros.run_server import main

# A server that starts a helper, says who both are, and waits. The helper outlives its parent.
SERVER = """
import os, signal, subprocess, sys, time
sleep = [sys.executable, '-c', 'import time; time.sleep(600)']
if 'grandchild' in sys.argv:  # of a parent that has ended
    code = f'import subprocess; print(subprocess.Popen({sleep!r}, stdout=2).pid)'
    helper = int(subprocess.run([sys.executable, '-c', code], stdout=-1, check=True).stdout)
else:
    helper = subprocess.Popen(sleep, start_new_session='session' in sys.argv).pid
if 'stubborn' in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), helper, flush=True)
time.sleep(600)
"""
PROGRAM = (sys.executable, '-m', 'segzero_ros.run_server')


@pytest.fixture
def started():
    """Starts a server under the program; gives the program and the server's processes."""
    running = []

    def start(*arguments, options=()):
        command = [*PROGRAM, *options, sys.executable, '-c', SERVER, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process, [int(pid) for pid in process.stdout.readline().split()]

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_until_gone(pids):
    """The test's time limit ends this."""
    while any(is_running(pid) for pid in pids):
        pass


def parent(pid):
    with open(f'/proc/{pid}/stat', encoding='ascii') as file:
        return int(file.read().rsplit(')')[-1].split()[1])


def is_running(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as file:
            return file.read().rsplit(')')[-1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_server_and_helper_and_is_a_clean_end(started, number):
    process, pids = started()
    process.send_signal(number)
    assert process.wait(60) == 0
    wait_until_gone(pids)


@pytest.mark.parametrize('helper', ['', 'session', 'grandchild'])
@pytest.mark.parametrize('server', ['', 'stubborn'])
def test_a_supervisor_that_is_killed_takes_all_along(started, server, helper):
    process, pids = started(server, helper, options=('--grace', '0.5'))
    process.kill()
    process.wait(60)
    wait_until_gone(pids)


def test_a_keeper_that_is_killed_takes_all_along(started):
    process, pids = started('session')
    keeper = parent(pids[0])
    assert parent(keeper) == process.pid
    os.kill(keeper, signal.SIGKILL)
    assert process.wait(60) == 128 + signal.SIGKILL
    wait_until_gone(pids)


@pytest.mark.parametrize('helper', ['', 'session', 'grandchild'])
def test_a_server_that_is_killed_takes_its_helper_along(started, helper):
    process, pids = started(helper)
    os.kill(pids[0], signal.SIGKILL)
    assert process.wait(60) == 128 + signal.SIGKILL
    wait_until_gone(pids)


def test_a_server_that_ignores_signals_is_killed(started):
    process, pids = started('stubborn', options=('--grace', '0.1'))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    wait_until_gone(pids)


def test_a_second_signal_does_not_wait(started):
    process, pids = started('stubborn', options=('--grace', '1000'))
    process.send_signal(signal.SIGINT)
    while process.poll() is None:  # the test's time limit ends this
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    wait_until_gone(pids)


def test_a_supervisor_that_is_killed_while_it_starts_leaves_nothing(tmp_path):
    for number in range(5):
        file = tmp_path / str(number)
        code = (
            f'import os, time; open({str(file)!r}, "w").write(str(os.getpid())); time.sleep(600)'
        )
        process = subprocess.Popen([*PROGRAM, sys.executable, '-c', code])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05 * number)
        process.kill()
        process.wait()
    wait_until_gone([int(file.read_text() or 0) for file in tmp_path.iterdir()])


def test_the_server_gets_signals_as_if_it_ran_alone():
    code = (
        'import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, '
        'signal.getsignal(signal.SIGINT) == signal.default_int_handler, '
        'signal.getsignal(signal.SIGHUP) == signal.SIG_DFL, '
        'signal.pthread_sigmask(signal.SIG_BLOCK, []))'
    )
    done = subprocess.run(
        [*PROGRAM, sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ('True True True set()\n', 0)


def test_the_status_of_a_server_that_ends_itself_is_passed_on():
    command = [*PROGRAM, sys.executable, '-c', 'exit(7)']
    assert subprocess.run(command, check=False).returncode == 7


def test_a_program_that_does_not_exist_is_a_typed_error():
    for command in ('/no/such/server', 'no_such_server', str(Path(__file__)), '/tmp'):
        with pytest.raises(CommandError, match=re.escape(repr(command))):
            main([command])
        done = subprocess.run([*PROGRAM, command], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_a_program_that_cannot_be_executed_ends_with_an_error(tmp_path):
    script = tmp_path / 'server'
    script.write_text('#!/no/such/interpreter')
    script.chmod(0o755)
    done = subprocess.run([*PROGRAM, script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'cannot run' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        ([], 2, 'name the command'),
        (['--help'], 0, 'usage: segzero_model_server'),
        (['--grace', '0', 'true'], 2, '--grace must be above 0'),
        (['--frobnicate', 'true'], 2, 'usage:'),
    ],
)
def test_usage(arguments, status, message):
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert message in done.stdout + done.stderr
