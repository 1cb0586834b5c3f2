# SPDX-License-Identifier: Apache-2.0
"""Start the segzero node; it configures and activates itself.

    ros2 launch segzero_ros segzero.launch.py image_topic:=/camera/color/image_raw

``--show-args`` lists the arguments. An argument left empty changes nothing: the parameter file
decides, and topics keep their names (``image``, ``depth``, ``camera_info`` in the namespace).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# Beside this folder, in a checkout as where the package is installed.
CONFIG = Path(__file__).absolute().parent.parent / 'config'

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
    if given['depth_topic']:
        chosen['depth.enabled'] = True
    return chosen


def start(context: LaunchContext) -> list[Node]:
    """Return the node with what the arguments say."""
    given = {item.name: LaunchConfiguration(item.name).perform(context) for item in ARGUMENTS}
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
        output='screen',
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, *use_fastdds_profile(), OpaqueFunction(function=start)])
