# SPDX-License-Identifier: Apache-2.0
"""The end of programs: real processes, real signals, real full disks."""

import os
import signal
import subprocess
import sys
import time

import pytest

LONG = 60
TERM_BIT = 1 << (signal.SIGTERM - 1)

PROGRAMS = {
    'segzero': ['-m', 'segzero_core', 'the mug', 'none.png'],
    'segzero_node': ['-m', 'segzero_ros.node'],
    'segzero_ask': ['-m', 'segzero_ros.ask', 'the mug'],
    'sim_camera': ['-m', 'segzero_ros.sim_camera'],
    'segzero_demo': ['-m', 'segzero_ros.demo'],
    'segzero_model_server': ['-m', 'segzero_ros.run_server', 'sleep', '60'],
    'segzero_sample_bag': ['-m', 'segzero_ros.sample_bag', 'write', 'bag'],
}
SERVICES = ('segzero_node', 'sim_camera', 'segzero_model_server')


def start(command, cwd, **env):
    """Start Python with SIGINT as at a terminal, where it is not ignored."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {'ROS_LOG_DIR': str(cwd)} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_handlers(process):
    """Wait until the program handles SIGTERM, which Python itself does not."""
    while process.poll() is None:
        with open(f'/proc/{process.pid}/status') as status:
            caught = next(line for line in status if line.startswith('SigCgt'))
        if int(caught.split()[1], 16) & TERM_BIT:
            return
        time.sleep(0.002)


def program(tmp_path, body):
    """Write a program whose ``main`` is ``body``; return the command."""
    lines = '\n'.join(f'    {line}' for line in body.splitlines())
    (tmp_path / 'body.py').write_text(f'import os, sys, threading, time\ndef main():\n{lines}\n')
    (tmp_path / 'entry.py').write_text(
        'import sys\n'
        'from segzero_core.runtime.program import run_program\n'
        "sys.exit(run_program('tool', 'body:main'))\n"
    )
    return ['entry.py']


def run(command, cwd, **env):
    process = start(command, cwd, **env)
    out, err = process.communicate(timeout=LONG)
    return process.returncode, out, err


@pytest.mark.parametrize('name', PROGRAMS)
def test_handlers_are_set_before_the_heavy_imports(name, tmp_path):
    """The first signal comes at the earliest moment that a program can handle it."""
    process = start(PROGRAMS[name], tmp_path)
    wait_for_handlers(process)
    with open(f'/proc/{process.pid}/maps') as maps:
        assert 'numpy' not in maps.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONG)
    if name in SERVICES:
        assert (process.returncode, out, err) == (0, '', '')
    else:
        assert (process.returncode, out, err) == (130, '', f'{name}: interrupted\n')


@pytest.mark.parametrize(
    ('name', 'seconds'),
    [('segzero_ask', 0.1), ('segzero_ask', 1.0), ('segzero_node', 0.5), ('segzero_node', 2.0)],
)
def test_ctrl_c_at_any_time_is_no_traceback(name, seconds, tmp_path):
    process = start(PROGRAMS[name], tmp_path)
    wait_for_handlers(process)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == (0 if name in SERVICES else 130), err
    assert 'Traceback' not in err


def test_ctrl_c_while_a_model_is_loaded(tmp_path):
    picture = tmp_path / 'a.png'
    from PIL import Image

    Image.new('RGB', (64, 48), 'red').save(picture)
    command = ['-m', 'segzero_core', 'the mug', str(picture), '--reasoner', 'transformers']
    process = start([*command, '--model', 'tiny', '--device', 'cpu'], tmp_path)
    wait_for_handlers(process)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out, err) == (130, '', 'segzero: interrupted\n')


@pytest.mark.parametrize(
    'body',
    [
        # A library that swallows the interrupt, one that makes an error of it, and a thread that
        # Python waits for at its end.
        'while True:\n    try:\n        time.sleep(1)\n    except BaseException:\n        pass',
        'try:\n    time.sleep(60)\nexcept BaseException as e:\n    raise ImportError("x") from e',
        'threading.Thread(target=time.sleep, args=[60]).start()\ntime.sleep(60)',
    ],
)
def test_ctrl_c_ends_what_will_not_end(body, tmp_path):
    process = start(program(tmp_path, f'print("on", flush=True)\n{body}'), tmp_path)
    assert process.stdout.readline() == 'on\n'
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert err in ('', 'tool: interrupted\n')


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    body = 'try:\n    print("on", flush=True)\n    time.sleep(60)\nfinally:\n'
    body += '    print("ending", flush=True)\n    time.sleep(60)'
    process = start(program(tmp_path, body), tmp_path)
    assert process.stdout.readline() == 'on\n'
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == 'ending\n'
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LONG) == ('', '')
    assert process.returncode == 130


def test_sigterm_cleans_up(tmp_path):
    body = 'try:\n    print("on", flush=True)\n    time.sleep(60)\nfinally:\n    print("cleaned")'
    process = start(program(tmp_path, body), tmp_path)
    assert process.stdout.readline() == 'on\n'
    process.terminate()
    assert process.communicate(timeout=LONG) == ('cleaned\n', '')
    assert process.returncode == 143


@pytest.mark.parametrize(
    ('body', 'code', 'said'),
    [
        ('return 1', 1, ''),
        ('raise ValueError("two\\nlines")', 2, 'tool: unexpected ValueError: two lines (please'),
        ('raise RuntimeError', 2, 'tool: unexpected RuntimeError (please'),
        ('open("/none/x")', 2, 'tool: No such file or directory: /none/x\n'),
        ('sys.exit("no\\nway")', 2, 'tool: no way\n'),
        ('import not_there', 2, "tool: No module named 'not_there': install"),
        ('raise MemoryError', 2, 'tool: out of memory'),
        ('raise KeyboardInterrupt', 130, 'tool: interrupted\n'),
        ('raise KeyError("x" * 5000)', 2, 'tool: unexpected KeyError: '),
        (
            'from segzero_core.errors import QueryError\nraise QueryError("empty")',
            2,
            'tool: empty\n',
        ),
        ('t = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()\nreturn 0', 0, 'tool: '),
    ],
)
def test_errors_are_one_line(body, code, said, tmp_path):
    returned, _, err = run(program(tmp_path, body), tmp_path)
    assert returned == code
    assert err.startswith(said)
    assert err.count('\n') <= 1
    assert len(err) < 1200


def test_a_traceback_is_shown_on_request(tmp_path):
    code, _, err = run(program(tmp_path, 'return 1 / 0'), tmp_path, SEGZERO_TRACEBACK='1')
    assert code == 2
    assert 'Traceback' in err
    assert 'body.py' in err


@pytest.mark.parametrize('lines', [1, 10000])
@pytest.mark.parametrize('flushed', [True, False])
def test_a_reader_that_goes_away_is_not_mentioned(lines, flushed, tmp_path):
    body = f'time.sleep(0.3)\nfor _ in range({lines}):\n    print("word " * 9, flush={flushed})'
    process = start(program(tmp_path, f'{body}\nreturn 0'), tmp_path)
    process.stdout.close()
    assert process.stderr.read() == ''
    assert process.wait(LONG) == 141


def test_a_broken_connection_is_not_a_closed_output(tmp_path):
    body = 'a, b = os.pipe()\nos.close(a)\nos.write(b, b"x")'
    code, _, err = run(program(tmp_path, body), tmp_path)
    assert (code, err) == (2, 'tool: Broken pipe\n')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize(
    'body',
    [
        'print("x")\nreturn 0',
        'print("x")\nreturn 1',
        'print("x" * 100000, flush=True)',
        'import argparse\nargparse.ArgumentParser().parse_args(["--help"])',
    ],
)
def test_a_full_output_is_an_error(body, unbuffered, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONUNBUFFERED', unbuffered)
    command = [sys.executable, *program(tmp_path, body)]
    with open('/dev/full', 'w') as full:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=LONG
        )
    assert done.returncode == 2
    assert done.stderr == 'tool: cannot write to standard output: No space left on device\n'


@pytest.mark.parametrize(
    'env',
    [
        {'PYTHONIOENCODING': 'ascii'},
        {'PYTHONIOENCODING': 'cp1252'},
        {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
        {'LC_ALL': 'POSIX'},
    ],
)
def test_text_that_the_encoding_lacks_is_escaped(env, tmp_path):
    body = 'print("\\u676f \\udce9")\nraise OSError(2, "\\u676f", "\\udce9")'
    code, out, err = run(program(tmp_path, body), tmp_path, **env)
    assert code == 2
    assert out in ('\\u676f \\udce9\n', '\u676f \\udce9\n')
    assert err.startswith('tool: ')


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '<&-', '>&- 2>&- <&-'])
def test_closed_streams_do_no_harm(closed, tmp_path):
    program(tmp_path, 'open("file", "w").write("kept")\nprint("x")\nreturn 0')
    done = subprocess.run(
        ['bash', '-c', f'exec "{sys.executable}" entry.py {closed}'],
        cwd=tmp_path, capture_output=True, text=True, timeout=LONG,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, '')
    assert (tmp_path / 'file').read_text() == 'kept'


def test_an_interrupt_in_code_from_a_string_ends_with_the_exit_code(tmp_path):
    program(tmp_path, 'exec("print(1, flush=True); time.sleep(60)")')
    process = start(['-m', 'entry'], tmp_path)  # with -m, Python looks at how the code ended
    assert process.stdout.readline() == '1\n'
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert (process.returncode, err) == (130, 'tool: interrupted\n')


def test_a_forked_child_dies_without_a_word(tmp_path):
    body = (
        'import multiprocessing\n'
        # The child says when it is ready: Python drops a signal that comes while it forks.
        'ready = lambda: (print(os.getpid(), flush=True), time.sleep(60))\n'
        'p = multiprocessing.get_context("fork").Process(target=ready)\n'
        'p.start()\np.join()\nreturn 0 if p.exitcode == -2 else 3'
    )
    process = start(program(tmp_path, body), tmp_path)
    line = process.stdout.readline()
    assert line, process.communicate()
    os.kill(int(line), signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert (process.returncode, err) == (0, '')
