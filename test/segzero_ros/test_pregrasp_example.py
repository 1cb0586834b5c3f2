# SPDX-License-Identifier: Apache-2.0
"""docs/examples/pregrasp.py, alone and between the camera, the node and a motion planner."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, TransformStamped
from std_msgs.msg import String

from segzero_core.synthetic import make_scene

SCRIPT = Path(__file__).resolve().parents[2] / 'docs' / 'examples' / 'pregrasp.py'
SCENE = 11
STANDOFF = 0.12


@pytest.fixture(scope='module')
def example():
    spec = importlib.util.spec_from_file_location('pregrasp', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rotation_of(orientation):
    """Return the matrix of a quaternion, by the textbook formula."""
    x, y, z, w = orientation.x, orientation.y, orientation.z, orientation.w
    assert x * x + y * y + z * z + w * w == pytest.approx(1)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def check(pose, result, standoff):
    """Check a pose against the result it was made from."""
    target = result['target']
    point = np.array(target['point_m'])
    position = np.array([pose.pose.position.x, pose.pose.position.y, pose.pose.position.z])
    assert np.linalg.norm(point - position) == pytest.approx(standoff)
    rotation = rotation_of(pose.pose.orientation)
    closing, sight = np.array(target['closing_vector']), point / np.linalg.norm(point)
    np.testing.assert_allclose(rotation[:, 0], closing, atol=1e-9)
    np.testing.assert_allclose(point - position, standoff * rotation[:, 2], atol=1e-9)
    # The approach is the line of sight but for its part along the closing.
    assert rotation[:, 2] @ sight == pytest.approx(np.sqrt(1 - (closing @ sight) ** 2))
    assert pose.header.frame_id == target['frame_id']
    assert pose.header.stamp.sec == result['stamp']['sec']
    assert pose.header.stamp.nanosec == result['stamp']['nanosec']


@pytest.mark.parametrize(
    'closing', [(1.0, 0.0, 0.0), (0.6, 0.8, 0.0), (0.0, 1.0, 0.0), (0.48, -0.64, 0.6)]
)
@pytest.mark.parametrize('point', [(0.0, 0.0, 0.5), (0.3, -0.2, 0.7), (-0.4, 0.4, 0.4)])
def test_pose_stands_off_across_the_closing(example, point, closing):
    result = {
        'status': 'ok',
        'frame_id': 'optical',
        'stamp': {'sec': 3, 'nanosec': 4},
        'target': {
            'frame_id': 'optical',
            'point_m': list(point),
            'closing_vector': list(closing),
        },
    }
    check(example.pregrasp_pose(result, STANDOFF), result, STANDOFF)


def test_an_object_of_unknown_width_is_closed_upon_along_the_rows(example):
    target = {'frame_id': 'optical', 'point_m': [0.0, 0.2, 0.7], 'closing_vector': None}
    stamp = {'sec': 3, 'nanosec': 4}
    result = {'status': 'ok', 'frame_id': 'optical', 'stamp': stamp, 'target': target}
    pose = example.pregrasp_pose(result, STANDOFF)
    check(pose, {**result, 'target': {**target, 'closing_vector': [1.0, 0.0, 0.0]}}, STANDOFF)


@pytest.mark.parametrize(
    ('result', 'message'),
    [
        ({'status': 'nothing_found', 'error': {'message': 'no such mug'}}, 'no such mug'),
        ({'status': 'cancelled', 'error': None}, 'cancelled'),
        ({'status': 'ok', 'target': None}, 'depth is not enabled'),
        (
            {
                'status': 'ok',
                'target': {'point_m': None, 'reason': {'message': 'too little depth'}},
            },
            'too little',
        ),
        (
            {
                'status': 'ok',
                'frame_id': 'optical',
                'target': {'frame_id': 'base_link', 'point_m': [0.5, 0.1, 0.2]},
            },
            "in 'base_link', not in the frame of the camera, 'optical'",
        ),
    ],
)
def test_without_a_metric_target_in_the_camera_frame_it_says_why(example, result, message):
    with pytest.raises(ValueError, match=message):
        example.pregrasp_pose(result, STANDOFF)


def test_from_a_sentence_to_a_pose_before_the_object(ros, make_client, processes):
    client = make_client(next(ros))
    namespace = f'__ns:={client.namespace}'
    processes(
        '-m', 'segzero_ros.sim_camera', '--ros-args', '-r', namespace, '-p', f'seed:={SCENE}'
    )
    processes(
        '-m', 'segzero_ros.node', '--ros-args', '-r', namespace,
        '-p', 'depth.enabled:=true', '-p', 'autostart:=true',
    )  # fmt: skip
    processes(str(SCRIPT), '--ros-args', '-r', namespace, '-p', f'standoff:={STANDOFF}')
    poses = []
    topic = client.node.create_subscription(PoseStamped, 'pregrasp', poses.append, 10)
    client.wait_for_node()
    client.wait_for(topic.get_publisher_count, 'the example')
    query = make_scene(SCENE).queries()[0].text
    results = []

    def asked():  # again and again: DDS may connect the node to the example after it answered us
        results.append(client.ask(query))
        return poses

    client.wait_for(asked, 'a pose')
    stamp = poses[0].header.stamp
    stamps = [(each['stamp']['sec'], each['stamp']['nanosec']) for each in results]
    check(poses[0], results[stamps.index((stamp.sec, stamp.nanosec))], STANDOFF)


def test_the_pose_is_in_the_frame_of_the_base(example, ros, make_client, processes):
    tf2_ros = pytest.importorskip('tf2_ros', reason='needs tf2_ros, which is not on PyPI')
    pytest.importorskip('tf2_geometry_msgs', reason='needs tf2_geometry_msgs')
    client = make_client(next(ros))
    arguments = ['-p', 'base_frame:=base_link', '-p', f'standoff:={STANDOFF}']
    processes(str(SCRIPT), '--ros-args', '-r', f'__ns:={client.namespace}', *arguments)
    mounted = TransformStamped(child_frame_id='optical')  # upside down, and a metre up
    mounted.header.frame_id = 'base_link'
    mounted.transform.translation.z = mounted.transform.rotation.x = 1.0
    mounted.transform.rotation.w = 0.0
    broadcaster = tf2_ros.StaticTransformBroadcaster(client.node)
    broadcaster.sendTransform(mounted)
    target = {'frame_id': 'optical', 'point_m': [0.1, 0.2, 0.7], 'width_m': 0.05}
    target['closing_vector'] = [1.0, 0.0, 0.0]
    result = {'query': 'it', 'status': 'ok', 'stamp': {'sec': 3, 'nanosec': 4}, 'target': target}
    in_camera, poses = example.pregrasp_pose(result, STANDOFF).pose.position, []
    client.node.create_subscription(PoseStamped, 'pregrasp', poses.append, 10)
    publisher = client.node.create_publisher(String, 'segzero/result', 10)

    def asked():  # until tf, too, has come
        publisher.publish(String(data=json.dumps(result)))
        return poses

    client.wait_for(asked, 'a pose')
    assert poses[0].header.frame_id == 'base_link'
    assert (poses[0].header.stamp.sec, poses[0].header.stamp.nanosec) == (3, 4)
    position = poses[0].pose.position
    expected = (in_camera.x, -in_camera.y, 1 - in_camera.z)
    assert (position.x, position.y, position.z) == pytest.approx(expected)
