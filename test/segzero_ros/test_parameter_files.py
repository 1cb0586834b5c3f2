# SPDX-License-Identifier: Apache-2.0
"""The help, the file with all parameters, and files with parameters of other nodes."""

from pathlib import Path

import pytest
import yaml

from segzero_core.errors import ConfigError
from segzero_ros.parameter_files import (
    REAL_MODELS,
    asks_for_help,
    default_file,
    foreign_files,
    help_text,
)
from segzero_ros.settings import PARAMETERS

ROOT = Path(__file__).resolve().parents[2]


def test_the_parameter_file_is_the_generated_one():
    text = (ROOT / 'config' / 'segzero.yaml').read_text(encoding='utf-8')
    assert text == default_file(), 'run: python -m segzero_ros.parameter_files'


def test_the_parameter_file_has_every_parameter_with_its_default():
    groups = yaml.safe_load(default_file())['/**']['ros__parameters']
    given = {f'{group}.{name}': v for group, each in groups.items() for name, v in each.items()}
    defaults = {name: spec.default for name, spec in PARAMETERS.items() if not spec.read_only}
    assert given == {**defaults, **REAL_MODELS}
    for name, value in given.items():
        assert PARAMETERS[name].problem(value) is None


def test_the_help_describes_every_parameter():
    text = help_text()
    for name, spec in PARAMETERS.items():
        assert f'  {name} = ' in text
        assert ' '.join(spec.description.split()) in ' '.join(text.split())
    assert max(map(len, text.splitlines())) < 100


@pytest.mark.parametrize(
    ('arguments', 'wanted'),
    [
        ([], False),
        (['--ros-args', '-p', 'a:=1'], False),
        (['--ros-args', '-r', '--help:=x', '--'], False),
        (['--help'], True),
        (['-h'], True),
        (['--ros-args', '-p', 'a:=1', '--', '--help'], True),
    ],
)
def test_who_asks_for_the_help(arguments, wanted):
    assert asks_for_help(arguments) == wanted


@pytest.mark.parametrize('arguments', [['--foo'], ['params.yaml'], ['--ros-args', '--', 'x']])
def test_other_arguments_are_refused(arguments):
    with pytest.raises(ConfigError, match=r'unknown argument .*--help lists them'):
        asks_for_help(arguments)


def write(path, names):
    content = {name: {'ros__parameters': {'autostart': True}} for name in names}
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    ('names', 'node'),
    [
        (['/**'], '/segzero'),
        (['segzero'], '/segzero'),
        (['/segzero'], '/segzero'),
        (['other', 'segzero'], '/segzero'),
        (['/**/segzero'], '/front/arm/segzero'),
        (['/**/segzero'], '/segzero'),
        (['/*/segzero'], '/front/segzero'),
        (['/front/segzero'], '/front/segzero'),
        (['/front/*'], '/front/segzero'),
    ],
)
def test_a_file_with_parameters_for_the_node_is_not_warned_of(tmp_path, names, node):
    file = write(tmp_path / 'params.yaml', names)
    assert foreign_files(['--ros-args', '--params-file', file], node) == []


@pytest.mark.parametrize(
    ('names', 'node'),
    [
        (['segzero_node'], '/segzero'),
        (['/segzero'], '/front/segzero'),
        (['/*/segzero'], '/segzero'),
        (['/front/**'], '/segzero'),
        (['segzer', 'segzero_'], '/segzero'),
    ],
)
def test_a_file_with_parameters_for_other_nodes_is_named_with_them(tmp_path, names, node):
    file = write(tmp_path / 'params.yaml', names)
    (problem,) = foreign_files(['--ros-args', '--params-file', file], node)
    assert problem.startswith(f'the parameter file {file} has no effect')
    for name in names:
        assert name in problem
    assert problem.endswith(f'this node is {node}')


@pytest.mark.parametrize('text', ['', '[]', 'a: b', 'segzero: {autostart: true}', '5'])
def test_a_file_without_any_parameter_is_warned_of(tmp_path, text):
    file = tmp_path / 'params.yaml'
    file.write_text(text)
    (problem,) = foreign_files(['--ros-args', '--params-file', str(file)], '/segzero')
    assert 'it has parameters for no node' in problem


def test_nested_namespaces_are_names_too(tmp_path):
    file = tmp_path / 'params.yaml'
    file.write_text('front: {segzero: {ros__parameters: {autostart: true}}}')
    arguments = ['--ros-args', '--params-file', str(file)]
    assert foreign_files(arguments, '/front/segzero') == []
    assert '/front/segzero' in foreign_files(arguments, '/segzero')[0]


def test_a_file_that_ros_has_refused_is_left_out(tmp_path):
    broken = tmp_path / 'broken.yaml'
    broken.write_text('a: [')
    arguments = ['--params-file', str(broken), '--params-file', str(tmp_path / 'none.yaml')]
    assert foreign_files(arguments, '/segzero') == []
