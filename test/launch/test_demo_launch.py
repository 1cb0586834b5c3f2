# SPDX-License-Identifier: Apache-2.0
"""launch/demo.launch.py under the real launch: camera, node, one sentence, the right object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

REASON = 'needs launch_pytest and launch_ros: source a ROS 2 installation (they are not on PyPI)'
launch_pytest = pytest.importorskip('launch_pytest', reason=REASON)
pytest.importorskip('launch_ros', reason=REASON)

from geometry_msgs.msg import PointStamped  # noqa: E402
from launch import LaunchContext, LaunchDescription  # noqa: E402
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from segzero_core.metrics.masks import giou, overlap  # noqa: E402
from segzero_core.synthetic import Query, Scene, make_scene  # noqa: E402
from segzero_ros.images import image_to_array  # noqa: E402
from segzero_ros.sim_camera import SEED  # noqa: E402

if TYPE_CHECKING:
    from conftest import Peer, Processes


@pytest.fixture(scope='module')
def scene() -> Scene:
    """Return the scene of the simulated camera in the demo."""
    return make_scene(SEED)


@pytest.fixture(scope='module')
def source(root: Path) -> PythonLaunchDescriptionSource:
    return PythonLaunchDescriptionSource(str(root / 'launch' / 'demo.launch.py'))


def defaults(source: PythonLaunchDescriptionSource) -> dict[str, str]:
    context = LaunchContext()
    return {
        item.name: ''.join(part.perform(context) for part in item.default_value)
        for item in source.get_launch_description(context).entities
        if isinstance(item, DeclareLaunchArgument)
    }


@pytest.fixture(scope='module')
def query(scene: Scene, source: PythonLaunchDescriptionSource) -> Query:
    """Return the sentence asked by default; the scene must have exactly one answer to it."""
    text = defaults(source)['query']
    (query,) = (query for query in scene.queries() if query.text == text)
    return query


@launch_pytest.fixture(scope='module')
def demo(
    source: PythonLaunchDescriptionSource,
    root: Path,
    own_domain: None,
    programs: None,
    processes: Processes,
) -> LaunchDescription:
    # Without models, which take long to load; segzero_ros/test_demo.py asks those of the default.
    arguments = {'params_file': str(root / 'config' / 'demo_rules.yaml')}
    demo = IncludeLaunchDescription(source, launch_arguments=arguments.items())
    return LaunchDescription([*processes.watch(), demo])


def test_arguments_and_defaults(root: Path, source: PythonLaunchDescriptionSource) -> None:
    given = defaults(source)
    assert set(given) == {'query', 'params_file'}
    assert given['params_file'] == str(root / 'config' / 'demo.yaml')


@pytest.mark.launch(fixture=demo)
def test_the_answer_is_printed(peer: Peer, processes: Processes, query: Query) -> None:
    peer.wait_for('the end of segzero_ask', lambda: 'segzero_ask' in processes.exits)
    lines = processes.output['segzero_ask'].splitlines()
    assert f'query: {query.text}' in lines
    assert 'status: ok' in lines
    assert 'error: null' in lines


@pytest.mark.launch(fixture=demo)
def test_the_sentence_finds_its_object(peer: Peer, scene: Scene, query: Query) -> None:
    results = peer.gather(String, '/segzero/result')
    masks = peer.gather(Image, '/segzero/mask')
    targets = peer.gather(PointStamped, '/segzero/target_point')

    def ask() -> dict[str, Any] | None:
        count = len(results)
        peer.publish('/segzero/query', String(data=query.text))
        peer.wait_for('a result', lambda: len(results) > count)
        result: dict[str, Any] = json.loads(results[-1].data)
        assert result['error'] is None
        assert (result['status'], result['query']) == ('ok', query.text)
        return result if result['target']['reason'] is None else None

    result = peer.wait_for('a target', ask)  # on a busy machine depth may come too late for one
    stamp = result['stamp']['sec'], result['stamp']['nanosec']

    def of_it(messages: list[Any]) -> Any:
        stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in messages]
        return stamp in stamps and messages[stamps.index(stamp)]

    mask = peer.wait_for('its mask', lambda: of_it(masks))
    target = peer.wait_for('its target', lambda: of_it(targets))
    for message in (mask, target):
        assert message.header.frame_id == result['frame_id'] == 'camera_color_optical_frame'
    assert giou([overlap(image_to_array(mask) > 0, scene.mask(query.target))]) > 0.5
    point = np.array([target.point.x, target.point.y, target.point.z])
    assert scene.surface_distance(query.target, point) < 0.02


@pytest.mark.launch(fixture=demo, shutdown=True)
def test_camera_and_node_end_cleanly(processes: Processes) -> None:
    assert processes.exits == {'segzero_node': 0, 'sim_camera': 0, 'segzero_ask': 0}
