# SPDX-License-Identifier: Apache-2.0
"""A failed start of ROS is one line and exit code 2, in every ROS program."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason='needs rclpy: make test installs it, or source ROS 2')

LONG = 60
PROGRAMS = {
    'segzero_node': ['-m', 'segzero_ros.node'],
    'sim_camera': ['-m', 'segzero_ros.sim_camera'],
    'segzero_ask': ['-m', 'segzero_ros.ask', 'the mug'],
    'segzero_demo': ['-m', 'segzero_ros.demo', '--reasoner', 'rules'],
}


def run(command, cwd, *arguments, **env):
    """Return exit code and standard error; an entry of None removes a variable."""
    environment = {**os.environ, 'ROS_LOG_DIR': str(cwd), **env}
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=cwd,
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ('name', 'home'),
    [('segzero_node', None), ('sim_camera', '/proc/none'), ('segzero_ask', None)],
)
def test_without_a_folder_for_its_log(name, home, tmp_path):
    code, said = run(PROGRAMS[name], tmp_path, HOME=home, ROS_LOG_DIR=None)
    assert code == 2
    assert said.startswith(f'{name}: ROS cannot write its log files')
    assert 'set ROS_LOG_DIR' in said
    assert said.count('\n') == 1


# Starts ROS once for each command line it reads and prints what went wrong, or null.
STARTS = """
import json, os, sys
from segzero_core.errors import RosStartError
from segzero_ros.ros_context import ros_context
for arguments, domain in json.load(sys.stdin):
    os.environ['ROS_DOMAIN_ID'] = domain
    try:
        with ros_context(['program', *arguments]):
            print('null')
    except RosStartError as error:
        print(json.dumps(str(error)))
"""


def starts(cwd, *attempts):
    """Return the messages of several starts in one process, which must not print anything else."""
    done = subprocess.run(
        [sys.executable, '-c', STARTS],
        cwd=cwd,
        env={**os.environ, 'ROS_LOG_DIR': str(cwd)},
        input=json.dumps(attempts),
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.stderr == ''
    return [json.loads(line) for line in done.stdout.splitlines()]


FILES = {
    'a: {ros__parameters: {x: [1, a]}}\n': ('{file}', 'line 1'),
    '/**:\n  ros__parameters:\n    x:\n': ('{file}', 'line 3'),
    '/**:\n  ros__parameters:\n\tx: 1\n': ('{file}, line 3, column 1', r"'\t'"),
    '/**:\n  x: 1\n': ('{file}', 'before ros__parameters at line 2'),
    'a: [1\n': ('{file}', 'line 2'),
    None: ('cannot read the parameter file {file}', 'No such file'),
}


def test_parameter_files_are_named_with_the_line(tmp_path):
    files = [tmp_path / f'{number}.yaml' for number in range(len(FILES))]
    for file, content in zip(files, FILES, strict=True):
        if content is not None:
            file.write_text(content)
    said = starts(tmp_path, *((['--ros-args', '--params-file', str(f)], '7') for f in files))
    for file, line, parts in zip(files, said, FILES.values(), strict=True):
        assert '\n' not in line
        for part in parts:
            assert part.format(file=file) in line


def test_arguments_are_named(tmp_path):
    expected = {
        ('--nonsense',): "unknown ROS arguments after --ros-args: ['--nonsense']",
        ('-p', 'rate'): "'-p rate' is not valid: write it as -p NAME:=VALUE",
        ('-r', '__ns:=/a b'): 'write it as -r FROM:=TO',
        ('-r', '__node:=1st'): 'write it as -r FROM:=TO',
        ('--log-level', 'loud'): "'--log-level loud' is not valid",
        ('-p', 'rate:=3.0'): None,
    }
    said = starts(tmp_path, *((['--ros-args', *arguments], '7') for arguments in expected))
    for line, part in zip(said, expected.values(), strict=True):
        assert (part is None and line is None) or part in line


def test_a_domain_that_is_none(tmp_path):
    domains = ['abc', '233', '-1', '9' * 40]
    for domain, line in zip(domains, starts(tmp_path, *(([], d) for d in domains)), strict=True):
        assert f"ROS_DOMAIN_ID is '{domain}'" in line


@pytest.mark.parametrize(
    ('arguments', 'part'),
    [
        (['--ros-args', '-p', 'rate:=fast'], "rate must be of type float, not 'fast'"),
        (['--nonsense', '--ros-args', '-p', 'rate:=3.0'], 'unrecognized arguments: --nonsense'),
    ],
)
def test_arguments_of_a_program(arguments, part, tmp_path):
    code, said = run(PROGRAMS['sim_camera'], tmp_path, *arguments)
    assert code == 2
    assert part in said
    assert 'Traceback' not in said


@pytest.mark.parametrize('name', ['sim_camera', 'segzero_ask', 'segzero_demo'])
def test_help_needs_no_ros(name, tmp_path):
    arguments = ['-h', '--ros-args', '-r', '__ns:=/x']
    code, said = run(PROGRAMS[name][:2], tmp_path, *arguments, HOME=None, ROS_LOG_DIR=None)
    assert (code, said) == (0, '')


def test_the_demo_says_what_is_wrong_with_its_options(tmp_path):
    code, said = run(PROGRAMS['segzero_demo'], tmp_path, '--seed', '-1')
    assert (code, said) == (2, 'segzero_demo: --seed must be from 0 to 2147483647, not -1\n')
    code, said = run(PROGRAMS['segzero_demo'], tmp_path, '-o', '/proc/none')
    assert (code, said.count('\n')) == (2, 1)
