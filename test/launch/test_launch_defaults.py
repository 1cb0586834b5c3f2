# SPDX-License-Identifier: Apache-2.0
"""Each default has one value: in the launch file, the YAML files and the code. Needs no launch."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from segzero_core.reasoners import REASONERS
from segzero_core.registry import EngineEntry
from segzero_core.segmenters import SEGMENTERS

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ast.parse((ROOT / 'launch' / 'segzero.launch.py').read_text('utf-8'))


def constant(name: str) -> Any:
    """Return a constant of the launch file."""
    for node in LAUNCH.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f'the launch file has no {name}')


def arguments() -> dict[str, dict[str, Any]]:
    """Return the keywords of each launch argument; those that are computed as source text."""
    found: dict[str, dict[str, Any]] = {}
    for call in ast.walk(LAUNCH):
        if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'DeclareLaunchArgument':
            name = ast.literal_eval(call.args[0])
            found[name] = {
                word.arg or '': word.value.value
                if isinstance(word.value, ast.Constant)
                else ast.unparse(word.value)
                for word in call.keywords
            }
    return found


def constructor_default(entry: EngineEntry, option: str) -> Any:
    """Return an engine's default without importing the engine, whose library may be absent."""
    module, name = entry.path.split(':')
    file = ROOT / (module.replace('.', '/') + '.py')
    for node in ast.walk(ast.parse(file.read_text('utf-8'))):
        if isinstance(node, ast.ClassDef) and node.name == name:
            init = next(each for each in node.body if getattr(each, 'name', '') == '__init__')
            assert isinstance(init, ast.FunctionDef)
            names = [argument.arg for argument in init.args.args][-len(init.args.defaults) :]
            return ast.literal_eval(init.args.defaults[names.index(option)])
    raise AssertionError(f'{file} has no class {name}')


def parameters(file: str) -> dict[str, Any]:
    """Return the parameters of a YAML file, nested as they are there."""
    content = yaml.safe_load((ROOT / file).read_text('utf-8'))
    (node,) = (node for name, node in content.items() if name in ('/**', '/**/segzero'))
    found: dict[str, Any] = node['ros__parameters']
    return found


def test_arguments_that_stand_for_parameters_leave_the_choice_to_the_parameter_file() -> None:
    # An argument with a default of its own would silently override every parameter file.
    own = {name: given['default_value'] for name, given in arguments().items()}
    left = {name for name, default in own.items() if default == ''}
    assert own.keys() - left == {
        'params_file',
        'autostart',  # false in the code, so that a node without launch waits to be configured
        'model_server',
        'model_server_command',
        'model_server_port',
        'log_level',
    }
    assert own['params_file'] == "str(CONFIG / 'segzero.yaml')"
    assert all(given['description'] for given in arguments().values())


def test_parameters_that_launch_sets_exist() -> None:
    pytest.importorskip('rclpy', reason='needs rclpy: see requirements/ros.txt')
    from segzero_ros.settings import PARAMETERS

    texts = {
        node.value
        for node in ast.walk(LAUNCH)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {text for text in texts if re.fullmatch(r'(reasoner|segmenter|depth)\.\w+', text)}
    assert {'reasoner.model', 'depth.enabled'} <= named
    assert named <= PARAMETERS.keys()
    assert PARAMETERS['autostart'].default is False


def test_model_server_of_launch_is_the_one_the_engines_expect() -> None:
    words = shlex.split(constant('SERVER'))
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert words[:3] == ['python3', '-m', 'vllm.entrypoints.openai.api_server']
    url = urlsplit(constructor_default(REASONERS['openai'], 'url'))
    assert options['--host'] == url.hostname
    assert arguments()['model_server_port']['default_value'] == str(url.port)
    share = constructor_default(REASONERS['vllm'], 'gpu_memory_utilization')
    assert float(options['--gpu-memory-utilization']) == share
    # vLLM's default applies the penalty of the checkpoint, as the other engines do.
    assert '--generation-config' not in options


def test_model_server_of_compose_is_that_of_launch() -> None:
    compose = yaml.safe_load((ROOT / 'deploy' / 'compose.yaml').read_text('utf-8'))
    given = dict(word.split('=') for word in compose['services']['model_server']['command'])
    words = shlex.split(constant('SERVER'))
    launched = dict(zip(words[3::2], words[4::2], strict=True))
    launched['--model'] = parameters('config/segzero.yaml')['reasoner']['model']
    launched['--port'] = arguments()['model_server_port']['default_value']
    assert given == launched
    node = parameters('deploy/model_server.yaml')
    assert node['reasoner']['startup_timeout'] == constant('STARTUP_TIMEOUT_S')
    assert node['reasoner']['model'] == launched['--model']


@pytest.mark.parametrize('engine', ['transformers', 'vllm'])
def test_default_reasoner_of_the_yaml_file_is_that_of_the_engines(engine: str) -> None:
    given = parameters('config/segzero.yaml')['reasoner']
    assert given['model'] == constructor_default(REASONERS[engine], 'model')


def test_default_segmenter_of_the_yaml_files_is_that_of_the_engine() -> None:
    model = constructor_default(SEGMENTERS['sam2'], 'model')
    assert parameters('config/segzero.yaml')['segmenter']['model'] == model
    assert parameters('deploy/model_server.yaml')['segmenter']['model'] == model


@pytest.mark.parametrize('engine', ['openai', 'vllm'])
def test_defaults_that_parameter_descriptions_name_are_those_of_the_engine(engine: str) -> None:
    pytest.importorskip('rclpy', reason='needs rclpy: see requirements/ros.txt')
    from segzero_ros.settings import PARAMETERS

    options = {
        'openai': ('url', 'timeout', 'startup_timeout'),
        'vllm': ('gpu_memory_utilization',),
    }
    for option in options[engine]:
        described = PARAMETERS[f'reasoner.{option}'].description
        value = constructor_default(REASONERS[engine], option)
        said = re.search(r'\b(?:0|empty) is (http\S*\w|[\d.]*\d)', described)
        if said is not None:  # it may also leave the figure to the engine's own documentation
            assert said[1] == (value if isinstance(value, str) else f'{value:g}')


@pytest.mark.parametrize(
    ('level', 'namespace', 'argument'),
    [
        ('info', 'front', 'info'),
        ('warn', '', 'warn'),
        ('debug', '', 'segzero:=debug'),
        ('debug', 'front', 'front.segzero:=debug'),
        ('debug', '/front/arm/', 'front.arm.segzero:=debug'),
    ],
)
def test_debug_is_for_the_lines_of_the_node_and_not_for_those_of_rcl(
    level: str, namespace: str, argument: str
) -> None:
    (function,) = (node for node in LAUNCH.body if getattr(node, 'name', '') == 'log_level')
    names: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), 'launch', 'exec'), names)
    assert names['log_level']({'log_level': level, 'namespace': namespace}) == argument
