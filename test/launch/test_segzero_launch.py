# SPDX-License-Identifier: Apache-2.0
"""launch/segzero.launch.py under the real launch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

REASON = 'needs launch_pytest and launch_ros: source a ROS 2 installation (they are not on PyPI)'
launch_pytest = pytest.importorskip('launch_pytest', reason=REASON)
pytest.importorskip('launch_ros', reason=REASON)

from builtin_interfaces.msg import Time  # noqa: E402
from launch import LaunchContext, LaunchDescription  # noqa: E402
from launch.actions import (  # noqa: E402
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from std_msgs.msg import Header, String  # noqa: E402

from segzero_core.synthetic import make_scene, noisy_depth  # noqa: E402
from segzero_core.types import image_size  # noqa: E402
from segzero_ros.images import array_to_image  # noqa: E402
from segzero_ros.sim_camera import depth_message, info_message  # noqa: E402

if TYPE_CHECKING:
    from conftest import Peer, Processes

NODE = '/robot/segzero'
PARAMETERS = """
/**:
  ros__parameters:
    reasoner: {engine: rules, model: ''}
    segmenter: {engine: grabcut}
    depth: {enabled: false, max: 3.5}
"""


@launch_pytest.fixture(scope='module')
def robot(
    root: Path,
    own_domain: None,
    programs: None,
    processes: Processes,
    tmp_path_factory: pytest.TempPathFactory,
) -> LaunchDescription:
    """Start the node as on a robot with a camera called front."""
    params_file = tmp_path_factory.mktemp('params') / 'params.yaml'
    params_file.write_text(PARAMETERS, encoding='utf-8')
    arguments = {
        'params_file': str(params_file),
        'namespace': 'robot',
        'image_topic': '/front/image',
        'depth_topic': '/front/depth',
        'camera_info_topic': '/front/info',
    }
    source = PythonLaunchDescriptionSource(str(root / 'launch' / 'segzero.launch.py'))
    include = IncludeLaunchDescription(source, launch_arguments=arguments.items())
    return LaunchDescription([*processes.watch(), include])


def described(root: Path) -> LaunchDescription:
    source = PythonLaunchDescriptionSource(str(root / 'launch' / 'segzero.launch.py'))
    return source.get_launch_description(LaunchContext())


def profile_variable() -> str:
    """Name the variable that the Fast DDS of this ROS reads without a warning."""
    old_ros = os.environ.get('ROS_DISTRO') in ('humble', 'jazzy')
    return 'FASTRTPS_DEFAULT_PROFILES_FILE' if old_ros else 'FASTDDS_DEFAULT_PROFILES_FILE'


def test_arguments_and_defaults(root: Path) -> None:
    arguments = [e for e in described(root).entities if isinstance(e, DeclareLaunchArgument)]
    context = LaunchContext()
    defaults = {
        item.name: ''.join(part.perform(context) for part in item.default_value)
        for item in arguments
    }
    assert defaults == {
        'params_file': str(root / 'config' / 'segzero.yaml'),
        'model': '',
        'segmenter': '',
        'device': '',
        'image_topic': '',
        'depth_topic': '',
        'camera_info_topic': '',
        'namespace': '',
        'autostart': 'true',
        'use_sim_time': '',
        'model_server': 'false',
        'model_server_command': defaults['model_server_command'],
        'model_server_port': '8000',
        'log_level': 'info',
    }
    assert all(item.description for item in arguments)
    choices = {item.name: item.choices for item in arguments if item.choices}
    assert choices == {
        'autostart': ['true', 'false'],
        'use_sim_time': ['', 'true', 'false'],
        'model_server': ['true', 'false'],
        'log_level': ['debug', 'info', 'warn', 'error'],
    }


@pytest.mark.parametrize(
    'own', [{}, {'FASTDDS_DEFAULT_PROFILES_FILE': 'a'}, {'FASTRTPS_DEFAULT_PROFILES_FILE': 'b'}]
)
def test_fastdds_profile_of_the_user_is_left_alone(
    root: Path, own: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
    for name in names:
        monkeypatch.setenv(name, '')  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    context = LaunchContext()
    for entity in described(root).entities:
        if isinstance(entity, SetEnvironmentVariable):
            entity.execute(context)
    given = {name: value for name, value in context.environment.items() if name in names}
    assert given == (own or {profile_variable(): str(root / 'config' / 'fastdds.xml')})


def test_a_parameter_file_that_is_not_there_starts_nothing(root: Path) -> None:
    context = LaunchContext()
    context.launch_configurations['params_file'] = 'none.yaml'
    *others, start = described(root).entities
    for entity in others:
        if isinstance(entity, DeclareLaunchArgument):
            entity.execute(context)
    with pytest.raises(FileNotFoundError, match=r'params_file names no file: none\.yaml'):
        start.execute(context)


@pytest.mark.launch(fixture=robot)
def test_node_becomes_active(peer: Peer) -> None:
    peer.wait_for('state active', lambda: peer.state(NODE) == 'active')


@pytest.mark.launch(fixture=robot)
def test_arguments_override_and_the_rest_comes_from_the_file(peer: Peer) -> None:
    assert peer.parameter(NODE, 'depth.enabled') is True  # because depth_topic is given
    assert peer.parameter(NODE, 'depth.max') == 3.5
    assert peer.parameter(NODE, 'reasoner.model') == ''


@pytest.mark.launch(fixture=robot)
@pytest.mark.parametrize('topic', ['/front/image', '/front/depth', '/front/info'])
def test_topics_are_remapped(peer: Peer, topic: str) -> None:
    peer.wait_for('state active', lambda: peer.state(NODE) == 'active')

    def subscribers() -> list[str]:
        infos = peer.node.get_subscriptions_info_by_topic(topic)
        return [f'{info.node_namespace}/{info.node_name}' for info in infos]

    peer.wait_for(f'a subscriber of {topic}', subscribers)
    assert subscribers() == [NODE]


@pytest.mark.launch(fixture=robot)
def test_the_profile_reaches_the_node(root: Path, peer: Peer, processes: Processes) -> None:
    peer.wait_for('state active', lambda: peer.state(NODE) == 'active')
    environment = Path(f'/proc/{processes.pids["segzero_node"]}/environ').read_text()
    profile = root / 'config' / 'fastdds.xml'
    assert f'{profile_variable()}={profile}' in environment.split('\0')


@pytest.mark.launch(fixture=robot)
def test_a_sentence_is_answered(peer: Peer) -> None:
    peer.wait_for('state active', lambda: peer.state(NODE) == 'active')
    scene = make_scene(11)
    query = next(each for each in scene.queries() if each.kind == 'attribute')
    header = Header(frame_id='front_optical', stamp=Time(sec=7))
    messages = {
        'image': array_to_image(scene.image, 'rgb8', header),
        'depth': depth_message(header, noisy_depth(scene, np.random.default_rng(0)), '16UC1'),
        'info': info_message(header, scene.intrinsics, image_size(scene.image)),
    }
    cameras = {
        name: peer.node.create_publisher(type(message), f'/front/{name}', 1)
        for name, message in messages.items()
    }
    results = peer.gather(String, f'{NODE}/result')

    def ask() -> dict[str, Any] | None:
        count = len(results)
        peer.publish(f'{NODE}/query', String(data=query.text))

        def answered() -> bool:
            for name, message in messages.items():
                cameras[name].publish(message)  # until it gets through
            return len(results) > count

        peer.wait_for('a result', answered)
        result: dict[str, Any] = json.loads(results[-1].data)
        if result['error'] and result['error']['kind'] == 'no_image':
            return None
        assert (result['status'], result['query']) == ('ok', query.text)
        return result if result['target']['reason'] is None else None

    # Image or depth may come too late for the first sentence.
    result = peer.wait_for('a target', ask)
    assert (result['frame_id'], result['stamp']['sec']) == ('front_optical', 7)
    assert scene.surface_distance(query.target, result['target']['point_m']) < 0.02


@pytest.mark.launch(fixture=robot)
def test_a_deactivated_node_stays_inactive(peer: Peer) -> None:
    peer.wait_for('state active', lambda: peer.state(NODE) == 'active')
    assert peer.change(NODE, 'deactivate')
    # Longer than an event needs: autostart must not undo a manual transition.
    assert {peer.state(NODE) for _ in range(20)} == {'inactive'}
    assert peer.change(NODE, 'cleanup')
    assert peer.change(NODE, 'configure')
    assert {peer.state(NODE) for _ in range(20)} == {'inactive'}
    assert peer.change(NODE, 'activate')
    assert peer.state(NODE) == 'active'


@pytest.mark.launch(fixture=robot, shutdown=True)
def test_node_ends_cleanly(processes: Processes) -> None:
    assert processes.exits == {'segzero_node': 0}
