# SPDX-License-Identifier: Apache-2.0
"""What keeps ROS from starting is one line and exit code 2, in every program that starts it."""

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


@pytest.mark.parametrize('name', ['segzero_node', 'sim_camera', 'segzero_ask'])
@pytest.mark.parametrize('home', [None, '/proc/none'])
def test_without_a_folder_for_its_log(name, home, tmp_path):
    code, said = run(PROGRAMS[name], tmp_path, HOME=home, ROS_LOG_DIR=None)
    assert code == 2
    assert said.startswith(f'{name}: ROS cannot write its log files')
    assert 'set ROS_LOG_DIR' in said
    assert said.count('\n') == 1


FILES = {
    'a: {ros__parameters: {x: [1, a]}}\n': ('params.yaml', 'line 1'),
    '/**:\n  ros__parameters:\n    x:\n': ('params.yaml', 'line 3'),
    '/**:\n  ros__parameters:\n\tx: 1\n': ('params.yaml, line 3, column 1', r"'\t'"),
    '/**:\n  x: 1\n': ('params.yaml', 'before ros__parameters at line 2'),
    'a: [1\n': ('params.yaml', 'line 2'),
    None: ('cannot read the parameter file', 'No such file'),
}


@pytest.mark.parametrize('content', FILES)
def test_parameter_files_are_named_with_the_line(content, tmp_path):
    file = tmp_path / 'params.yaml'
    if content is not None:
        file.write_text(content)
    code, said = run(PROGRAMS['sim_camera'], tmp_path, '--ros-args', '--params-file', str(file))
    assert code == 2
    assert said.count('\n') == 1
    for part in FILES[content]:
        assert part in said


@pytest.mark.parametrize(
    ('arguments', 'part'),
    [
        (['--ros-args', '--nonsense'], "unknown ROS arguments after --ros-args: ['--nonsense']"),
        (['--ros-args', '-p', 'rate'], "'-p rate' is not valid: write it as -p NAME:=VALUE"),
        (['--ros-args', '-r', '__ns:=/a b'], 'write it as -r FROM:=TO'),
        (['--ros-args', '-r', '__node:=1st'], 'write it as -r FROM:=TO'),
        (['--ros-args', '--log-level', 'loud'], "'--log-level loud' is not valid"),
        (['--ros-args', '-p', 'rate:=fast'], "rate must be of type float, not 'fast'"),
        (['--nonsense'], 'unrecognized arguments: --nonsense'),
        (['--nonsense', '--ros-args', '-p', 'rate:=3.0'], 'unrecognized arguments: --nonsense'),
    ],
)
def test_arguments_are_named(arguments, part, tmp_path):
    code, said = run(PROGRAMS['sim_camera'], tmp_path, *arguments)
    assert code == 2
    assert part in said
    assert 'Traceback' not in said


@pytest.mark.parametrize('domain', ['abc', '233', '-1', '9' * 40])
def test_a_domain_that_is_none(domain, tmp_path):
    code, said = run(PROGRAMS['sim_camera'], tmp_path, ROS_DOMAIN_ID=domain)
    assert (code, said.count('\n')) == (2, 1)
    assert f"ROS_DOMAIN_ID is '{domain}'" in said


@pytest.mark.parametrize('name', ['sim_camera', 'segzero_ask', 'segzero_demo'])
@pytest.mark.parametrize('arguments', [['--help'], ['-h', '--ros-args', '-r', '__ns:=/x']])
def test_help_needs_no_ros(name, arguments, tmp_path):
    command = PROGRAMS[name][:2]
    code, said = run(command, tmp_path, *arguments, HOME=None, ROS_LOG_DIR=None)
    assert (code, said) == (0, '')


def test_the_demo_says_what_is_wrong_with_its_options(tmp_path):
    code, said = run(PROGRAMS['segzero_demo'], tmp_path, '--seed', '-1')
    assert (code, said) == (2, 'segzero_demo: --seed must be from 0 to 2147483647, not -1\n')
    code, said = run(PROGRAMS['segzero_demo'], tmp_path, '-o', '/proc/none')
    assert (code, said.count('\n')) == (2, 1)
