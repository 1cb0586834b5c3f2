# SPDX-License-Identifier: Apache-2.0
"""Start the segzero node; it configures and activates itself.

    ros2 launch segzero_ros segzero.launch.py image_topic:=/camera/color/image_raw

``--show-args`` lists the arguments. An argument left empty changes nothing: the parameter file
decides, and topics keep their names (``image``, ``depth``, ``camera_info`` in the namespace).
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import get_package_prefix
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# The folder `config` next to `launch`, both in a checkout and in an installation.
CONFIG = Path(__file__).absolute().parent.parent / 'config'

# vLLM's defaults do the rest: prefix caching keeps a frame for the next sentence about it, and the
# repetition penalty of the checkpoint's generation_config.json applies.
SERVER = (
    'python3 -m vllm.entrypoints.openai.api_server --model {model} --host 127.0.0.1 --port {port} '
    '--gpu-memory-utilization 0.8 --limit-mm-per-prompt.video 0'
)
RESPAWN_S = 2.0
STARTUP_TIMEOUT_S = 900.0  # a large model is downloaded and loaded in this time, or loading fails
# Progress bars fill a log with thousands of lines.
NO_PROGRESS_BARS = {'TQDM_DISABLE': '1', 'HF_HUB_DISABLE_PROGRESS_BARS': '1'}

ARGUMENTS = [
    DeclareLaunchArgument(
        'params_file',
        default_value=str(CONFIG / 'segzero.yaml'),
        description='Parameters of the node (YAML). The arguments below override it.',
    ),
    DeclareLaunchArgument(
        'model',
        default_value='',
        description='Reasoner: Hugging Face id or folder (reasoner.model).',
    ),
    DeclareLaunchArgument(
        'segmenter',
        default_value='',
        description='Segmenter: Hugging Face id or folder (segmenter.model).',
    ),
    DeclareLaunchArgument(
        'device',
        default_value='',
        description='Device of both models: cuda, cuda:1, cpu, ...',
    ),
    DeclareLaunchArgument('image_topic', default_value='', description='Colour image.'),
    DeclareLaunchArgument(
        'depth_topic',
        default_value='',
        description='Depth registered to the image. Naming one sets depth.enabled.',
    ),
    DeclareLaunchArgument(
        'camera_info_topic', default_value='', description='Intrinsics of image and depth.'
    ),
    DeclareLaunchArgument(
        'namespace', default_value='', description='One for each camera, if there are several.'
    ),
    DeclareLaunchArgument(
        'autostart',
        default_value='true',
        choices=['true', 'false'],
        description='Configure and activate the node; false leaves that to a lifecycle manager.',
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='',
        choices=['', 'true', 'false'],
        description='Take the time from /clock: for a simulation, or ros2 bag play --clock.',
    ),
    DeclareLaunchArgument(
        'model_server',
        default_value='false',
        choices=['true', 'false'],
        description='Also start a model server for the reasoner; node and server are restarted '
        'when they die.',
    ),
    DeclareLaunchArgument(
        'model_server_command',
        default_value=SERVER,
        description='Command that starts the server; {model} and {port} are filled in. For a vLLM '
        "in another environment, or any other server that speaks OpenAI's chat protocol.",
    ),
    DeclareLaunchArgument(
        'model_server_port', default_value='8000', description='Port on this machine.'
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=['debug', 'info', 'warn', 'error'],
        description='Log level of the node.',
    ),
]


def use_fastdds_profile() -> list[SetEnvironmentVariable]:
    """Use config/fastdds.xml for the processes started here, unless the user has a profile.

    Kilted and later warn about the second variable, Jazzy does not know the first.
    """
    new, old = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
    if new in os.environ or old in os.environ:
        return []
    name = old if os.environ.get('ROS_DISTRO') in ('humble', 'jazzy') else new
    return [SetEnvironmentVariable(name, str((CONFIG / 'fastdds.xml').resolve()))]


def find_program(name: str) -> str:
    """Return the path of an installed program.

    Raises:
        FileNotFoundError: It is neither in the ROS package nor on the PATH (where ``pip install``
            puts it). launch would log a traceback and continue without it.
    """
    try:
        program = Path(get_package_prefix('segzero_ros'), 'lib', 'segzero_ros', name)
        if program.exists():
            return str(program)
    except LookupError:  # not installed by colcon, or no workspace is sourced
        pass
    return on_path(name, 'source the workspace, or activate the environment it is installed in')


def on_path(name: str, remedy: str) -> str:
    """Return the path of the program called ``name``.

    Raises:
        FileNotFoundError: There is none; the message ends with ``remedy``.
    """
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f'no program {name!r} here or on the PATH: {remedy}')
    return found


def parameter(file: Path, name: str) -> Any:
    """Return the value of a parameter in a parameter file, whatever node it is for; '' = none."""
    content = yaml.safe_load(file.read_text(encoding='utf-8-sig')) or {}
    for node in content.values() if isinstance(content, dict) else ():
        given = node.get('ros__parameters') if isinstance(node, dict) else None
        if isinstance(given, dict) and given.get(name):  # reasoner.model: ...
            return given[name]
        for part in name.split('.'):
            given = given.get(part) if isinstance(given, dict) else None
        if given:
            return given
    return ''


def overrides(given: dict[str, str]) -> dict[str, Any]:
    """Return the parameters that the arguments set."""
    texts = {
        'reasoner.model': given['model'],
        'segmenter.model': given['segmenter'],
        'reasoner.device': given['device'],
        'segmenter.device': given['device'],
    }
    chosen: dict[str, Any] = {
        name: ParameterValue(text, value_type=str) for name, text in texts.items() if text
    }
    chosen['autostart'] = given['autostart'] == 'true'
    if given['use_sim_time']:
        chosen['use_sim_time'] = given['use_sim_time'] == 'true'
    if given['depth_topic']:
        chosen['depth.enabled'] = True
    if given['model_server'] == 'true':
        url = f'http://127.0.0.1:{given["model_server_port"]}/v1'
        # The model and the device are the server's; the node takes the one model it has.
        server = {'engine': 'openai', 'url': url, 'model': '', 'device': ''}
        for name, text in server.items():
            chosen[f'reasoner.{name}'] = ParameterValue(text, value_type=str)
        chosen['reasoner.startup_timeout'] = STARTUP_TIMEOUT_S
    return chosen


def log_level(given: dict[str, str]) -> str:
    """Return the argument of ``--log-level``: debug is for the node's own lines, not for rcl's."""
    if given['log_level'] != 'debug':
        return given['log_level']
    name = '/'.join(part for part in (*given['namespace'].split('/'), 'segzero') if part)
    return f'{name.replace("/", ".")}:=debug'


def serve(given: dict[str, str]) -> list[ExecuteProcess]:
    """Return the model server, if one is wanted.

    Raises:
        FileNotFoundError: Its program does not exist; launch would restart it endlessly.
    """
    if given['model_server'] != 'true':
        return []
    model = next(
        found
        for found in (
            given['model'],
            parameter(Path(given['params_file']), 'reasoner.model'),
            parameter(CONFIG / 'segzero.yaml', 'reasoner.model'),
        )
        if found
    )
    command = [
        word.replace('{model}', model).replace('{port}', given['model_server_port'])
        for word in shlex.split(given['model_server_command'])
    ]
    on_path(command[0], 'correct model_server_command')
    # Without output buffering, so that its log is complete when it dies.
    environment = {'PYTHONUNBUFFERED': '1', **NO_PROGRESS_BARS}
    return [
        ExecuteProcess(
            cmd=[find_program('segzero_model_server'), *command],
            name='model_server',
            additional_env=environment,
            respawn=True,
            respawn_delay=RESPAWN_S,
            sigterm_timeout='15',
            output='screen',
        )
    ]


def start(context: LaunchContext) -> list[Action]:
    """Return the node, and the model server if one is wanted, set up as the arguments say.

    Raises:
        FileNotFoundError: ``params_file`` or a program does not exist. Without the file launch
            would only warn and start the node with defaults that are useless for real scenes.
    """
    given = {item.name: LaunchConfiguration(item.name).perform(context) for item in ARGUMENTS}
    if not Path(given['params_file']).is_file():
        raise FileNotFoundError(f'params_file names no file: {given["params_file"]}')
    node = Node(
        executable=find_program('segzero_node'),
        name='segzero',
        namespace=given['namespace'],
        parameters=[given['params_file'], overrides(given)],
        remappings=[
            (topic, given[f'{topic}_topic'])
            for topic in ('image', 'depth', 'camera_info')
            if given[f'{topic}_topic']
        ],
        ros_arguments=['--log-level', log_level(given)],
        additional_env=NO_PROGRESS_BARS,
        # Without a server launch ends with the node, so that systemd or a person can see it.
        respawn=given['model_server'] == 'true',
        respawn_delay=RESPAWN_S,
        output='screen',
    )
    return [*serve(given), node]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, *use_fastdds_profile(), OpaqueFunction(function=start)])
