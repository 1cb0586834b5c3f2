# SPDX-License-Identifier: Apache-2.0
"""A simulated camera, the segzero node with the embedded tiny models, and one sentence.

    ros2 launch segzero_ros demo.launch.py query:='the cone behind the blue tin'

No GPU, no camera, no download; ``params_file:=.../config/demo_rules.yaml`` needs no torch either.

Camera and node keep running. ``ros2 run segzero_ros segzero_ask the tallest thing`` asks again,
``ros2 param set /sim_camera seed 12`` changes the scene.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.launch_description_sources.python_launch_file_utilities import (
    load_python_launch_file_as_module,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

HERE = Path(__file__).absolute().parent
CONFIG = HERE.parent / 'config'


def generate_launch_description() -> LaunchDescription:
    params_file = LaunchConfiguration('params_file')
    segzero = HERE / 'segzero.launch.py'
    find_program = load_python_launch_file_as_module(str(segzero)).find_program
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'query',
                default_value='the cup behind the blue box',
                description='The sentence to ask.',
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=str(CONFIG / 'demo.yaml'),
                description='Parameters of camera and node (YAML).',
            ),
            # Before the camera: it sets the Fast DDS profile for all that follows.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(segzero)),
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
                arguments=['--', LaunchConfiguration('query')],  # it may begin with a dash
                output='screen',
            ),
        ]
    )
