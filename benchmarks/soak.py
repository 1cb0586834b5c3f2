# SPDX-License-Identifier: Apache-2.0
"""A soak test: many frames, many sentences and planned faults, drawn from a seed.

    python benchmarks/soak.py [--frames 20000] [--queries 500] [--seed 0] [--json FILE]

The plan contains the broken frames and the event for each sentence: the sentence is answered, the
model raises an error or writes an unreadable reply, the sentence is cancelled, replaced or part of
a burst, or the node is deactivated or cleaned up meanwhile. The plan and its results are printed.
Requirements:

* the node survives, ends with exit code 0, and logs only the planned tracebacks;
* every sentence ends in exactly one result, with a status that the plan allows;
* a frame is refused if and only if it was broken;
* every mask has the header of a published frame, and belongs to a result with the status ``ok``;
* no answer is about a frame that was older than 2 s when the sentence was asked;
* resident memory grows by at most 5 % after the first fifth (checked with 5000 frames or more).
  Memory shared with other processes is reported but does not count. It consists of the pages of
  the camera's Fast DDS segment (64 MB, config/fastdds.xml) that have held frames; their number
  grows with the largest backlog of the node.

The exit code is 0 if all requirements are met.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from builtin_interfaces.msg import Time
from faults import KINDS, make_plan
from harness import (
    MANY,
    Peer,
    own_domain,
    process,
    random_picture,
    resident_megabytes,
    serve_node,
    shared_megabytes,
    steadily,
    wait_for,
)
from lifecycle_msgs.srv import ChangeState
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

RATE = 100.0  # frames per second
BROKEN_FRAMES = 0.02
STALE_S = 2.0
MOST_GROWTH = 0.05
ENOUGH_FRAMES = 5000  # minimum number of frames for the memory check
PLANNED = 'RuntimeError: as planned'

FRAMELESS = {'cancelled', 'replaced'}  # possible before a frame was chosen


class Camera:
    """Publishes frames, some of them broken, and remembers which."""

    def __init__(self, peer: Peer, pid: int, seed: int) -> None:
        self._good, self._rng, self._pid = random_picture(), random.Random(seed), pid
        self._publisher = peer.create_publisher(Image, 'image', 1)
        self.shown: dict[tuple[int, int], float] = {}  # stamp: when
        self.broken: set[tuple[int, int]] = set()
        self.own_mb: list[float] = []
        self.shared_mb: list[float] = []
        wait_for(self._publisher.get_subscription_count, 'the node')

    def show(self) -> None:
        """Publish the next frame."""
        now = time.time()
        stamp = Time(sec=int(now), nanosec=int(now % 1 * 1e9))
        picture, key = self._good, (stamp.sec, stamp.nanosec)
        if self._rng.random() < BROKEN_FRAMES:
            picture = self._break()
            self.broken.add(key)
        self.shown[key] = now
        picture.header.stamp = stamp
        self._publisher.publish(picture)
        if len(self.shown) % 50 == 0:
            shared = shared_megabytes(self._pid)
            self.own_mb.append(resident_megabytes(self._pid) - shared)
            self.shared_mb.append(shared)

    def _break(self) -> Image:
        fields = {'encoding': 'rgb8', 'width': 640, 'height': 480, 'step': 1920}
        change: dict[str, Any] = self._rng.choice(
            [{'encoding': 'magic'}, {'step': 7}, {'height': 481}, {'width': 0}, {'height': 0}]
        )
        image = Image(**{**fields, **change}, header=self._good.header)
        image.data = self._good.data
        return image


class Robot(Peer):
    """Asks, cancels, and changes the lifecycle state of the node."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()
        self.asked: dict[str, tuple[str, float]] = {}  # sentence: kind, when
        self.results: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        self.masks: list[Image] = []
        self._stream = ''
        self._queries = self.create_publisher(String, 'segzero/query', MANY)
        self._heard = self.create_subscription(String, 'segzero/result', self._on_result, MANY)
        self.create_subscription(Image, 'segzero/mask', self._on_mask, MANY)
        self.create_subscription(String, 'segzero/reasoning_stream', self._on_stream, MANY)

    def _on_result(self, message: String) -> None:
        result = json.loads(message.data)
        self.results[result['query']].append(result)

    def _on_mask(self, message: Image) -> None:
        message.data = []  # not inspected, and large
        self.masks.append(message)

    def _on_stream(self, message: String) -> None:
        self._stream = (self._stream + message.data)[-1000:]

    def say(self, kind: str) -> str:
        """Publish a sentence of a kind and return it."""
        number = next(self._numbers)
        sentence = '.' * (number + 1) if kind == 'no words' else f'{kind} {number}'
        self.asked[sentence] = kind, time.time()
        self._queries.publish(String(data=sentence))
        return sentence

    def say_and_see_it_run(self, kind: str) -> str:
        """Publish a sentence with a slow answer; return after the model has started."""
        sentence = self.say(kind)
        number = sentence.rpartition(' ')[2]
        wait_for(
            lambda: f'waiting {number}' in self._stream or self.results[sentence],
            f'the start of {sentence!r}',
        )
        return sentence

    def get_through(self) -> None:
        """Wait until topics are connected both ways; sentences before that do not count."""
        wait_for(self._queries.get_subscription_count, 'the node')
        wait_for(self._heard.get_publisher_count, 'the results of the node')
        for number in itertools.count():
            sentence = f'are you there {number}'
            self._queries.publish(String(data=sentence))
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                if any(result['status'] == 'ok' for result in self.results[sentence]):
                    return
                time.sleep(0.01)

    def change(self, *labels: str) -> None:
        """Run lifecycle transitions of the node."""
        for label in labels:
            request = ChangeState.Request()
            request.transition.label = label
            if not self.call(ChangeState, 'segzero/change_state', request).success:
                sys.exit(f'the node could not {label}')
            if label == 'deactivate':
                wait_for(lambda: not self._queries.get_subscription_count(), 'its deafness')
            if label == 'cleanup':
                wait_for(lambda: not self._heard.get_publisher_count(), 'its silence')

    def act(self, kind: str) -> None:
        """Carry out one event of the plan, and wait for the results."""
        if kind == 'burst':
            sentences = [self.say(kind) for _ in range(5)]
        elif kind in ('answer', 'raise', 'segmenter raises', 'babble', 'nothing', 'no words'):
            sentences = [self.say(kind)]
        else:
            sentences = [self.say_and_see_it_run(kind)]
        if kind.startswith('cancel'):
            self.call(Trigger, 'segzero/cancel', Trigger.Request())
        elif kind == 'replace':
            sentences.append(self.say('answer'))
        elif kind == 'deactivate':
            self.change('deactivate')
        elif kind == 'clean up':
            self.change('deactivate', 'cleanup')
        for sentence in sentences:
            wait_for(lambda sentence=sentence: self.results[sentence], f'a result of {sentence!r}')
        if kind == 'deactivate':
            self.change('activate')
            self.get_through()
        elif kind == 'clean up':
            self.change('configure', 'activate')
            self.get_through()


def soak(plan: list[tuple[int, str]], frames: int, seed: int, log: TextIO) -> dict[str, Any]:
    """Carry out the plan; return the results."""
    with process(__file__, 'node', log=log) as node:
        robot = Robot()
        camera = Camera(robot, node.pid, seed)
        with steadily(RATE, camera.show):
            robot.get_through()
            for at, kind in plan:
                wait_for(lambda at=at: len(camera.shown) >= at, f'frame {at}')
                robot.act(kind)
            wait_for(lambda: len(camera.shown) >= frames, f'frame {frames}')
        oks = [r for rs in robot.results.values() for r in rs if r['status'] == 'ok']
        wait_for(lambda: len(robot.masks) >= len(oks), 'the last mask')
        alive = node.poll() is None
        robot.close()
    return {
        'frames': len(camera.shown),
        'sentences': len(robot.asked),
        'failures': [
            *([] if alive else ['the node died']),
            *([] if node.returncode == 0 else [f'the node ended with {node.returncode}']),
            *judge_results(robot, camera),
            *judge_masks(robot.masks, oks, camera),
            *judge_memory(camera.own_mb, frames),
            *judge_log(log),
        ],
        'outcomes': outcomes(robot),
        'own_mb': memory_of(camera.own_mb),
        'shared_mb': memory_of(camera.shared_mb),
        'samples_mb': [camera.own_mb, camera.shared_mb],
        'broken_frames': len(camera.broken),
    }


def judge_results(robot: Robot, camera: Camera) -> Iterator[str]:
    """Yield a message for each sentence whose result does not fit the plan."""
    for sentence, (kind, when) in robot.asked.items():
        results = robot.results[sentence]
        if len(results) != 1:
            yield f'{sentence!r} has {len(results)} results'
            continue
        (result,) = results
        stamp = result['stamp']['sec'], result['stamp']['nanosec']
        refused = result['error'] is not None and result['error']['kind'] == 'bad_image'
        if refused != (stamp in camera.broken) and result['status'] not in FRAMELESS:
            yield f'{sentence!r}: {result["error"]} about frame {stamp}'
        elif not refused and result['status'] not in KINDS[kind][1]:
            yield f'{sentence!r} ended {result["status"]}: {result["error"]}'
        if stamp == (0, 0) and (result['status'] in FRAMELESS or kind == 'no words'):
            continue
        if stamp not in camera.shown or result['frame_id'] != 'camera':
            yield f'{sentence!r} has no header of a frame: {stamp}, {result["frame_id"]!r}'
        elif when - camera.shown[stamp] > STALE_S:
            yield f'{sentence!r} is about a frame of {when - camera.shown[stamp]:.1f} s before'


def judge_masks(masks: list[Image], oks: list[dict[str, Any]], camera: Camera) -> Iterator[str]:
    """Yield a message if a mask has no result or no frame."""
    stamps = collections.Counter((m.header.stamp.sec, m.header.stamp.nanosec) for m in masks)
    expected = collections.Counter((r['stamp']['sec'], r['stamp']['nanosec']) for r in oks)
    if stamps != expected:
        yield f'masks without a result, or results without a mask: {stamps ^ expected}'
    if any(mask.header.frame_id != 'camera' for mask in masks) or set(stamps) - set(camera.shown):
        yield 'masks without the header of a frame'


def memory_of(samples: list[float]) -> list[float]:
    """Return the typical memory of the second tenth of the run, and of the last tenth."""
    tenth = max(len(samples) // 10, 1)
    parts = samples[2 * tenth : 3 * tenth] or samples, samples[-tenth:]
    return [statistics.median(part) for part in parts]


def judge_memory(samples: list[float], frames: int) -> Iterator[str]:
    """Yield a message if memory grew."""
    warm, last = memory_of(samples)
    if frames >= ENOUGH_FRAMES and last > (1 + MOST_GROWTH) * warm:
        yield f'its own memory grew from {warm:.1f} to {last:.1f} MB'


def judge_log(log: TextIO) -> Iterator[str]:
    """Yield a message for each traceback that was not planned."""
    log.seek(0)
    inside = False
    for line in log:
        if line.rstrip().endswith('Traceback (most recent call last):'):
            inside = True
        elif inside and line[:1] not in (' ', '\n'):
            inside = False
            if line.strip() != PLANNED:
                yield f'a traceback: {line.strip()}'


def outcomes(robot: Robot) -> dict[str, dict[str, int]]:
    """Return the number of results by kind of sentence and status."""
    table: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    for sentence, (kind, _) in robot.asked.items():
        for result in robot.results[sentence]:
            status = result['status']
            if result['error'] is not None:
                status += f' ({result["error"]["kind"]})'
            table[kind][status] = table[kind].get(status, 0) + 1
    return table


def print_report(plan: list[tuple[int, str]], found: dict[str, Any]) -> None:
    """Print the plan and its results."""
    planned = collections.Counter(kind for _, kind in plan)
    print(f'{"plan":<22}{"times":>6}  what its sentences ended in')
    for kind, statuses in found['outcomes'].items():
        text = ', '.join(f'{n} x {status}' for status, n in sorted(statuses.items()))
        print(f'{kind:<22}{planned[kind]:>6}  {text}')
    (warm, last), (warm_shared, last_shared) = found['own_mb'], found['shared_mb']
    print(
        f'{found["frames"]} frames, {found["broken_frames"]} of them broken; '
        f'{found["sentences"]} sentences\n'
        f'resident memory: {warm:.1f} MB of its own when warm, {last:.1f} MB at the end '
        f'({100 * (last / warm - 1):+.1f} %); shared with others: {warm_shared:.1f} and '
        f'{last_shared:.1f} MB'
    )
    for failure in found['failures']:
        print(f'FAILED: {failure}')


def main() -> int:
    """Run the benchmark."""
    if sys.argv[1:2] == ['--serve']:
        return serve_node(sys.argv[3:], 'faults:FaultyReasoner', 'faults:FaultySegmenter')
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--frames', type=int, default=20000, help='at 100 Hz')
    parser.add_argument('--queries', type=int, default=500, help='in that time')
    parser.add_argument('--seed', type=int, default=0, help='of the plan')
    parser.add_argument('--json', type=Path, help='write plan and result to this file, too')
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    plan = make_plan(options.seed, options.frames, options.queries)
    with own_domain(), tempfile.TemporaryFile('w+') as log:
        found = soak(plan, options.frames, options.seed, log)
    print_report(plan, found)
    if options.json:
        options.json.write_text(json.dumps({'plan': plan, **found}, indent=2) + '\n')
    return 1 if found['failures'] else 0


if __name__ == '__main__':
    sys.exit(main())
