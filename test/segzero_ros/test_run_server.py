# SPDX-License-Identifier: Apache-2.0
"""``segzero_model_server``: what it started ends with it, all of it."""

import signal
import subprocess
import sys

import pytest

# A server that starts a helper, says who both are, and waits. The helper outlives its parent.
SERVER = """
import os, signal, subprocess, sys, time
helper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
if 'stubborn' in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), helper.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def started():
    """Starts a server under the program; gives the program and the server's processes."""
    running = []

    def start(*arguments, program=(sys.executable, '-m', 'segzero_ros.run_server')):
        command = [*program, sys.executable, '-c', SERVER, *arguments]
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


def is_running(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as file:
            return file.read().rsplit(')')[-1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_server_and_helper(started, number):
    process, pids = started()
    process.send_signal(number)
    assert process.wait(60) == 128 + signal.SIGTERM
    wait_until_gone(pids)


def test_a_server_that_is_killed_takes_its_helper_along(started):
    process, (server, helper) = started()
    subprocess.run(['kill', '-KILL', str(server)], check=True)
    assert process.wait(60) == 128 + signal.SIGKILL
    wait_until_gone([server, helper])


def test_a_server_that_ignores_signals_is_killed(started):
    code = (
        'import sys; from segzero_ros import run_server\n'
        'run_server._PATIENCE_S = 0.1; sys.exit(run_server.main())'
    )
    process, pids = started('stubborn', program=(sys.executable, '-c', code))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGKILL
    wait_until_gone(pids)


def test_the_status_of_a_server_that_ends_itself_is_passed_on():
    command = [sys.executable, '-m', 'segzero_ros.run_server', sys.executable, '-c', 'exit(7)']
    assert subprocess.run(command, check=False).returncode == 7


@pytest.mark.parametrize(
    ('command', 'status', 'message'),
    [(['/no/such/server'], 127, "cannot run '/no/such/server'"), ([], 2, 'usage:')],
)
def test_what_cannot_be_run(command, status, message):
    program = [sys.executable, '-m', 'segzero_ros.run_server', *command]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert message in done.stderr
