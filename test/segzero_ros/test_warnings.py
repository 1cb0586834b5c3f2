# SPDX-License-Identifier: Apache-2.0
"""Warnings of a result that is `ok`, over real DDS: in results, log and diagnostics."""

import time

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image

LONG = 60.0  # seconds; only what is broken takes so long
OK, WARN = b'\x00', b'\x01'


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr('segzero_ros.node.DIAGNOSTICS_S', 0.02)
    monkeypatch.setattr('segzero_ros.node.FIRST_FRAME_S', LONG)


def kinds(result):
    return [warning['kind'] for warning in result['warnings']]


def show(graph, node, stamp=None, **arguments):
    """Show a picture stamped now, or in a given second, and wait until the node has it."""
    count = node.frames.count
    graph.client.show_picture(int(time.time()) if stamp is None else stamp, **arguments)
    graph.client.wait_for(lambda: node.frames.count > count, 'the picture')


def test_an_answer_about_a_fresh_frame_has_no_warning(graph):
    node = graph.active_node('image')
    show(graph, node)
    assert graph.client.ask('the red mug')['warnings'] == []
    status, values = graph.client.diagnostics(lambda v: v['ok'] == '1')
    assert (status.level, values['warnings']) == (OK, '')


def test_by_default_a_frame_that_arrived_long_ago_is_refused(graph):
    node = graph.active_node('image', image__max_arrival_age=2.0)
    assert node.get_parameter('image.max_arrival_age').value == 2.0
    show(graph, node)
    assert graph.client.ask('the red mug')['status'] == 'ok'
    graph.client.wait_for(lambda: node.frames.age() > 2.1, 'a dead camera')
    result = graph.client.ask('the red mug')
    assert (result['status'], result['error']['kind']) == ('error', 'stale_frame')
    assert 'has the camera stopped' in result['error']['message']
    status, values = graph.client.diagnostics(lambda v: v['last_error'])
    assert (status.level, values['last_error'].split(':')[0]) == (WARN, 'StaleFrameError')
    assert graph.client.set_parameter('image.max_arrival_age', 0.0).successful
    assert graph.client.ask('the red mug')['status'] == 'ok'
    show(graph, node)
    assert graph.client.set_parameter('image.max_arrival_age', 2.0).successful


@pytest.mark.parametrize('stamp', [1, 1000, 2_000_000_000])
def test_a_camera_with_another_clock_is_answered_with_a_warning(graph, stamp):
    node = graph.active_node('image')
    show(graph, node, stamp)
    result = graph.client.ask('the red mug')
    assert (result['status'], kinds(result)) == ('ok', ['clock_offset'])
    status, values = graph.client.diagnostics(lambda v: v['ok'] == '1')
    assert (status.level, values['warnings']) == (WARN, 'clock_offset')
    assert 'clock' in status.message
    show(graph, node)
    assert graph.client.ask('the red mug')['warnings'] == []
    graph.client.diagnostics(lambda v: v['ok'] == '2' and not v['warnings'])


def test_a_frame_without_a_stamp_is_not_warned_of(graph):
    node = graph.active_node('image')
    show(graph, node, 0)
    assert graph.client.ask('the red mug')['warnings'] == []


def depth_frame(
    graph, node, depth=0.5, depth_frame_id='optical', info_frame_id='optical', info=None
):
    """Show image, depth and camera_info, of the frames named."""
    from std_msgs.msg import Header

    from segzero_core.types import Intrinsics, Size
    from segzero_ros.images import array_to_image
    from segzero_ros.sim_camera import info_message

    stamp = int(time.time())
    pixels = np.full((60, 80), depth, np.float32)
    lens = Intrinsics(100.0, 110.0, 39.5, 29.5)
    info = info or info_message(Header(), lens, Size(80, 60))
    for name, message, frame_id in [
        ('camera_info', info, info_frame_id),
        ('depth', array_to_image(pixels, '32FC1', Header()), depth_frame_id),
    ]:
        message.header.frame_id, message.header.stamp.sec = frame_id, stamp
        graph.client.cameras[name].publish(message)
    graph.client.show_picture(stamp)
    frames = node.frames
    graph.client.wait_for(lambda: frames.has_depth and frames.age('camera_info'), 'a frame')


@pytest.fixture
def depth_node(graph):
    def start(**parameters):
        return graph.active_node(
            'image', 'depth', 'camera_info', depth__enabled=True, **parameters
        )

    return start


@pytest.mark.parametrize('ids', [('depth_optical', 'optical'), ('optical', 'ir_optical')])
def test_frames_of_other_names_are_warned_of(graph, depth_node, ids):
    node = depth_node()
    depth_frame(graph, node, 0.5, *ids)
    result = graph.client.ask('the red mug')
    assert (result['status'], kinds(result)) == ('ok', ['frame_id_mismatch'])
    assert result['target']['reason'] is None
    for name in {'optical', *ids}:
        assert repr(name) in result['warnings'][0]['message']
    status, values = graph.client.diagnostics(lambda v: v['warnings'])
    assert (status.level, values['warnings']) == (WARN, 'frame_id_mismatch')
    assert graph.client.set_parameter('depth.frame_mismatch', 'refuse').successful
    refused = graph.client.ask('the red mug')
    assert refused['status'] == 'ok'
    assert refused['target']['reason']['kind'] == 'frame_id_mismatch'
    assert refused['target']['point_m'] is None


def test_frames_without_names_are_not_warned_of(graph, depth_node):
    node = depth_node(depth__frame_mismatch='refuse')
    depth_frame(graph, node, 0.5, '', '/optical')
    result = graph.client.ask('the red mug')
    assert (result['warnings'], result['target']['reason']) == ([], None)


@pytest.mark.parametrize('size', [(0, 0), (80, 60), (640, 480), (0, 60)])
def test_a_camera_without_calibration_is_named_as_the_reason(graph, depth_node, size):
    node = depth_node()
    depth_frame(graph, node, info=CameraInfo(width=size[0], height=size[1]))
    result = graph.client.ask('the red mug')
    assert result['status'] == 'ok'
    assert result['target']['reason']['kind'] == 'bad_intrinsics'
    assert 'is the camera calibrated' in result['target']['reason']['message']


def test_what_is_taken_back_is_taken_back_everywhere(graph, depth_node):
    node = depth_node()
    graph.client.listen('overlay', Image)
    graph.client.wait_for(node.outputs.overlay_subscribers, 'the one who looks')
    depth_frame(graph, node)
    result = graph.client.ask('the red mug')
    assert result['target']['reason'] is None
    messages = graph.client.messages
    graph.client.wait_for(lambda: messages['overlay'], 'the overlay')
    assert graph.client.call('clear').success
    for name in ('mask', 'overlay', 'reasoning', 'target_point', 'target_points', 'target_pixels'):
        graph.client.wait_for(lambda name=name: len(messages[name]) == 2, f'{name} taken back')
    assert not any(messages['overlay'][1].data)
    assert messages['overlay'][1].height == messages['overlay'][0].height
    assert messages['reasoning'][1].data == ''
    assert np.isnan(messages['target_point'][1].point.x)
    assert messages['target_points'][1].poses == []
    assert messages['target_pixels'][1].polygon.points == []


def test_the_target_of_the_last_sentence_is_taken_back_if_the_next_has_none(graph, depth_node):
    node = depth_node()
    depth_frame(graph, node)
    assert graph.client.ask('the red mug')['target']['reason'] is None
    assert graph.client.set_parameter('depth.max', 0.4).successful
    assert graph.client.ask('the blue mug')['target']['reason'] is not None
    points = graph.client.messages['target_point']
    graph.client.wait_for(lambda: len(points) == 2, 'a point that is none')
    assert np.isnan(points[1].point.z)
    assert graph.client.messages['target_points'][1].poses == []


def test_two_nodes_of_one_name_are_warned_of(graph):
    node = graph.active_node('image')
    show(graph, node)
    assert graph.client.ask('the red mug')['warnings'] == []
    graph.node()
    graph.client.diagnostics(lambda v: 'duplicate_node' in v.get('warnings', ''))
    result = graph.client.ask('the red mug')
    assert kinds(result) == ['duplicate_node']
    assert f'2 nodes are called {graph.namespace}/segzero' in result['warnings'][0]['message']
    assert kinds(graph.client.ask('')) == ['duplicate_node']  # errors have them, too


def test_an_object_at_the_border_is_warned_of(graph, engines, monkeypatch):
    monkeypatch.setattr(engines, 'BOX', engines.Box(0, 210, 630, 630))
    node = graph.active_node('image')
    show(graph, node)
    result = graph.client.ask('the red mug')
    assert (result['status'], kinds(result)) == ('ok', ['cut_at_border'])
