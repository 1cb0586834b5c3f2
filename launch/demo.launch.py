# SPDX-License-Identifier: Apache-2.0
"""A simulated camera, the segzero node, and one sentence: no GPU, no model, no camera.

    ros2 launch segzero_ros demo.launch.py query:='the pink thing that is not a mug'

Camera and node go on running, so that more sentences can be published on /segzero/query.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueCoroutine
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.ros_adapters import get_ros_node
from std_msgs.msg import String

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


async def ask(context: LaunchContext) -> None:
    """Publish the sentence once the node listens, and log what comes back."""
    query = LaunchConfiguration('query').perform(context)
    namespace = LaunchConfiguration('namespace').perform(context).strip('/')
    node = f'/{namespace}/segzero' if namespace else '/segzero'
    results: list[dict[str, Any]] = []
    ros = get_ros_node(context)
    ros.create_subscription(
        String, f'{node}/result', lambda message: results.append(json.loads(message.data)), 10
    )
    publisher = ros.create_publisher(String, f'{node}/query', 10)
    while not publisher.get_subscription_count() or not ros.count_publishers(f'{node}/result'):
        await asyncio.sleep(0.1)
    publisher.publish(String(data=query))
    while not results:
        await asyncio.sleep(0.1)
    report(results[0])
    get_logger('demo').info(
        f'ask again: ros2 topic pub --once {node}/query std_msgs/msg/String '
        '"{data: \'the blue box\'}"; everything it answers: '
        f'ros2 topic echo --full-length {node}/result'
    )


def report(result: dict[str, Any]) -> None:
    """Log one result in lines a person can read."""
    log = get_logger('demo')
    log.info(result['query'])
    if result['status'] != 'ok':
        log.error(f'{result["status"]}: {(result["error"] or {}).get("message", "")}')
        return
    log.info(result['reasoning'])
    log.info(f'box {result["box"]}, points {result["points"]} (pixels), score {result["score"]}')
    log.info(f'target {result["target"]}')


def generate_launch_description() -> LaunchDescription:
    params_file = LaunchConfiguration('params_file')
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'query',
                default_value='the cup in front of the green bottle',
                description='The sentence.',
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=str(CONFIG / 'demo.yaml'),
                description='Parameters of camera and node (YAML).',
            ),
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
            OpaqueCoroutine(coroutine=ask),
        ]
    )
