# SPDX-License-Identifier: Apache-2.0
"""Start the segzero node, and configure and activate it.

    ros2 launch segzero_ros segzero.launch.py image_topic:=/camera/color/image_raw

``--show-args`` lists the arguments. An argument left empty changes nothing: the parameter file
decides, and topics keep their names (``image``, ``depth``, ``camera_info`` in the namespace).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueCoroutine,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.logging import get_logger
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

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

    Kilted and later read the first variable, Jazzy the second.
    """
    new, old = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
    ours = str(CONFIG / 'fastdds.xml')
    chosen = EnvironmentVariable(new, default_value=EnvironmentVariable(old, default_value=ours))
    return [SetEnvironmentVariable(new, chosen), SetEnvironmentVariable(old, chosen)]


def find_program(name: str) -> str:
    """Return the installed program, or its bare name to be found on the PATH.

    The latter is where ``pip install`` puts it.
    """
    try:
        program = Path(get_package_prefix('segzero_ros'), 'lib', 'segzero_ros', name)
    except PackageNotFoundError:
        return name
    return str(program) if program.exists() else name


def overrides(given: dict[str, str]) -> dict[str, object]:
    """Return the parameters that the arguments set."""
    parameters = {
        'reasoner.model': given['model'],
        'segmenter.model': given['segmenter'],
        'reasoner.device': given['device'],
        'segmenter.device': given['device'],
    }
    chosen: dict[str, object] = {
        name: ParameterValue(value, value_type=str) for name, value in parameters.items() if value
    }
    if given['depth_topic']:
        chosen['depth.enabled'] = True
    return chosen


def start(context: LaunchContext) -> list[Action]:
    """Return the node with what the arguments say; with ``autostart``, bring it up too."""
    given = {item.name: LaunchConfiguration(item.name).perform(context) for item in ARGUMENTS}
    node = LifecycleNode(
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
    wake = OpaqueCoroutine(coroutine=bring_up, args=[node])
    return [node, wake] if given['autostart'] == 'true' else [node]


async def bring_up(context: LaunchContext, node: LifecycleNode) -> None:
    """Configure the started node and activate it.

    Through its service, which always replies. Transition events get lost while processes are
    still finding each other, and a handler of them would also undo a later ``deactivate``.
    """
    name = node.node_name
    log = get_logger(name)
    client = get_ros_node(context).create_client(ChangeState, f'{name}/change_state')
    for step, transition in (
        ('configure', Transition.TRANSITION_CONFIGURE),
        ('activate', Transition.TRANSITION_ACTIVATE),
    ):
        reply = None
        while reply is None or not reply.done():
            if node.return_code is not None:
                return
            if reply is None and client.service_is_ready():
                reply = client.call_async(
                    ChangeState.Request(transition=Transition(id=transition))
                )
            await asyncio.sleep(0.1)
        if not reply.result().success:
            log.error(
                f'could not {step}; the lines above say why. The node waits: mend the cause, then '
                f'run ros2 lifecycle set {name} configure, and the same with activate'
            )
            return
    log.info(f'active: ask it by ros2 topic pub --once {name}/query std_msgs/msg/String ...')


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, *use_fastdds_profile(), OpaqueFunction(function=start)])
