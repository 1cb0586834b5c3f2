# SPDX-License-Identifier: Apache-2.0
"""launch/segzero.launch.py model_server:=true under the real launch, with a server of our own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

REASON = 'needs launch_pytest and launch_ros: source a ROS 2 installation (they are not on PyPI)'
launch_pytest = pytest.importorskip('launch_pytest', reason=REASON)
pytest.importorskip('launch_ros', reason=REASON)

from launch import LaunchDescription  # noqa: E402
from launch.actions import IncludeLaunchDescription  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402

if TYPE_CHECKING:
    from conftest import Peer, Processes

NODE = '/segzero'
# As in config/segzero.yaml: the reasoner it names is for no model server.
PARAMETERS = """
/**:
  ros__parameters:
    reasoner: {engine: transformers, model: Ricky06662/Seg-Zero-7B, device: cuda}
    segmenter: {engine: grabcut}
"""


@launch_pytest.fixture(scope='module')
def robot(
    root: Path,
    own_domain: None,
    programs: None,
    processes: Processes,
    tmp_path_factory: pytest.TempPathFactory,
) -> LaunchDescription:
    """Start node and server."""
    params_file = tmp_path_factory.mktemp('params') / 'params.yaml'
    params_file.write_text(PARAMETERS, encoding='utf-8')
    server = root / 'test' / 'segzero_core' / 'reasoners' / 'protocol_server.py'
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    arguments = {
        'params_file': str(params_file),
        'model_server': 'true',
        'model_server_command': shlex.join([sys.executable, str(server), '{port}', '{model}']),
        'model_server_port': str(port),
    }
    source = PythonLaunchDescriptionSource(str(root / 'launch' / 'segzero.launch.py'))
    include = IncludeLaunchDescription(source, launch_arguments=arguments.items())
    return LaunchDescription([*processes.watch(), include])


def ask(peer: Peer, sentence: str) -> dict[str, Any]:
    """Show the node images, ask about them until one has come, and return the result."""
    from sensor_msgs.msg import Image
    from std_msgs.msg import String

    results = peer.gather(String, f'{NODE}/result')
    image = Image(height=48, width=64, step=192, encoding='rgb8', data=bytes(64 * 48 * 3))
    camera = peer.node.create_publisher(Image, '/image', 1)

    def answered() -> dict[str, Any] | None:
        count = len(results)
        peer.publish(f'{NODE}/query', String(data=sentence))

        def heard() -> bool:
            camera.publish(image)  # best effort: some come before the node listens
            return len(results) > count

        peer.wait_for('a result', heard)
        found: dict[str, Any] = json.loads(results[-1].data)
        return None if found['error'] and found['error']['kind'] == 'no_image' else found

    found: dict[str, Any] = peer.wait_for('an image', answered)
    peer.node.destroy_publisher(camera)
    return found


def server_below(pid: int) -> int:
    """Return the server's own process: a grandchild of the one that was launched."""
    for _ in range(2):
        pid = int(Path(f'/proc/{pid}/task/{pid}/children').read_text().split()[0])
    return pid


@pytest.mark.launch(fixture=robot)
def test_the_node_waits_for_the_server_and_asks_it(peer: Peer) -> None:
    peer.wait_for('state active', lambda: peer.state(NODE) == 'active')
    assert peer.parameter(NODE, 'reasoner.engine') == 'openai'
    result = ask(peer, 'answer')
    assert result['status'] == 'ok', result
    assert result['reasoning'] == 'The red mug ☕ is left.'


@pytest.mark.launch(fixture=robot)
def test_a_server_that_dies_is_started_anew(peer: Peer, processes: Processes) -> None:
    peer.wait_for('state active', lambda: peer.state(NODE) == 'active')
    before = processes.pids['model_server']
    os.kill(server_below(before), signal.SIGKILL)
    peer.wait_for('another server', lambda: processes.pids['model_server'] != before)
    peer.wait_for('an answer', lambda: ask(peer, 'answer')['status'] == 'ok')


@pytest.mark.launch(fixture=robot)
def test_a_node_that_dies_is_started_anew(peer: Peer, processes: Processes) -> None:
    peer.wait_for('state active', lambda: peer.state(NODE) == 'active')
    before = processes.pids['segzero_node']
    processes.output['segzero_node'] = ''
    os.kill(before, signal.SIGKILL)
    peer.wait_for('another node', lambda: 'loading' in processes.output['segzero_node'])
    assert processes.pids['segzero_node'] != before


@pytest.mark.launch(fixture=robot, shutdown=True)
def test_both_end(processes: Processes) -> None:
    assert processes.exits['segzero_node'] == 0
    assert processes.exits['model_server'] == 0
