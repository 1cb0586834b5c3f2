# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of every task, trained by our own presets and used in every way there is.

Each learns one picture in a few steps of imitation, and then answers about it in Python, on the
command line, in the node, behind a server of OpenAI's protocol, and in an evaluation.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image as PilImage
from std_msgs.msg import Header

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.command_line import main as segzero
from segzero_core.geometry import box_iou, largest_inscribed_circles, mask_to_box
from segzero_core.prompts import FAMILIES
from segzero_core.synthetic import make_scene
from segzero_core.types import Box
from segzero_ros.images import array_to_image

ROOT = Path(__file__).parents[2]
PRESETS = {
    'tiny_bbox': ('box', True),
    'tiny_points': ('points', True),
    'tiny_nocot': ('both', False),
}
SETTINGS = (
    'method=sft', 'eval_data=', 'batch_size=1', 'micro_batch=1', 'max_steps=20', 'save_steps=20',
    'learning_rate=1e-3', 'warmup_steps=4',
)  # fmt: skip


class Lesson(NamedTuple):
    """The one picture, its sentence and its truth; the folder is a dataset."""

    folder: Path
    image: Any
    query: str
    mask: Any


class Checkpoint(NamedTuple):
    folder: str
    box: bool
    points: bool
    think: bool


@pytest.fixture(scope='module')
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    folder = tmp_path_factory.mktemp('lesson')
    scene = make_scene(11)
    query = next(query for query in scene.queries() if query.kind == 'attribute')
    mask = scene.mask(query.target)
    PilImage.fromarray(scene.image).save(folder / 'scene.png')
    row = {
        'id': 'one',
        'image': 'scene.png',
        'query': query.text,
        'box': list(mask_to_box(mask)),
        'points': [list(circle.center) for circle in largest_inscribed_circles(mask)],
        'reasoning': 'The one on the right.',
    }
    (folder / 'records.jsonl').write_text(json.dumps(row) + '\n')
    PilImage.fromarray(mask.astype(np.uint8) * 255).save(folder / 'mask.png')
    return Lesson(folder, scene.image, query.text, mask)


@pytest.fixture(scope='module', params=PRESETS)
def checkpoint(
    request: pytest.FixtureRequest, lesson: Lesson, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Checkpoint]:
    pytest.importorskip('trl', reason='needs TRL: requirements/train.txt')
    torch = pytest.importorskip('torch')
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the threads of a model this small only wait for each other
    from training.train import main as train

    preset = ROOT / 'config' / 'training' / f'{request.param}.yaml'
    run = tmp_path_factory.mktemp(request.param)
    overrides = [*SETTINGS, f'data={lesson.folder}', f'output={run}']
    assert train(['--config', str(preset), *overrides]) == 0
    answer, think = PRESETS[request.param]
    yield Checkpoint(str(run / 'model'), answer != 'points', answer != 'box', think)
    torch.set_num_threads(before)


def check(found: Any, lesson: Lesson, checkpoint: Checkpoint) -> None:
    """The answer has the parts that were trained, at the place that was learnt."""
    assert (found['box'] is not None) == checkpoint.box
    assert len(found['points'] or ()) == 2 * checkpoint.points
    assert bool(found['reasoning']) == checkpoint.think
    assert not found['repairs']
    truth = mask_to_box(lesson.mask)
    if checkpoint.box:
        assert box_iou(Box(*found['box']), truth) > 0.8
    for x, y in found['points'] or ():
        assert truth.x1 - 6 <= x <= truth.x2 + 6
        assert truth.y1 - 6 <= y <= truth.y2 + 6


class ModelServer(ThreadingHTTPServer):
    """Serves a checkpoint over OpenAI's protocol, as a server with another name for it does."""

    def __init__(self, model: str, name: str) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.reasoner, self.name, self.prompts = (
            load_reasoner('transformers', model=model, device='cpu', max_new_tokens=120),
            name,
            [],
        )


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send({'data': [{'id': self.server.name}]}, 'application/json')

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        parts = {part['type']: part for part in request['messages'][-1]['content']}
        picture = base64.b64decode(parts['image_url']['image_url']['url'].split(',')[1])
        image = np.asarray(PilImage.open(io.BytesIO(picture)))
        self.server.prompts.append(parts['text']['text'])
        reply = self.server.reasoner.reason(image, parts['text']['text'])
        deltas = [{'delta': {'content': letter}} for letter in reply.text]
        deltas.append({'delta': {}, 'finish_reason': reply.finish_reason})
        events = [f'data: {json.dumps({"choices": [delta]})}\n\n' for delta in deltas]
        self.send(''.join([*events, 'data: [DONE]\n\n']), 'text/event-stream')

    def send(self, content: Any, kind: str) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(200)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve(checkpoint: Checkpoint) -> Iterator[Any]:
    servers = []

    def start(name: str) -> str:
        server = ModelServer(checkpoint.folder, name)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f'http://127.0.0.1:{server.server_port}/v1'

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_python_and_command_line(
    checkpoint: Checkpoint, lesson: Lesson, capsys: pytest.CaptureFixture[str]
) -> None:
    reasoner = load_reasoner('transformers', model=checkpoint.folder, device='cpu')
    with SegZero(reasoner, load_segmenter('grabcut')) as joined:
        found = joined(lesson.image, lesson.query)
    check({**vars(found)}, lesson, checkpoint)
    command = [lesson.query, str(lesson.folder / 'scene.png'), '--json', '--device', 'cpu']
    assert segzero([*command, '--reasoner', 'transformers', '--model', checkpoint.folder]) == 0
    said = json.loads(capsys.readouterr().out)
    check(said, lesson, checkpoint)
    assert said['text'] == found.text


def test_node(checkpoint: Checkpoint, lesson: Lesson, graph: Any) -> None:
    options = {'reasoner.engine': 'transformers', 'reasoner.model': checkpoint.folder}
    graph.active_node(
        'image', **options, **{'reasoner.device': 'cpu', 'segmenter.engine': 'grabcut'}
    )
    graph.client.show('image', array_to_image(lesson.image, 'rgb8', Header()), 1)
    result = graph.client.ask(lesson.query)
    assert result['status'] == 'ok', result
    check(result, lesson, checkpoint)


def test_model_server(checkpoint: Checkpoint, lesson: Lesson, serve: Any) -> None:
    local = load_reasoner('openai', url=serve(checkpoint.folder))  # reads the folder's notes
    options = {'answer': local.task.answer, 'think': checkpoint.think, 'family': 'tiny'}
    remote = load_reasoner('openai', url=serve('somebody/finetune'), **options)
    for reasoner in (local, remote):
        with SegZero(reasoner, load_segmenter('grabcut')) as joined:
            check(vars(joined(lesson.image, lesson.query)), lesson, checkpoint)


@pytest.mark.parametrize('engine', ['transformers', 'openai'])
def test_evaluation(
    engine: str, checkpoint: Checkpoint, lesson: Lesson, serve: Any, tmp_path: Path
) -> None:
    pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')
    from training.evaluate import main as evaluate

    rows = lesson.folder / 'records.jsonl'
    row = json.loads(rows.read_text()) | {'mask': 'mask.png'}
    dataset = tmp_path / 'data'
    dataset.mkdir()
    (dataset / 'records.jsonl').write_text(json.dumps(row) + '\n')
    for name in ('scene.png', 'mask.png'):
        (dataset / name).write_bytes((lesson.folder / name).read_bytes())
    command = ['--dataset', str(dataset), '--segmenter', 'grabcut', '--output']
    asked = ['--reasoner', engine, '--device', 'cpu']
    if engine == 'openai':
        # A server cannot say what its model answers; the evaluation says it.
        parts = 'box_points' if checkpoint.box and checkpoint.points else None
        parts = parts or ('box' if checkpoint.box else 'points')
        asked = ['--reasoner', engine, '--reasoner-option', f'url={serve("finetune")}']
        asked += ['--family', 'tiny', '--answer', parts]
        asked += ['--think', 'yes' if checkpoint.think else 'no']
    else:
        asked += ['--model', checkpoint.folder]
    assert evaluate([*command, str(tmp_path / 'out'), *asked]) == 0
    (line,) = (tmp_path / 'out' / 'rows.jsonl').read_text().splitlines()
    found = json.loads(line)
    assert found['status'] == 'ok', found
    check(found, lesson, checkpoint)


@pytest.mark.parametrize('name', [name for name in FAMILIES if FAMILIES[name].asks == 'words'])
def test_families_that_name_no_place_are_refused_when_they_are_loaded(
    name: str, lesson: Lesson
) -> None:
    picture = str(lesson.folder / 'scene.png')
    command = [sys.executable, '-m', 'segzero_core', lesson.query, picture, '--family', name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"segzero: prompt family '{name}' asks for words" in done.stderr
