# SPDX-License-Identifier: Apache-2.0
"""A simulated camera, the segzero node, and one sentence: no GPU, no model, no camera.

    ros2 launch segzero_ros demo.launch.py query:='the pink thing that is not a mug'

Camera and node go on running. ``ros2 run segzero_ros segzero_ask the tallest thing`` asks again,
``ros2 param set /sim_camera seed 12`` changes the scene.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

HERE = Path(__file__).absolute().parent
CONFIG = HERE.parent / 'config'


def find_program(name: str) -> str:
    """Return the installed program, or its bare name to be found on the PATH.

    The latter is where ``pip install`` puts it.
    """
    try:
        program = Path(get_package_prefix('segzero_ros'), 'lib', 'segzero_ros', name)
    except PackageNotFoundError:
        return name
    return str(program) if program.exists() else name


def generate_launch_description() -> LaunchDescription:
    params_file = LaunchConfiguration('params_file')
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'query',
                default_value='the cup in front of the green bottle',
                description='What to ask.',
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=str(CONFIG / 'demo.yaml'),
                description='Parameters of camera and node (YAML).',
            ),
            # Before the camera: it sets the Fast DDS profile for all that follows.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(HERE / 'segzero.launch.py')),
                launch_arguments={'params_file': params_file}.items(),
            ),
            Node(
                executable=find_program('sim_camera'),
                name='sim_camera',
                namespace=LaunchConfiguration('namespace'),
                parameters=[params_file],
                output='screen',
            ),
            Node(
                executable=find_program('segzero_ask'),
                name='segzero_ask',
                namespace=LaunchConfiguration('namespace'),
                arguments=[LaunchConfiguration('query')],
                output='screen',
            ),
        ]
    )
