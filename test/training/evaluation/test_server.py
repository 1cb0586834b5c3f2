# SPDX-License-Identifier: Apache-2.0
"""Evaluations that ask a model server: refusals, tasks, cut-off replies, a server that moves."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from segzero_core.geometry import largest_inscribed_circles, mask_to_box
from segzero_core.synthetic import make_scene
from segzero_core.types import Size
from training.evaluate import main
from training.evaluation.merging import read_rows

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')
pytest.importorskip('openai', reason='needs openai: requirements/openai.txt')

ROOT = Path(__file__).parents[3]
SERVER = ROOT / 'test' / 'segzero_core' / 'reasoners' / 'protocol_server.py'
# In pixels of a 160 x 120 image.
WANTED_BOX = [84 * 160 / 840, 140 * 120 / 840, 420 * 160 / 840, 700 * 120 / 840]
WANTED_POINTS = [[210 * 160 / 840, 280 * 120 / 840], [315 * 160 / 840, 420 * 120 / 840]]

Failure = Callable[[Callable[[list[str]], int], list[str]], str]


@contextlib.contextmanager
def served(model: str = 'x/Seg-Zero-7B', *options: str) -> Iterator[list[str]]:
    """Start a server that does what each sentence says; yield the flags that ask it."""
    command = [sys.executable, str(SERVER), '0', model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f'http://127.0.0.1:{process.stdout.readline().strip()}/v1'
        options = (f'url={url}', 'timeout=100.5', 'retries=0', *options)
        flags = [part for option in options for part in ('--reasoner-option', option)]
        try:
            yield ['--reasoner', 'openai', *flags, '--segmenter', 'grabcut', '--batch-size', '4']
        finally:
            process.kill()


@pytest.fixture(scope='module')
def server() -> Iterator[list[str]]:
    with served() as flags:
        yield flags


def write_scenes(folder: Path, queries: list[str]) -> Path:
    """Write a picture with mask, box and points for each sentence."""
    folder.mkdir()
    rows = []
    for i, query in enumerate(queries):
        scene = make_scene(i, Size(160, 120))
        mask = scene.mask(0)
        Image.fromarray(scene.image).save(folder / f'{i}.png')
        Image.fromarray(mask).save(folder / f'{i}_mask.png')
        points = [list(circle.center) for circle in largest_inscribed_circles(mask)]
        files = {'image': f'{i}.png', 'mask': f'{i}_mask.png'}
        rows.append({'id': i, 'query': query, 'box': mask_to_box(mask), 'points': points, **files})
    (folder / 'records.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder


def test_a_server_is_asked_and_may_refuse_a_sentence(
    server: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_scenes(tmp_path / 'data', ['status 400', *['answer'] * 5])
    flags = ['--dataset', str(data), '--output', str(tmp_path / 'run'), *server]
    assert main(flags) == 0
    assert '1 rows could not be measured' in capsys.readouterr().err
    refused, *others = read_rows(tmp_path / 'run')
    assert refused['error']['kind'] == 'server_refused'
    assert 'no such luck' in refused['error']['message']
    assert refused['truth'] > 0
    assert [row['status'] for row in others] == ['ok'] * 5
    assert others[0]['box'] == WANTED_BOX
    assert main(flags) == 0  # only the refused sentence is asked again
    assert [row for row in read_rows(tmp_path / 'run') if row['row']] == others


def test_a_server_that_refuses_everything_ends_the_run(
    server: list[str], tmp_path: Path, failure: Failure
) -> None:
    data = write_scenes(tmp_path / 'data', ['status 404'] * 3)
    flags = ['--dataset', str(data), '--output', str(tmp_path / 'run'), *server]
    assert 'no such luck' in failure(main, flags)


@pytest.mark.parametrize('think', [True, False])
@pytest.mark.parametrize(
    ('answer', 'box', 'points'),
    [
        ('box', WANTED_BOX, []),
        ('points', None, WANTED_POINTS),
        ('box_points', WANTED_BOX, WANTED_POINTS),
    ],
)
def test_answers_of_every_task_are_read_as_asked(
    server: list[str],
    tmp_path: Path,
    answer: str,
    box: list[float] | None,
    points: list[list[float]],
    think: bool,
) -> None:
    data = write_scenes(tmp_path / 'data', [f'form {answer} {"think" if think else ""}'.strip()])
    asked = ['--answer', answer, '--think', 'yes' if think else 'no']
    assert main(['--dataset', str(data), '--output', str(tmp_path / 'run'), *server, *asked]) == 0
    for row in read_rows(tmp_path / 'run'):
        assert (row['status'], row['repairs'], row['error']) == ('ok', [], None)
        assert row['reasoning'] == ('It is left.' if think else '')
        assert (row['box'], row['points']) == (box, points)
        assert row['predicted'] > 0


def test_replies_at_the_token_limit_are_counted_apart(
    server: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_scenes(tmp_path / 'data', ['cut', 'answer', 'cut', 'form nothing'])
    folder = tmp_path / 'run'
    assert main(['--dataset', str(data), '--output', str(folder), *server]) == 0
    rows = list(read_rows(folder))
    assert [row['finish_reason'] for row in rows] == ['length', 'stop', 'length', 'stop']
    assert [row['status'] for row in rows] == ['failed', 'ok', 'failed', 'nothing_found']
    counts = json.loads((folder / 'summary.json').read_text())['counts']
    assert (counts['cut_off'], counts['cut_off_failed'], counts['failed']) == (2, 2, 2)
    out = capsys.readouterr().out
    assert '2 replies were cut off by the token limit, 2 of them before a usable answer' in out
    assert 'raise --max-new-tokens' in out


def test_a_run_continues_with_its_server_at_another_address(
    tmp_path: Path, failure: Failure
) -> None:
    data = write_scenes(tmp_path / 'data', ['answer'] * 3)
    (data / '2.png').rename(tmp_path / '2.png')
    flags = ['--dataset', str(data), '--output', str(tmp_path / 'run')]
    with served('/here/Seg-Zero-7B') as first:
        assert main([*flags, *first]) == 0
    finished = [row for row in read_rows(tmp_path / 'run') if row['status'] == 'ok']
    assert len(finished) == 2
    (tmp_path / '2.png').rename(data / '2.png')
    with served('y/Qwen2.5-VL-7B') as other:
        message = failure(main, [*flags, *other])
        assert "answers of the model 'Seg-Zero-7B', but the server has 'Qwen2.5-VL-7B'" in message
    moved = ('startup_timeout=9', 'timeout=50', 'retries=1', 'api_key_variable=MY_KEY')
    with served('/there/Seg-Zero-7B', *moved) as second:
        message = failure(main, [*flags, *second, '--reasoner-option', 'image_format=jpeg'])
        assert 'holds another run: reasoner_options' in message
        assert main([*flags, *second]) == 0
    rows = list(read_rows(tmp_path / 'run'))
    assert rows[:2] == finished
    assert [row['status'] for row in rows] == ['ok'] * 3
