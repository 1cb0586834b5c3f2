# SPDX-License-Identifier: Apache-2.0
"""The programs as on a robot: separate processes that are connected only by DDS."""

import signal

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo

from segzero_core.synthetic import make_scene
from segzero_ros.images import image_to_array

SCENE = 11
LONG = 120.0  # seconds; reached only by a defect


def node_process(processes, namespace, *parameters, program=('-m', 'segzero_ros.node')):
    ros = [argument for p in (*parameters, 'autostart:=true') for argument in ('-p', p)]
    return processes(*program, '--ros-args', '-r', f'__ns:={namespace}', *ros)


@pytest.fixture
def client(ros, make_client):
    return make_client(next(ros))


def test_camera_and_node_answer_with_mask_and_metric_target(processes, client):
    processes(
        '-m', 'segzero_ros.sim_camera', '--ros-args', '-r', f'__ns:={client.namespace}',
        '-p', f'seed:={SCENE}',
    )  # fmt: skip
    node_process(processes, client.namespace, 'depth.enabled:=true')
    camera = f'{client.namespace}/camera_info'
    client.listen(camera, CameraInfo)
    client.wait_for_node()
    client.wait_for(lambda: client.messages[camera], 'a frame of the camera')
    scene = make_scene(SCENE)
    query = next(q for q in scene.queries() if q.kind == 'attribute')
    result = client.ask(query.text)
    assert result['status'] == 'ok', result
    mask, truth = image_to_array(client.message('mask')) > 0, scene.mask(query.target)
    assert np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth) > 0.5
    assert result['target']['reason'] is None
    assert scene.surface_distance(query.target, result['target']['point_m']) < 0.02
    assert result['reasoning'] == client.message('reasoning').data


def test_transitions_by_service(processes, client, scripted_program):
    processes(
        scripted_program, '--ros-args', '-r', f'__ns:={client.namespace}',
        '-p', 'reasoner.engine:=scripted', '-p', 'segmenter.engine:=box',
    )  # fmt: skip

    for label, state in [
        ('configure', 'inactive'),
        ('activate', 'active'),
        ('deactivate', 'inactive'),
        ('cleanup', 'unconfigured'),
    ]:
        assert client.change_state(label)
        assert client.state() == state
    assert not client.change_state('activate')


@pytest.mark.parametrize(
    ('sentence', 'segmenter', 'number'),
    [
        ('wait', '', signal.SIGTERM),
        # These do not stop when cancelled, for longer than the test waits.
        ('ignore', '', signal.SIGINT),
        ('the mug', 'stuck', signal.SIGINT),
    ],
)
def test_a_signal_ends_the_process_even_while_a_model_runs(
    processes, client, scripted_program, sentence, segmenter, number
):
    engines = ('reasoner.engine:=scripted', 'segmenter.engine:=box')
    if segmenter:
        engines += (f'segmenter.model:={segmenter}',)
    process = node_process(processes, client.namespace, *engines, program=[scripted_program])
    client.wait_for_node('image')
    client.say(sentence)

    def running():
        client.show_picture()  # until it arrives: the node waits for a first image
        return client.messages['reasoning_stream']

    client.wait_for(running, 'the text of a model that runs')
    process.send_signal(number)
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, output
    assert 'Traceback' not in output
    assert client.results(1)[0]['status'] == 'cancelled'


def test_an_idle_process_ends_too(processes, client, scripted_program):
    process = processes(scripted_program, '--ros-args', '-r', f'__ns:={client.namespace}')
    client.state()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, output
    assert 'Traceback' not in output


def test_a_signal_ends_a_process_that_still_loads_its_model(processes, client, scripted_program):
    process = node_process(
        processes, client.namespace, 'reasoner.engine:=scripted', 'reasoner.model:=endless',
        'segmenter.engine:=box', program=[scripted_program],
    )  # fmt: skip
    for line in process.stdout:
        if 'scripted loads' in line:
            break
    assert client.state() == 'configuring'
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, output
    assert 'Traceback' not in output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_what_it_started(processes, domain, tmp_path, number):
    process = processes('-m', 'segzero_ros.demo', '--reasoner', 'rules', '-o', str(tmp_path))
    assert any(line.startswith('> ') for line in process.stdout)  # the first sentence
    process.send_signal(number)
    output, _ = process.communicate(timeout=LONG)  # ends when all that write to it have ended
    # 0 if this was so slow that the demo had come to its end.
    assert process.returncode in (0, 128 + number)
    assert 'Traceback' not in output


def test_a_node_that_waits_says_for_what(processes, client):
    process = processes('-m', 'segzero_ros.node', '--ros-args', '-r', f'__ns:={client.namespace}')
    client.state()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, output
    (line,) = output.splitlines()
    for part in ('unconfigured', f'ros2 lifecycle set {client.namespace}/segzero configure'):
        assert part in line


@pytest.mark.parametrize(
    ('arguments', 'code', 'said'),
    [
        (['--help'], 0, 'usage: segzero_node'),
        (['--rate', '5'], 2, "segzero_node: unknown argument '--rate'"),
        (['--ros-args', '-p', 'autostart:=yes please'], 2, 'autostart must be of type bool'),
        (['--ros-args', '-p', 'reasoner.guided:=true'], 2, 'reasoner.structured_output'),
        (['--ros-args', '--params-file', '/nowhere/params.yaml'], 2, '/nowhere/params.yaml'),
        (['--ros-args', '-r', '__node:=a-b'], 2, 'a-b'),
    ],
)
def test_a_node_that_cannot_start_says_why_in_one_line(processes, domain, arguments, code, said):
    process = processes('-m', 'segzero_ros.node', *arguments)
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == code, output
    assert said in output
    assert code == 0 or len(output.splitlines()) == 1


def test_a_parameter_file_for_another_node_is_named(processes, client, tmp_path):
    file = tmp_path / 'params.yaml'
    file.write_text('segzero_node: {ros__parameters: {autostart: true}}')
    process = processes(
        '-m', 'segzero_ros.node', '--ros-args', '-r', f'__ns:={client.namespace}',
        '--params-file', str(file),
    )  # fmt: skip
    assert client.state() == 'unconfigured'
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=LONG)
    assert f'{file} has no effect: it has parameters for /segzero_node' in output


def test_debug_shows_our_own_lines_and_not_those_of_rcl(processes, client, scripted_program):
    logger = f'{client.namespace.strip("/")}.segzero'
    process = processes(
        scripted_program, '--ros-args', '-r', f'__ns:={client.namespace}', '--log-level',
        f'{logger}:=debug', '-p', 'autostart:=true', '-p', 'reasoner.engine:=scripted',
        '-p', 'segmenter.engine:=box', '-p', 'image.max_arrival_age:=0.0',
    )  # fmt: skip
    client.wait_for_node('image')
    client.say('the mug')

    def answered():
        client.show_picture()  # until it arrives
        return client.messages['result']

    client.wait_for(answered, 'the answer')
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=LONG)
    debug = [line for line in output.splitlines() if '[DEBUG]' in line]
    assert any("accepted 'the mug'" in line for line in debug), output
    assert any("'the mug' ended: ok" in line for line in debug)
    assert all(f'[{logger}]' in line for line in debug)
