# SPDX-License-Identifier: Apache-2.0
"""The demo: a simulated camera, the node, and three sentences.

Camera and node run as two more processes. This process is an ordinary client of the node: it
publishes sentences, prints the reasoning as it is written, saves the overlays, and compares masks
and targets with the scene's exact geometry.
"""

from __future__ import annotations

if __name__ == '__main__':  # first: the imports below take seconds
    import sys

    from segzero_ros.programs import segzero_demo

    sys.exit(segzero_demo())

import argparse
import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segzero_core.errors import DemoError
from segzero_core.image_writer import check_output, write_image
from segzero_core.metrics.masks import giou, overlap
from segzero_core.runtime.arguments import ArgumentParser
from segzero_core.synthetic import Query, Scene, make_scene
from segzero_ros.demo_client import DemoClient
from segzero_ros.paths import config_file, use_fastdds_profile
from segzero_ros.ros_context import creating_node, program_arguments, ros_context
from segzero_ros.signals import stop_event
from segzero_ros.sim_camera import SEED

ROS = '--ros-args'
CONFIGS = {'tiny': 'demo.yaml', 'rules': 'demo_rules.yaml'}
KINDS = ('attribute', 'relation', 'function')  # one sentence of each
END_S = 2.0  # for the processes to end when they are interrupted


@dataclass(frozen=True)
class DemoCheck:
    """One line of the closing table."""

    query: Query
    status: str
    iou: float
    distance_mm: float  # target point to the exact surface; NaN without a target
    seconds: float

    @property
    def passed(self) -> bool:
        """Return whether the right thing was found and a point on it."""
        return self.status == 'ok' and self.iou > 0.5 and self.distance_mm < 20.0


def ask_all(
    client: DemoClient, scene: Scene, queries: list[Query], folder: Path
) -> list[DemoCheck]:
    """Ask every query, print and save the answer, and compare it with the exact scene."""
    rows = []
    for number, query in enumerate(queries, start=1):
        print(f'\n> {query.text}', flush=True)
        answer = client.ask(query.text)
        status = answer.result['status']
        iou = distance = math.nan
        if status == 'ok':
            mask = answer.images['mask'] > 0
            iou = giou([overlap(mask, scene.mask(query.target))])
            if answer.target is not None:
                distance = 1000 * scene.surface_distance(query.target, answer.target)
            picture = folder / f'{number}.png'
            write_image(picture, answer.images['overlay'])
            print(f'\n  -> {picture}')
        else:
            print(f'\n  -> {answer.result["error"] or status}')
        seconds = answer.result['timings'].get('total', math.nan)
        rows.append(DemoCheck(query, status, iou, distance, seconds))
    return rows


def print_table(rows: list[DemoCheck]) -> None:
    """Print for each query how well mask and target point fit the exact scene."""
    width = max(len(row.query.text) for row in rows)
    print(f'\n{"query":<{width}}  {"kind":<10} {"status":<8} {"IoU":>5} {"target":>8} {"time":>7}')
    for row in rows:
        iou = '-' if math.isnan(row.iou) else f'{row.iou:.2f}'
        target = '-' if math.isnan(row.distance_mm) else f'{row.distance_mm:.1f} mm'
        print(
            f'{row.query.text:<{width}}  {row.query.kind:<10} {row.status:<8} {iou:>5} '
            f'{target:>8} {row.seconds:5.2f} s'
        )


def choose_queries(scene: Scene) -> list[Query]:
    """Return the scene's first sentence of each of ``KINDS``; not every scene has them all."""
    queries = scene.queries()
    return [query for kind in KINDS for query in [q for q in queries if q.kind == kind][:1]]


def load_scene(seed: int) -> tuple[Scene, list[Query]]:
    """Return a tabletop scene and the sentences to ask about it.

    Raises:
        DemoError: There is no such scene, or no sentence fits it.
    """
    if not 0 <= seed < 2**31:
        raise DemoError(f'--seed must be from 0 to {2**31 - 1}, not {seed}')
    scene = make_scene(seed)
    queries = choose_queries(scene)
    if not queries:
        raise DemoError(f'no sentence fits the scene {seed}: try another --seed')
    return scene, queries


@contextlib.contextmanager
def running(*commands: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run commands as processes while the block runs; then interrupt and finally kill them."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            processes.append(subprocess.Popen(command))
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + END_S
        for process in processes:
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, without the part for ROS."""
    parser = ArgumentParser(
        prog='segzero_demo',
        description='Start a simulated camera and the node, ask three sentences, and compare the '
        "answers with the scene's exact geometry.",
        epilog='Exit code: 0 if every answer is right, 1 if one is not, 2 for an error, 130 for '
        'Ctrl-C. Arguments after --ros-args go to camera, node and client.',
    )
    parser.add_argument('--seed', type=int, default=SEED, help='number of the tabletop scene')
    parser.add_argument(
        '--reasoner',
        choices=CONFIGS,
        default='tiny',
        help='the embedded models, or rules and GrabCut, which need no torch (default: tiny)',
    )
    parser.add_argument(
        '--params-file', type=Path, help='parameters of the node, instead of --reasoner'
    )
    parser.add_argument(
        '-o', '--output', type=Path, default=Path('demo'), help='folder for the pictures'
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if every query was answered right, 1 if not.

    Raises:
        SegZeroError: The demo cannot continue.
    """
    words, ros_arguments = program_arguments('segzero_demo', args)
    options = build_parser().parse_args(words)
    options.output.mkdir(parents=True, exist_ok=True)
    check_output(options.output / '1.png')
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    use_fastdds_profile()
    scene, queries = load_scene(options.seed)
    params_file = options.params_file or config_file(CONFIGS[options.reasoner])
    ros = ['--ros-args', '--log-level', 'warn', '--params-file', str(params_file)]
    given = ros_arguments[ros_arguments.index(ROS) :] if ROS in ros_arguments else []
    camera = [sys.executable, '-m', 'segzero_ros.sim_camera', *ros, '-p', f'seed:={options.seed}']
    node = [sys.executable, '-m', 'segzero_ros.node', *ros, '-p', 'autostart:=true']
    if shutil.which('ros2'):
        print('The same with the ROS tools: ros2 launch segzero_ros demo.launch.py')
    print('Starting a simulated camera and the node. Ctrl-C ends them.', flush=True)
    stop = stop_event()
    children = running([*camera, *given], [*node, *given])
    with children as processes, ros_context(ros_arguments):
        with creating_node():
            client = DemoClient(processes, stop)
        try:
            client.wait_for_camera()
            client.wait_for_node()
            rows = ask_all(client, scene, queries, options.output)
        except DemoError:
            if not stop.exit_code:
                raise
            return stop.exit_code
        finally:
            client.destroy_node()
    print_table(rows)
    right = sum(row.passed for row in rows)
    print(f'\n{right} of {len(rows)} answers are right. The pictures are in {options.output}.')
    return 0 if right == len(rows) else 1
