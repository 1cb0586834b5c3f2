# SPDX-License-Identifier: Apache-2.0
"""Everything that deploy/ names exists: files, launch arguments, settings."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / 'deploy'


def launch_arguments(name: str) -> set[str]:
    """Return the arguments that a launch file declares."""
    tree = ast.parse((ROOT / 'launch' / name).read_text(encoding='utf-8'))
    return {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and getattr(call.func, 'id', '') == 'DeclareLaunchArgument'
        and isinstance(call.args[0], ast.Constant)
    }


def check_launch(words: list[str]) -> None:
    """Check that a `ros2 launch` command names a package, a file and arguments that there are."""
    at = words.index('launch')
    assert words[at - 1] == 'ros2'
    package, name, *arguments = words[at + 1 :]
    assert package == 'segzero_ros'
    assert (ROOT / 'launch' / name).is_file()
    known = launch_arguments(name)
    for argument in arguments:
        if ':=' in argument:
            assert argument.split(':=')[0] in known, argument


def dockerfile() -> list[list[str]]:
    """Return the Dockerfile's instructions, split into words."""
    text = (DEPLOY / 'Dockerfile').read_text(encoding='utf-8')
    lines = re.sub(r'\\\n', ' ', re.sub(r'^#.*\n', '', text, flags=re.M)).splitlines()
    return [line.split() for line in lines if line.strip()]


def test_image_is_built_from_files_that_exist() -> None:
    copies = [words[1:-1] for words in dockerfile() if words[0] == 'COPY']
    assert copies
    for sources in copies:
        assert all((ROOT / source).exists() for source in sources)


def test_image_starts_a_launch_file_that_exists() -> None:
    (command,) = (words for words in dockerfile() if words[0] == 'CMD')
    check_launch(yaml.safe_load(' '.join(command[1:])))


def test_build_context_holds_the_package_and_no_more() -> None:
    lines = (DEPLOY / 'Dockerfile.dockerignore').read_text(encoding='utf-8').splitlines()
    kept = {line[1:] for line in lines if line.startswith('!')}
    assert '*' in lines  # everything else is left out
    assert all((ROOT / name).exists() for name in kept)
    # The files that setup.py reads, according to its source.
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    named = {'setup.py', 'setup.cfg', 'package.xml', 'segzero_core', 'segzero_ros'}
    named |= set(re.findall(r"(?:files|Path)\('(\w+)'", setup)) | {'resource'}
    assert {'launch', 'config', 'requirements'} <= named
    assert named <= kept
    assert not kept & {'.git', '.venv', 'test', 'training', 'docs'}


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / 'compose.yaml').read_text('utf-8'))
    return document


def test_compose_builds_that_image_and_launches_with_known_arguments() -> None:
    document = compose()
    service = document['services']['segzero']
    build = service['build']
    assert (DEPLOY / build['context']).resolve() == ROOT
    assert (ROOT / build['dockerfile']).samefile(DEPLOY / 'Dockerfile')
    check_launch(service['command'])
    cache = next(words for words in dockerfile() if words[0] == 'ENV' and 'HF_HOME' in words[1])
    models, parameters = service['volumes']
    name, target = models.split(':')
    assert name in document['volumes']
    assert f'HF_HOME={target}' in cache
    file, target, _ = parameters.split(':')
    assert (DEPLOY / file).is_file()
    assert f'params_file:={target}' in service['command']
    # DDS is limited to this machine unless the user changes that.
    assert service['environment']['ROS_AUTOMATIC_DISCOVERY_RANGE'].endswith(':-LOCALHOST}')


def test_compose_starts_the_server_that_its_node_asks() -> None:
    server = compose()['services']['model_server']
    options = dict(word.removeprefix('--').split('=') for word in server['command'])
    given = yaml.safe_load((DEPLOY / 'model_server.yaml').read_text('utf-8'))
    reasoner = given['/**']['ros__parameters']['reasoner']
    assert reasoner['url'] == f'http://{options["host"]}:{options["port"]}/v1'
    assert reasoner['model'] == options['model']
    assert (reasoner['engine'], options['host']) == ('openai', '127.0.0.1')
    # With a separate network the node could not reach this host and port.
    assert server['network_mode'] == compose()['services']['segzero']['network_mode'] == 'host'
    pinned = (ROOT / 'requirements' / 'vllm.txt').read_text('utf-8').split('vllm==')[1].split()[0]
    assert server['image'] == f'vllm/vllm-openai:v{pinned}'


def test_containers_stop_in_order() -> None:
    assert ['STOPSIGNAL', 'SIGINT'] in dockerfile()
    service = compose()['services']['segzero']
    assert (service['stop_signal'], service['init']) == ('SIGINT', True)


def unit() -> list[tuple[str, str]]:
    """Return the settings of the systemd unit."""
    lines = (DEPLOY / 'segzero.service').read_text(encoding='utf-8').splitlines()
    return [tuple(line.split('=', 1)) for line in lines if line and line[0] not in '#[']


def test_unit_runs_in_bash_what_exists_and_is_quoted_right() -> None:
    (command,) = (value for name, value in unit() if name == 'ExecStart')
    shell, option, script = shlex.split(command)
    assert (shell, option) == ('/bin/bash', '-c')
    subprocess.run([shell, '-n', option, script], check=True)
    check_launch(shlex.split(script.rsplit('exec ', 1)[1]))
    environment = dict(value.split('=', 1) for name, value in unit() if name == 'Environment')
    used = set(re.findall(r'\$(\w+)', script))
    assert used - set(environment) == {'SEGZERO_ARGUMENTS'}  # from /etc/default/segzero, if at all
    assert environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'


def test_unit_comes_back_and_stops_as_the_launch_expects() -> None:
    settings = dict(unit())
    assert settings['Restart'] == 'always'
    assert settings['KillSignal'] == 'SIGINT'
    assert 'WatchdogSec' not in settings  # the node would have to notify systemd


@pytest.mark.parametrize('file', ['docs/deployment.md', 'docs/robot.md'])
def test_guides_name_files_programs_and_launch_arguments_that_exist(file: str) -> None:
    text = (ROOT / file).read_text(encoding='utf-8')
    for target in re.findall(r'\]\(([^)#]+)[^)]*\)', text):
        if not target.startswith('http'):
            assert (ROOT / 'docs' / target).exists(), target
    for path in re.findall(r'\b(?:deploy|config|docs|requirements)/[\w./]+\w', text):
        assert (ROOT / path).exists(), path
    commands = re.findall(r'ros2 launch segzero_ros [^`\n]*', text.replace('\\\n', ' '))
    assert commands
    for command in commands:
        check_launch(shlex.split(command, comments=True))
    programs = set(re.findall(r"f?'(\w+) = ", (ROOT / 'setup.py').read_text(encoding='utf-8')))
    assert programs
    for program in re.findall(r'ros2 run segzero_ros (\w+)', text):
        assert program in programs
