# SPDX-License-Identifier: Apache-2.0
"""launch/segzero.launch.py where the node does not, or cannot, become active by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

REASON = 'needs launch_pytest and launch_ros: source a ROS 2 installation (they are not on PyPI)'
launch_pytest = pytest.importorskip('launch_pytest', reason=REASON)
pytest.importorskip('launch_ros', reason=REASON)

from launch import LaunchDescription  # noqa: E402
from launch.actions import GroupAction, IncludeLaunchDescription  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402

if TYPE_CHECKING:
    from conftest import Peer, Processes

WRONG = '/wrong/segzero'
IDLE = '/idle/segzero'


@launch_pytest.fixture(scope='module')
def nodes(
    root: Path,
    own_domain: None,
    programs: None,
    processes: Processes,
    tmp_path_factory: pytest.TempPathFactory,
) -> LaunchDescription:
    """Start a node with an unusable parameter, and one that must wait."""
    params_file = tmp_path_factory.mktemp('params') / 'params.yaml'
    params_file.write_text(
        '/wrong/segzero:\n  ros__parameters:\n    segmenter: {engine: scissors}\n', 'utf-8'
    )
    source = PythonLaunchDescriptionSource(str(root / 'launch' / 'segzero.launch.py'))
    common = {'params_file': str(params_file)}
    models = {'model': '123', 'segmenter': 'some/sam', 'device': 'cpu'}
    wrong = {**common, **models, 'namespace': 'wrong'}
    idle = {**common, 'namespace': 'idle', 'autostart': 'false', 'use_sim_time': 'true'}
    return LaunchDescription(
        [
            *processes.watch(),
            # In groups, so that the arguments of one are not used for the other.
            *(
                GroupAction([IncludeLaunchDescription(source, launch_arguments=given.items())])
                for given in (wrong, idle)
            ),
        ]
    )


@pytest.mark.launch(fixture=nodes)
def test_a_node_that_cannot_be_configured_says_why_and_waits(
    peer: Peer, processes: Processes
) -> None:
    peer.wait_for('a message', lambda: 'scissors' in processes.output.get('segzero_node', ''))
    peer.wait_for('state unconfigured', lambda: peer.state(WRONG) == 'unconfigured')
    assert "segmenter.engine must be one of 'grabcut'" in processes.output['segzero_node']
    assert processes.exits == {}


@pytest.mark.launch(fixture=nodes)
def test_model_arguments_reach_the_parameters(peer: Peer) -> None:
    assert peer.parameter(WRONG, 'reasoner.model') == '123'  # a name, not a number
    assert peer.parameter(WRONG, 'segmenter.model') == 'some/sam'
    assert peer.parameter(WRONG, 'reasoner.device') == 'cpu'
    assert peer.parameter(WRONG, 'segmenter.device') == 'cpu'


@pytest.mark.launch(fixture=nodes)
def test_without_autostart_it_is_somebody_elses_to_start(peer: Peer) -> None:
    assert {peer.state(IDLE) for _ in range(20)} == {'unconfigured'}
    assert peer.parameter(IDLE, 'autostart') is False
    assert [peer.parameter(node, 'use_sim_time') for node in (IDLE, WRONG)] == [True, False]
    assert peer.change(IDLE, 'configure')
    assert peer.change(IDLE, 'activate')
    assert peer.state(IDLE) == 'active'


@pytest.mark.launch(fixture=nodes, shutdown=True)
def test_nodes_end_cleanly(processes: Processes) -> None:
    assert set(processes.exits.values()) == {0}
