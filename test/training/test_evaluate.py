# SPDX-License-Identifier: Apache-2.0
"""Evaluations: stopped, continued, in several processes, and on broken data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segzero_core.data import read_samples
from segzero_core.geometry import largest_inscribed_circles, mask_to_box
from segzero_core.synthetic import make_scene
from segzero_core.types import Size
from training.evaluate import evaluate, main
from training.evaluation.fingerprint import fingerprint
from training.evaluation.merging import read_rows
from training.evaluation.options import make_config
from training.evaluation.shards import ProcessRank, shard_path
from training.report import report

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')

ROOT = Path(__file__).parents[2]
SCENES = 'synthetic:val?size=160x120&count=12'

Failure = Callable[[Callable[[list[str]], int], list[str]], str]


def run(folder: Path, rank: ProcessRank | None = None, **settings: Any) -> dict[str, Any] | None:
    config = make_config(None, {'dataset': SCENES, 'output': str(folder), **settings})
    return evaluate(config, rank or ProcessRank())


def ids(folder: Path) -> list[str]:
    return [row['id'] for row in read_rows(folder)]


def kept(folder: Path, but: int) -> list[dict[str, Any]]:
    """Return all rows of a run except one that was measured again."""
    return [row for row in read_rows(folder) if row['row'] != but]


def untimed(folder: Path) -> list[dict[str, Any]]:
    """Return all rows of a run without how long they took."""
    return [{**row, 'timings': None} for row in read_rows(folder)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An undisturbed run, and its summary."""
    folder = tmp_path_factory.mktemp('whole')
    summary = run(folder)
    assert summary is not None
    return folder, summary


def lines(folder: Path) -> list[bytes]:
    return shard_path(folder, ProcessRank()).read_bytes().splitlines(keepends=True)


def copy_of(whole: tuple[Path, dict[str, Any]], folder: Path) -> Path:
    return Path(shutil.copytree(whole[0], folder / 'run'))


# --- what comes out ---------------------------------------------------------------------------


def test_figures_are_those_of_the_masks_in_the_rows(
    whole: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    from segzero_core.data.rle import Rle

    folder, summary = whole
    samples = read_samples(SCENES)
    ious, common, either = [], 0, 0
    for row, sample in zip(read_rows(folder), samples, strict=True):
        assert row['id'] == sample.id
        assert row['text'].endswith('</answer>')
        mask = np.zeros(sample.truth.mask.shape, bool)
        if row['status'] == 'ok':
            mask = Rle(Size(*row['mask']['size'][::-1]), row['mask']['counts']).mask
        both, all_of = (mask & sample.truth.mask).sum(), (mask | sample.truth.mask).sum()
        assert (row['intersection'], row['union']) == (both, all_of)
        ious.append(both / all_of)
        common, either = common + both, either + all_of
    assert len(ious) == summary['rows'] == 12
    giou, ciou = summary['standard']['giou'], summary['standard']['ciou']
    assert giou['value'] == pytest.approx(np.mean(ious))
    assert ciou['value'] == pytest.approx(common / either)
    assert giou['low'] < giou['value'] < giou['high']
    assert summary['standard']['precision_0.7']['value'] == np.mean(np.array(ious) > 0.7)
    assert summary['counts']['ok'] + summary['counts']['nothing_found'] == 12
    assert summary['counts']['ok'] > 6
    assert 0.5 < summary['box_accuracy']['value'] <= 1
    assert json.loads((folder / 'summary.json').read_text()) == summary
    # Finished, it is only summed up again.
    assert main(['--dataset', SCENES, '--output', str(folder)]) == 0
    out, progress = capsys.readouterr()
    assert f'giou                  {100 * giou["value"]:.2f}' in out
    assert progress == ''


def test_progress_shows_the_score_so_far(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run(tmp_path)
    assert summary is not None
    last = capsys.readouterr().err.splitlines()[-1]
    assert f'12/12  gIoU {100 * summary["standard"]["giou"]["value"]:.1f}  cIoU' in last


@pytest.mark.usefixtures('one_thread')
def test_real_models_prompted_with_points_alone(
    overfit_reasoner_dir: Path, tiny_segmenter_dir: Path, tmp_path: Path
) -> None:
    summary = run(
        tmp_path,
        dataset='synthetic:val?size=128x96&count=3',
        model=str(overfit_reasoner_dir),
        segmenter_model=str(tiny_segmenter_dir),
        device='cpu',
        segmenter_prompt='points',
        batch_size=2,
    )
    assert summary is not None
    assert summary['settings']['reasoner'] == 'transformers'
    assert summary['settings']['segmenter'] == 'sam2'
    assert summary['counts']['ok'] == 3
    for row in read_rows(tmp_path):
        assert row['reasoning'] == 'The red mug ☕ stands left of the box.'
        assert row['box'] is None
        assert row['points'] == [[50 * 128 / 112, 56 * 96 / 112], [62 * 128 / 112, 60 * 96 / 112]]
        assert set(row['timings']) == {'reason', 'embed', 'decode'}


@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize('protocol', ['standard', 'released'])
def test_questions_answered_in_words(
    overfit_reasoner_dir: Path, tmp_path: Path, protocol: str
) -> None:
    """The answer between its tags is judged; no segmenter is loaded."""
    (tmp_path / 'test' / 'png').mkdir(parents=True)
    Image.new('RGB', (90, 60)).save(tmp_path / 'test' / 'png' / 'a.png')
    said = '{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}'
    rows = [{'imgname': 'a.png', 'query': 'Which?', 'label': label} for label in (said, '3')]
    for part, row in zip(('human', 'augmented'), rows, strict=True):
        (tmp_path / 'test' / f'test_{part}.json').write_text(json.dumps([row]))
    folder = tmp_path / 'run'
    flags = {'dataset': 'chartqa:test', 'root': tmp_path, 'model': overfit_reasoner_dir}
    flags |= {'output': folder, 'protocol': protocol, 'segmenter-model': '/nowhere'}
    flags |= {'device': 'cpu', 'family': 'seg_zero'}  # the only way this model can be asked
    assert main([part for key, value in flags.items() for part in (f'--{key}', str(value))]) == 0
    summary = json.loads((folder / 'summary.json').read_text())
    assert summary['accuracy']['value'] == 0.5
    assert summary['groups']['human']['accuracy']['value'] == 1
    report([folder], tmp_path / 'report', samples=1)
    assert '| 50.0 (0.0 to 100.0) |' in (tmp_path / 'report' / 'report.md').read_text()
    assert 'Right: 3' in (tmp_path / 'report' / 'run.html').read_text()


# --- stopped and started again ----------------------------------------------------------------


def write_scenes(folder: Path, count: int, query: str = 'the largest thing') -> None:
    """Write pictures with masks, boxes and points, in the layout of a user folder."""
    folder.mkdir()
    rows = []
    for i in range(count):
        scene = make_scene(i, Size(160, 120))
        mask = scene.mask(0)
        Image.fromarray(scene.image).save(folder / f'{i}.png')
        Image.fromarray(mask).save(folder / f'{i}_mask.png')
        points = [list(circle.center) for circle in largest_inscribed_circles(mask)]
        files = {'image': f'{i}.png', 'mask': f'{i}_mask.png'}
        rows.append({'id': i, 'query': query, 'box': mask_to_box(mask), 'points': points, **files})
    (folder / 'records.jsonl').write_text('\n'.join(map(json.dumps, rows)))


def test_killed_and_started_again_no_row_is_lost_or_there_twice(tmp_path: Path) -> None:
    data = tmp_path / 'data'
    write_scenes(data, 10)
    # A pipe without a writer: the reader waits there until it is killed.
    for i in (3, 7):
        (data / f'{i}_mask.png').rename(tmp_path / f'{i}.png')
        os.mkfifo(data / f'{i}_mask.png')
    command = [sys.executable, str(ROOT / 'training' / 'evaluate.py'), '--dataset', str(data)]
    command += ['--output', str(tmp_path / 'run'), '--batch-size', '1']
    shard = shard_path(tmp_path / 'run', ProcessRank())
    before = b''
    for i in (3, 7):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        # One row is asked already when the next cannot be read; it is written with that one.
        while not shard.exists() or shard.read_bytes().count(b'\n') < i:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert shard.read_bytes().count(b'\n') == i
        assert shard.read_bytes().startswith(before)
        before = shard.read_bytes()
        assert not (tmp_path / 'run' / 'rows.jsonl').exists()
        (tmp_path / f'{i}.png').rename(data / f'{i}_mask.png')
    run(tmp_path / 'run', dataset=str(data), batch_size=1)
    assert shard.read_bytes().startswith(before)
    assert ids(tmp_path / 'run') == [str(i) for i in range(10)]


@pytest.mark.parametrize('cut', [1, 40, 0])
def test_a_last_row_that_was_cut_short_is_measured_again(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, cut: int
) -> None:
    folder = copy_of(whole, tmp_path)
    shard = shard_path(folder, ProcessRank())
    text = shard.read_bytes()
    shard.write_bytes(text[:-cut] if cut else text[: text.rindex(b'{"row"')] + b'\0' * 99 + b'\n')
    run(folder)
    assert ids(folder) == ids(whole[0])
    assert kept(folder, but=11) == kept(whole[0], but=11)


def test_killed_before_the_first_row(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path)
    shard_path(folder, ProcessRank()).write_bytes(b'{"run": "0')
    run(folder)
    assert ids(folder) == ids(whole[0])


def test_a_row_damaged_in_the_midst_is_named(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, failure: Failure
) -> None:
    folder = copy_of(whole, tmp_path)
    rows = lines(folder)
    rows[4] = rows[4][:50] + b'\n'
    shard_path(folder, ProcessRank()).write_bytes(b''.join(rows))
    error = failure(main, ['--dataset', SCENES, '--output', str(folder)])
    assert 'line 5 is damaged: delete that line' in error
    assert lines(folder) == rows  # nothing was touched
    shard_path(folder, ProcessRank()).write_bytes(b''.join(rows[:4] + rows[5:]))
    assert main(['--dataset', SCENES, '--output', str(folder)]) == 0
    assert ids(folder) == ids(whole[0])
    assert kept(folder, but=3) == kept(whole[0], but=3)


# --- two runs, one folder ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'dataset': SCENES.replace('val', 'test')}, 'dataset'),
        ({'segmenter_prompt': 'box'}, "segmenter_prompt ('', now 'box')"),
        ({'protocol': 'released'}, "protocol ('standard', now 'released')"),
        ({'limit': 3}, 'limit (0, now 3); rows (12, now 3)'),
    ],
)
def test_another_run_in_the_folder_is_refused(
    whole: tuple[Path, dict[str, Any]],
    settings: dict[str, Any],
    message: str,
    failure: Failure,
) -> None:
    before = lines(whole[0])
    flags = {'dataset': SCENES, 'output': str(whole[0]), **settings}
    flags = {key.replace('_', '-'): value for key, value in flags.items()}
    arguments = [part for key, value in flags.items() for part in (f'--{key}', str(value))]
    error = failure(main, arguments)
    assert 'holds another run' in error
    assert message in error
    assert 'choose another --output' in error
    assert lines(whole[0]) == before


def test_another_model_of_the_same_name_is_another_run(tmp_path: Path) -> None:
    model = tmp_path / 'model'
    model.mkdir()
    (model / 'config.json').write_text('{}')
    weights = bytearray(2**20)
    found = []
    for place in (0, 2**19 + 1, 2**20 - 1):
        weights[place] = 1
        (model / 'model.safetensors').write_bytes(weights)
        (model / 'notes.md').write_text(str(place))  # does not count
        found.append(fingerprint(str(model)))
        found.append(fingerprint(str(model / 'model.safetensors')))
    (model / 'model.safetensors').write_bytes(weights + b'1')
    found.append(fingerprint(str(model)))
    assert len(set(found)) == 7
    assert found[-1] == fingerprint(str(shutil.copytree(model, tmp_path / 'copy')))
    assert fingerprint('Ricky06662/Seg-Zero-7B') == fingerprint('') == ''


def test_a_run_that_never_began_does_not_keep_its_folder(tmp_path: Path, failure: Failure) -> None:
    flags = ['--dataset', SCENES, '--output', str(tmp_path / 'run')]
    error = failure(
        main, [*flags, '--segmenter', 'sam2_official', '--segmenter-model', '/nowhere.pt']
    )
    assert 'holds another run' not in error
    assert main(flags) == 0


def test_a_segmenter_that_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr('segzero_core.segmenters.grabcut.GrabCutSegmenter.segment', fail)
    words = 'CUDA out of memory. Tried to allocate\nmuch'
    flags = ['--dataset', SCENES, '--output', str(tmp_path)]
    error = failure(main, flags)
    line = error
    assert '(CUDA out of memory. Tried to allocate): use a smaller --segmenter-model' in line
    words = 'something else'
    with pytest.raises(RuntimeError, match='something else'):
        main(flags)


def test_more_processes_than_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    summaries = [run(tmp_path, ProcessRank(rank, 3), limit=2) for rank in range(3)]
    assert [summary is None for summary in summaries] == [True, False, False]
    assert ids(tmp_path) == ['val/0', 'val/1']


def test_the_same_run_twice_at_a_time_is_refused(
    whole: tuple[Path, dict[str, Any]], failure: Failure
) -> None:
    import fcntl

    shard = shard_path(whole[0], ProcessRank())
    with (shard.parent / f'.{shard.name}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = failure(main, ['--dataset', SCENES, '--output', str(whole[0])])
    assert 'another process is writing' in error


# --- several processes ------------------------------------------------------------------------


def test_two_processes_measure_what_one_does(
    whole: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert main(['--dataset', SCENES, '--output', str(tmp_path)]) == 0
    assert 'process 1 of 2 is done' in capsys.readouterr().out
    assert not (tmp_path / 'rows.jsonl').exists()
    monkeypatch.setenv('RANK', '0')
    assert main(['--dataset', SCENES, '--output', str(tmp_path)]) == 0
    assert ids(tmp_path) == ids(whole[0])
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['rows'] == 12
    for rank in (0, 1):
        assert shard_path(tmp_path, ProcessRank(rank, 2)).read_bytes().count(b'\n') == 1 + 6


def test_a_run_goes_on_with_another_number_of_processes(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert run(tmp_path, ProcessRank(0, 2)) is None
    before = shard_path(tmp_path, ProcessRank(0, 2)).read_bytes()
    assert run(tmp_path, ProcessRank(1, 3)) is None
    assert run(tmp_path, ProcessRank(2, 3)) is None
    summary = run(tmp_path)
    assert summary is not None
    assert [shard_path(tmp_path, place).read_bytes().count(b'\n') for place in (
        ProcessRank(0, 2), ProcessRank(1, 3), ProcessRank(2, 3), ProcessRank()
    )] == [1 + 6, 1 + 2, 1 + 2, 1 + 2]  # fmt: skip
    assert shard_path(tmp_path, ProcessRank(0, 2)).read_bytes() == before
    assert untimed(tmp_path) == untimed(whole[0])
    assert summary['standard'] == whole[1]['standard']


LAUNCHERS = {
    'torchrun': 'torch.distributed.run --standalone --nproc-per-node=2',
    'accelerate': 'accelerate.commands.launch --multi_gpu --num_processes=2 --num_machines=1 '
    '--mixed_precision=no --dynamo_backend=no',
}


@pytest.mark.parametrize('launcher', LAUNCHERS)
def test_launched_as_the_docs_say(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, launcher: str
) -> None:
    module = LAUNCHERS[launcher].split()
    pytest.importorskip(module[0].partition('.')[0], reason='needs requirements/train.txt')
    script = str(ROOT / 'training' / 'evaluate.py')
    done = subprocess.run(
        [sys.executable, '-m', *module, script, '--dataset', SCENES, '--output', str(tmp_path)],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ' of 2 is done' in done.stdout
    assert untimed(tmp_path) == untimed(whole[0])
    assert json.loads((tmp_path / 'summary.json').read_text())['standard'] == whole[1]['standard']


def test_shards_of_another_run_are_refused(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, failure: Failure
) -> None:
    folder = copy_of(whole, tmp_path)
    stale = shard_path(folder, ProcessRank(3, 8))
    shard = shard_path(folder, ProcessRank())
    stale.write_bytes(shard.read_bytes().replace(b'"run": "', b'"run": "0', 1))
    for place in (stale, shard):
        if place == shard:
            stale.replace(shard)
        error = failure(main, ['--dataset', SCENES, '--output', str(folder)])
        message = f'{place} belongs to another run than run.json in its folder'
        assert message in error


def test_a_row_that_is_there_twice_is_refused(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, failure: Failure
) -> None:
    folder = copy_of(whole, tmp_path)
    with shard_path(folder, ProcessRank()).open('ab') as file:
        file.write(lines(folder)[3])
    error = failure(main, ['--dataset', SCENES, '--output', str(folder)])
    assert 'row 2 (val/2) appears twice' in error
    shutil.copy(whole[0] / 'run.json', folder)
    shutil.copy(shard_path(whole[0], ProcessRank()), shard_path(folder, ProcessRank()))
    shutil.copy(shard_path(folder, ProcessRank()), shard_path(folder, ProcessRank(1, 8)))
    error = failure(main, ['--dataset', SCENES, '--output', str(folder)])
    assert 'row 0 (val/0) appears twice' in error


def test_full_disk_keeps_whole_rows(
    whole: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    failure: Failure,
    limited_files: Any,
) -> None:
    size = shard_path(whole[0], ProcessRank()).stat().st_size
    folder = tmp_path / 'run'
    flags = ['--dataset', SCENES, '--output', str(folder)]
    with limited_files(size // 2):
        error = failure(main, flags)
    message = error
    assert f'cannot read or write {shard_path(folder, ProcessRank())} (' in message
    assert 'free some space' in message
    assert main(flags) == 0
    assert [row['id'] for row in read_rows(folder)] == ids(whole[0])


# --- data that cannot be used -----------------------------------------------------------------


def test_a_missing_image_counts_as_zero_until_it_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / 'data'
    write_scenes(data, 4, 'the tasse ☕')
    (data / '2.png').rename(data / 'elsewhere.png')
    flags = ['--dataset', str(data), '--output', str(tmp_path / 'run')]
    assert main(flags) == 0
    error = capsys.readouterr().err
    assert '1 rows could not be measured and count as zero' in error
    found = list(read_rows(tmp_path / 'run'))
    assert [row['status'] == 'error' for row in found] == [False, False, True, False]
    assert '2.png' in found[2]['error']['message']
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['rows'] == 4
    assert summary['counts']['error'] == 1
    (data / 'elsewhere.png').rename(data / '2.png')
    assert main(flags) == 0
    again = list(read_rows(tmp_path / 'run'))
    assert again[2]['status'] != 'error'
    assert [row for row in again if row['row'] != 2] == [row for row in found if row['row'] != 2]
