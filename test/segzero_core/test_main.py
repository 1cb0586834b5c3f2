# SPDX-License-Identifier: Apache-2.0
"""The command line as users run it: `python -m segzero_core`."""

import json
import os
import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest

from segzero_core import command_line
from segzero_core.errors import SegZeroError
from segzero_core.segmenters import MaskResult
from segzero_core.segmenters.grabcut import GrabCutSegmenter
from segzero_core.synthetic import make_scene


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    scene = make_scene(11)
    path = tmp_path_factory.mktemp('cli') / 'scene.png'
    cv2.imwrite(str(path), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
    query = next(q for q in scene.queries() if q.kind == 'attribute')
    return path, scene, query


def segzero(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'segzero_core', *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_answers_with_a_picture_a_mask_and_words(scene, tmp_path):
    path, truth, query = scene
    out, mask = tmp_path / 'out.png', tmp_path / 'mask.png'
    done = segzero(query.text, path, '-o', out, '--mask', mask)
    assert done.returncode == 0, done.stderr
    assert 'box' in done.stdout
    assert cv2.imread(str(out)).shape[1] == truth.image.shape[1]
    found = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
    assert set(np.unique(found)) == {0, 255}
    exact = truth.mask(query.target)
    assert ((found > 0) & exact).sum() / ((found > 0) | exact).sum() > 0.5


def test_a_loop_of_links_is_replaced_by_the_picture(scene, tmp_path):
    path, _, query = scene
    out = tmp_path / 'out.png'
    out.symlink_to(out)
    done = segzero(query.text, path, '-o', out)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(out)) is not None


def test_json_is_one_document_on_standard_output(scene):
    path, _, query = scene
    done = segzero(query.text, path, '--json')
    answer = json.loads(done.stdout)
    assert len(answer['box']) == 4
    assert [len(point) for point in answer['points']] == [2, 2]
    assert answer['mask_pixels'] > 0
    assert [warning['kind'] for warning in answer['warnings']] == ['synthetic_only']
    assert done.stderr == f'segzero: warning: {answer["warnings"][0]["message"]}\n'


def test_a_device_concerns_only_engines_that_run_a_model(scene):
    path, _, query = scene
    done = segzero(query.text, path, '--device', 'cpu')
    assert done.returncode == 0, done.stderr


def test_nothing_found_is_no_error(scene):
    done = segzero('the purple cone', scene[0])
    assert done.returncode == 1
    assert done.stderr == 'segzero: the reasoner says that nothing matches\n'


def test_an_empty_mask_is_nothing_found_too(scene, monkeypatch, capsys):
    path, truth, query = scene

    class Blind(GrabCutSegmenter):
        def segment(self, embedding, box, points):
            return MaskResult(np.zeros(truth.image.shape[:2], bool), 0.0)

    monkeypatch.setattr(command_line, 'load_segmenter', lambda engine, **options: Blind())
    assert command_line.main([query.text, str(path)]) == 1
    assert 'the segmenter finds nothing at the box' in capsys.readouterr().err


def test_an_error_is_one_line_and_exit_code_2():
    done = segzero('the mug', 'no/such.png')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == 'segzero: no such image file: no/such.png\n'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['the mug', 'no/such.png'], 'no such image file: no/such.png'),
        (['the mug', __file__], 'test_main.py cannot be decoded as a picture'),
        (['the mug', 'HALF'], 'half.jpg cannot be decoded as a picture'),
        (['', 'IMAGE'], 'is empty'),
        (['the mug', 'IMAGE', '--reasoner', 'rulez'], "unknown reasoner 'rulez'"),
        (['the mug', 'IMAGE', '--segmenter', 'sam9'], "unknown segmenter 'sam9'"),
        (['the mug', 'IMAGE', '--family', 'nonsense'], "'nonsense'"),
        (
            ['the mug', 'IMAGE', '-o', '/no/such/folder/out.png'],
            'there is no folder /no/such/folder',
        ),
        (['the mug', 'IMAGE', '--mask', 'out.nonsense'], 'ends in .png'),
        (['the mug', 'IMAGE', '--mask', 'out.jpg'], 'would change the values of a mask'),
        (['the mug', 'IMAGE', '-o', 'out.exr'], 'cannot write out.exr'),
        (['the mug', 'IMAGE', '-o', 'IMAGE'], 'would be overwritten'),
        (['the mug', 'IMAGE', '-o', 'same.png', '--mask', './same.png'], 'would be overwritten'),
        (['the mug', '/'], '/ is a folder'),
        (['the m\udce9g', 'IMAGE'], 'is not UTF-8'),
    ],
)
def test_whatever_is_wrong_is_a_typed_error(scene, tmp_path, arguments, message):
    path, truth, _ = scene
    half = tmp_path / 'half.jpg'
    cv2.imwrite(str(half), truth.image)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    files = {'IMAGE': str(path), 'HALF': str(half)}
    with pytest.raises(SegZeroError) as error:
        command_line.main([files.get(argument, argument) for argument in arguments])
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_a_model_that_cannot_be_loaded_is_a_typed_error(scene, tmp_path):
    pytest.importorskip('transformers', reason='transformers is not installed')
    path, _, _ = scene
    empty = tmp_path / 'empty'
    empty.mkdir()
    for engine in ('--reasoner transformers --model', '--segmenter sam2 --segmenter-model'):
        with pytest.raises(SegZeroError) as error:
            command_line.main(['the mug', str(path), *engine.split(), str(empty)])
        assert str(empty) in str(error.value)
        assert '\n' not in str(error.value)


def test_paths_that_are_not_utf8(scene, tmp_path):
    path, _, query = scene
    folder = os.fsencode(tmp_path) + b'/d\xe9'
    os.mkdir(folder)
    picture = folder + b'/p\xe9.png'
    with open(path, 'rb') as source, open(picture, 'wb') as copy:
        copy.write(source.read())
    out, mask = folder + b'/out\xff.jpg', folder + b'/mask\xe9.png'
    command = [sys.executable, '-m', 'segzero_core', query.text.encode(), picture]
    done = subprocess.run([*command, '-o', out, '--mask', mask], capture_output=True)
    assert done.returncode == 0, done.stderr
    with open(out, 'rb') as written, open(mask, 'rb') as truth:
        assert written.read(2) == b'\xff\xd8'
        pixels = cv2.imdecode(np.frombuffer(truth.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.ndim == 2  # one channel: nothing but 255 can be meant as the object
    assert set(np.unique(pixels)) == {0, 255}
    done = subprocess.run([*command, '-o', folder + b'/none\xe9/x.png'], capture_output=True)
    assert (done.returncode, done.stderr.count(b'\n')) == (2, 1)


def test_a_picture_that_cannot_be_written_does_not_cost_the_answer(scene, tmp_path):
    path, _, query = scene
    out, mask = tmp_path / 'out.png', tmp_path / 'mask.png'
    out.write_bytes(b'before')
    done = subprocess.run(
        [sys.executable, '-m', 'segzero_core', query.text, path, '-o', out, '--mask', mask],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert done.returncode == 2
    assert 'box' in done.stdout
    assert f'segzero: cannot write {out}: File too large\n' in done.stderr
    assert mask.exists()
    assert out.read_bytes() == b'before'
    assert sorted(tmp_path.iterdir()) == [mask, out]


def test_a_picture_from_a_pipe(scene):
    path, _, query = scene
    command = [sys.executable, '-m', 'segzero_core', query.text, '/dev/stdin', '--json']
    with open(path, 'rb') as source:
        done = subprocess.run(command, input=source.read(), capture_output=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(command, input=b'none', capture_output=True)
    assert done.returncode == 2
    assert b'/dev/stdin cannot be read as a picture' in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--nonsense'], 'unrecognized arguments: --nonsense'),
        (['--drafts', '3'], '--drafts is now called --num-draft-tokens'),
        (['--memory-share=0.5'], '--memory-share is now called --gpu-memory-utilization'),
    ],
)
def test_unknown_options_are_usage_errors(scene, arguments, said, capsys):
    with pytest.raises(SystemExit) as error:
        command_line.main(['the mug', str(scene[0]), *arguments])
    assert error.value.code == 2
    assert said in capsys.readouterr().err


def test_a_sentence_that_begins_with_a_dash(scene):
    assert segzero('--', '-- the purple cone', scene[0]).returncode == 1
    done = segzero('-cone', scene[0])
    assert done.returncode == 2
    assert 'go after --' in done.stderr


@pytest.mark.parametrize(
    'env',
    [
        {'PYTHONIOENCODING': 'ascii'},
        {'PYTHONIOENCODING': 'cp1252'},
        {'LC_ALL': 'POSIX', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
        {'HOME': '/proc/none'},
    ],
)
def test_any_locale_and_home(scene, env):
    """A sentence in Chinese is refused by `rules`, in one line that can be printed."""
    command = [sys.executable, '-m', 'segzero_core', '红色的杯子', str(scene[0])]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **env})
    assert done.returncode in (1, 2)
    assert done.stderr.count(b'\n') == 1
    assert b'Traceback' not in done.stderr
