# SPDX-License-Identifier: Apache-2.0
"""Start the segzero node; it configures and activates itself.

    ros2 launch segzero_ros segzero.launch.py image_topic:=/camera/color/image_raw

``--show-args`` lists the arguments. An argument left empty changes nothing: the parameter file
decides, and topics keep their names (``image``, ``depth``, ``camera_info`` in the namespace).
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
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

# Beside this folder, in a checkout as where the package is installed.
CONFIG = Path(__file__).absolute().parent.parent / 'config'

MODEL = 'Ricky06662/Seg-Zero-7B'  # what the server runs unless told otherwise
# Prefix caching, on by default, keeps a frame for the next sentence about it.
SERVER = (
    'python3 -m vllm.entrypoints.openai.api_server --model {model} --host 127.0.0.1 --port {port} '
    '--gpu-memory-utilization 0.8 --generation-config vllm --limit-mm-per-prompt.video 0'
)
RESPAWN_S = 2.0
SERVER_STARTS_S = 900.0  # within this time, or configuring the node fails

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
        description='Where both models run: cuda, cuda:1, cpu, ...',
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
        'namespace', default_value='', description='One per camera, if there are several.'
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
        description='Start a model server for the reasoner too, and either anew when it dies.',
    ),
    DeclareLaunchArgument(
        'model_server_command',
        default_value=SERVER,
        description='How; {model} and {port} are put in. For a vLLM in another environment, or '
        'for any other server that speaks the protocol of OpenAI.',
    ),
    DeclareLaunchArgument(
        'model_server_port', default_value='8000', description='On this machine only.'
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=['debug', 'info', 'warn', 'error'],
        description='What the node logs.',
    ),
]


def use_fastdds_profile() -> list[SetEnvironmentVariable]:
    """Give the processes started here config/fastdds.xml, unless the user has a profile.

    Kilted and later warn about the second variable, Jazzy does not know the first.
    """
    new, old = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
    if new in os.environ or old in os.environ:
        return []
    name = old if os.environ.get('ROS_DISTRO') in ('humble', 'jazzy') else new
    return [SetEnvironmentVariable(name, str((CONFIG / 'fastdds.xml').resolve()))]


def find_program(name: str) -> str:
    """Return the installed program, or its bare name to be found on the PATH.

    The latter is where ``pip install`` puts it.
    """
    try:
        program = Path(get_package_prefix('segzero_ros'), 'lib', 'segzero_ros', name)
    except PackageNotFoundError:
        return name
    return str(program) if program.exists() else name


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
        # The model and the GPU are the server's; the node takes the model that is there.
        server = {'engine': 'openai', 'url': url, 'model': '', 'device': ''}
        for name, text in server.items():
            chosen[f'reasoner.{name}'] = ParameterValue(text, value_type=str)
        chosen['reasoner.startup_timeout'] = SERVER_STARTS_S
    return chosen


def serve(given: dict[str, str]) -> list[ExecuteProcess]:
    """Return the model server, if there is to be one."""
    if given['model_server'] != 'true':
        return []
    command = [
        word.replace('{model}', given['model'] or MODEL).replace(
            '{port}', given['model_server_port']
        )
        for word in shlex.split(given['model_server_command'])
    ]
    keeper = find_program('segzero_model_server')
    # Without output buffering, so that its log is there when it dies.
    environment = {'PYTHONUNBUFFERED': '1'}
    return [
        ExecuteProcess(
            cmd=[keeper, *command],
            name='model_server',
            additional_env=environment,
            respawn=True,
            respawn_delay=RESPAWN_S,
            sigterm_timeout='15',
            output='screen',
        )
    ]


def start(context: LaunchContext) -> list[Action]:
    """Return the node, and the model server, with what the arguments say.

    Raises:
        FileNotFoundError: There is no ``params_file``. launch would only warn, and start the node
            with its defaults: engines that no real scene is for.
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
        ros_arguments=['--log-level', given['log_level']],
        # Alone, its end is that of launch, and whoever started that can see it.
        respawn=given['model_server'] == 'true',
        respawn_delay=RESPAWN_S,
        output='screen',
    )
    return [*serve(given), node]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, *use_fastdds_profile(), OpaqueFunction(function=start)])
