# SPDX-License-Identifier: Apache-2.0
"""Annotations -> training sets: right, complete, and resumed after any interruption."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segzero_core.data import Record, Sample, Skipped, read_dataset, read_samples
from segzero_core.data.annotations import load_plain_pickle
from segzero_core.errors import ConfigError, DataError, SegZeroError
from segzero_core.runtime.program import one_line
from segzero_core.types import Size
from training import make_synthetic_set, prepare_data
from training.dataset_builder.parts import (
    BuildSettings,
    PartReport,
    claim,
    read_part,
)
from training.dataset_builder.rows import (
    RowOptions,
    clean,
)

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')
pytest.importorskip('datasets', reason='needs datasets: requirements/train.txt')

ROOT = Path(__file__).parents[2]
SMALL = ['--workers', '2', '--size', '112']
FOREIGN = '\u00c9tag\u00e8re \u5de6'


@pytest.fixture(scope='module')
def refcoco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in RefCOCO's layout, with one of each kind of damage."""
    root = tmp_path_factory.mktemp('refer')
    assert (
        make_synthetic_set.main(
            ['refcoco', str(root), '--scenes', '12', '--width', '96', '--height', '72']
        )
        == 0
    )
    file = root / 'refcoco/instances.json'
    content = json.loads(file.read_text())
    annotations, images = content['annotations'], content['images']
    annotations[0]['segmentation'] = [[200, 200, 230, 200, 230, 230]]
    annotations[1]['segmentation'] = []
    images[1]['file_name'] = 'missing.jpg'
    file.write_text(json.dumps(content))
    pickled = root / 'refcoco/refs(unc).p'
    refs = load_plain_pickle(pickled)
    refs[-1] = {**refs[3], 'split': 'train'}
    refs[3]['sentences'][0]['raw'] = FOREIGN
    pickled.write_bytes(pickle.dumps(refs, protocol=2))
    return root


def prepare(refcoco: Path, output: Path, *options: str) -> int:
    places = ['--root', str(refcoco), '--output', str(output)]
    return prepare_data.main(['refcoco:train', *places, *SMALL, '--part', '3', *options])


def refusal(refcoco: Path, output: Path, *options: str) -> str:
    with pytest.raises((SegZeroError, OSError)) as error:
        prepare(refcoco, output, *options)
    return one_line(error.value)


@pytest.fixture(scope='module')
def prepared(refcoco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp('prepared') / 'set'
    assert prepare(refcoco, output, '--val-share', '0.3', '--level', 'expression') == 0
    return output


def rows(folder: Path) -> list[Record]:
    records, skipped = read_dataset(str(folder))
    assert skipped == []
    return list(records)


def test_every_annotation_is_a_row_or_has_a_reason(refcoco: Path, prepared: Path) -> None:
    samples = read_samples('refcoco:train', refcoco, 'expression', raw=True)
    train, val = rows(prepared / 'train'), rows(prepared / 'val')
    dropped = [json.loads(line) for line in (prepared / 'dropped.jsonl').read_text().splitlines()]
    ids = [row.id for row in (*train, *val)] + [row['id'] for row in dropped]
    assert sorted(ids) == sorted(row.id for row in samples)
    by_id = {row.id: row for row in samples}
    for row in dropped:
        assert isinstance(by_id[row['id']], Skipped)
        assert row['kind'] == 'unusable'
    reasons = ' '.join(row['reason'] for row in dropped)
    assert 'missing.jpg cannot be read as an image' in reasons
    assert 'lies inside the 96 x 72 image' in reasons
    assert 'no polygon' in reasons
    assert 'is there 2 times' in reasons
    assert FOREIGN.lower() in [row.query for row in (*train, *val)]
    report = json.loads((prepared / 'report.json').read_text())
    assert report['annotations'] == len(samples)
    assert report['rows'] == {'train': len(train), 'val': len(val)}
    assert report['dropped'] == {'unusable': len(dropped)}


def test_split_is_by_image(refcoco: Path, prepared: Path) -> None:
    samples = read_samples('refcoco:train', refcoco, 'expression')
    image_of = {row.id: image for row, image in zip(samples, samples.image_ids, strict=True)}
    train = {image_of[row.id] for row in rows(prepared / 'train')}
    val = {image_of[row.id] for row in rows(prepared / 'val')}
    assert train
    assert val
    assert not train & val


def test_rows_mean_what_was_annotated(refcoco: Path, prepared: Path) -> None:
    samples = read_samples('refcoco:train', refcoco, 'expression', raw=True)
    by_id = {row.id: row for row in samples if isinstance(row, Sample)}
    for row in rows(prepared / 'train'):
        sample = by_id[row.id]
        assert sample.truth is not None
        assert row.query == clean(sample.query)
        assert row.size == Size(112, 112)
        assert row.load_image().shape == (112, 112, 3)
        (box,), (true,) = [target.box for target in row.targets], sample.boxes
        assert abs(box.x1 * 96 / 112 - true.x1) < 1
        assert abs(box.y2 * 72 / 112 - true.y2) < 1
        for point in row.targets[0].points:
            x, y = round(point.x * 96 / 112), round(point.y * 72 / 112)
            mask = sample.truth.mask
            assert mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()


def test_columns_are_the_released_ones(prepared: Path) -> None:
    import datasets

    table = datasets.load_dataset(
        'parquet', data_files=sorted(map(str, (prepared / 'train').glob('*.parquet')))
    )['train']
    assert table.column_names == ['id', 'problem', 'solution', 'image', 'img_height', 'img_width']
    assert isinstance(table.features['image'], datasets.Image)
    assert table[0]['image'].size == (112, 112)
    assert (table[0]['img_width'], table[0]['img_height']) == (96, 72)


def test_sheet_shows_the_rows(prepared: Path) -> None:
    with Image.open(prepared / 'sheet.png') as sheet:
        picture = np.asarray(sheet)
    tile = picture[:280, :280]
    accent = (np.abs(tile.astype(int) - (255, 64, 129)).sum(-1) < 60).sum()
    assert accent > 20  # the two points
    assert picture.shape[1] == 6 * 280


def test_second_run_finds_everything_done(refcoco: Path, prepared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob('*.parquet')}
    assert prepare(refcoco, prepared, '--val-share', '0.3', '--level', 'expression') == 0
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob('*.parquet')} == before


def test_other_settings_are_refused(refcoco: Path, prepared: Path) -> None:
    said = refusal(refcoco, prepared, '--level', 'expression')
    assert 'other settings: val_share (0.3, now 0.0). Use the settings' in said


def test_damaged_annotations_keep_finished_rows(refcoco: Path, prepared: Path) -> None:
    file = refcoco / 'refcoco/instances.json'
    whole = file.read_text()
    try:
        file.write_text(whole[:-20])
        said = refusal(refcoco, prepared, '--val-share', '0.3', '--level', 'expression')
    finally:
        file.write_text(whole)
    assert 'instances.json is not complete JSON' in said
    assert rows(prepared / 'train')


def test_other_annotations_are_refused(refcoco: Path, prepared: Path) -> None:
    file = refcoco / 'refcoco/instances.json'
    whole = file.read_text()
    try:
        file.write_text(whole.replace('"area": 1', '"area": 2', 1))
        said = refusal(refcoco, prepared, '--val-share', '0.3', '--level', 'expression')
    finally:
        file.write_text(whole)
    assert 'other settings: digest (' in said


def test_not_one_row(refcoco: Path, tmp_path: Path) -> None:
    said = refusal(refcoco, tmp_path / 'out', '--limit', '1')
    assert 'not one row could be made' in said
    assert 'lies inside the 96 x 72 image' in (tmp_path / 'out/dropped.jsonl').read_text()


def settings() -> BuildSettings:
    return BuildSettings('x', 'instance', 1, '', RowOptions(), {}, 0.0, 0, 64)


@pytest.mark.parametrize('content', ['', '[1]', '{"dataset"', 'null'])
def test_damaged_settings_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / 'settings.json').write_text(content)
    with pytest.raises(DataError, match=r'settings\.json'):
        claim(tmp_path, settings()).__enter__()


@pytest.mark.parametrize('content', ['7', '[1, 2]', '{', '[{}, [[1]]]'])
def test_a_damaged_report_of_a_part_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / 'parts').mkdir()
    (tmp_path / 'parts' / '00000.json').write_text(content)
    with pytest.raises(DataError, match=r'00000\.json'):
        read_part(tmp_path, 0)


def test_references_without_a_sentence_are_no_rows(
    refcoco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / 'refer'
    shutil.copytree(refcoco, root)
    file = root / 'refcoco/refs(unc).p'
    refs = load_plain_pickle(file)
    chosen = [ref for ref in refs if ref['split'] == 'train']
    chosen[2]['sentences'] = []
    chosen[4]['sentences'] = [{'sent': ' ', 'raw': '...', 'sent_id': 1}]
    chosen[5]['sentences'] = 'broken'
    file.write_bytes(pickle.dumps(refs, protocol=2))
    assert prepare(root, tmp_path / 'out') == 0
    assert 'has 2 references without a sentence' in capsys.readouterr().out
    report = json.loads((tmp_path / 'out/report.json').read_text())
    assert report['without_task'] == 2
    assert report['annotations'] == len(chosen) - 2
    assert "no 'sentences'" in (tmp_path / 'out/dropped.jsonl').read_text()


def test_two_processes_in_one_folder(tmp_path: Path) -> None:
    with claim(tmp_path, settings()), pytest.raises(ConfigError, match='another process'):
        claim(tmp_path, settings()).__enter__()


def test_full_disk(refcoco: Path, tmp_path: Path, limited_files: Any) -> None:
    with limited_files(100):
        message = refusal(refcoco, tmp_path / 'out')
    assert f'cannot read or write {tmp_path / "out" / "settings.json"} (' in message
    assert 'free some space' in message


def test_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / 'train').mkdir()
    with pytest.raises(ConfigError, match='holds something else'):
        claim(tmp_path, settings()).__enter__()


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        (('--min-iou', '1.5'), '--min-iou is 1.5; it must be 0 to 1'),
        (('--workers', '-1'), '--workers is -1'),
        (
            ('--min-iou', '1', '--segmenter', 'grabcut', '--segmenter-model', 'x'),
            "no option 'model'",
        ),
    ],
)
def test_bad_options(
    refcoco: Path,
    tmp_path: Path,
    option: tuple[str, ...],
    words: str,
) -> None:
    assert words in refusal(refcoco, tmp_path / 'out', *option)
    assert not (tmp_path / 'out').exists()


class Command:
    """``prepare_data.py`` as a separate process, with one part for every sentence."""

    def __init__(self, root: Path, output: Path) -> None:
        self.output = output
        self.log = output.with_suffix('.log')
        script = str(ROOT / 'training/prepare_data.py')
        places = ['--root', str(root), '--output', str(output)]
        with self.log.open('a') as log:
            self.process = subprocess.Popen(
                [sys.executable, script, 'refcoco:train', *places, *SMALL, '--part', '1'],
                stdout=log,
                stderr=log,
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
            )

    def wait_for_parts(self, count: int) -> list[int]:
        """Wait for the first ``count`` parts; return the working processes."""
        while any(read_part(self.output, number) is None for number in range(count)):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        pids = (int(path.name) for path in Path('/proc').iterdir() if path.name.isdigit())
        return [pid for pid in pids if parent_of(pid) == self.process.pid and is_worker(pid)]

    def end(self) -> str:
        self.process.wait()
        return self.log.read_text()


def parent_of(pid: int) -> int:
    try:
        return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])
    except OSError:
        return -1


def is_worker(pid: int) -> bool:
    try:
        return b'spawn_main' in Path(f'/proc/{pid}/cmdline').read_bytes()
    except OSError:
        return False


def wait_until_gone(workers: list[int]) -> None:
    while any(is_worker(pid) for pid in workers):
        time.sleep(0.01)


class Gate:
    """An image that cannot be read to its end: the command waits there until it is killed."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self.content = image.read_bytes()
        image.unlink()
        os.mkfifo(image)

    def let_through(self) -> None:
        """Let the waiting process continue, as if the image were damaged."""
        self.image.open('wb').close()

    def remove(self) -> None:
        self.image.unlink()
        self.image.write_bytes(self.content)


def test_killed_and_started_again(refcoco: Path, tmp_path: Path) -> None:
    root, output = tmp_path / 'refer', tmp_path / 'out'
    shutil.copytree(refcoco, root)
    samples = read_samples('refcoco:train', root)
    pictures = root / 'images/mscoco/images/train2014'
    parts = [samples.image_ids.index(name) for name in dict.fromkeys(samples.image_ids)]
    files = {number: pictures / f'COCO_train2014_{samples.image_ids[number]:0>12}.jpg'
             for number in parts}  # fmt: skip

    gate = Gate(files[parts[2]])
    first = Command(root, output)
    workers = first.wait_for_parts(parts[2])
    os.kill(workers[0], signal.SIGKILL)
    wait_until_gone(workers)
    gate.let_through()
    assert 'a worker process died' in first.end()
    assert first.process.returncode == 2
    gate.remove()

    gate = Gate(files[parts[5]])
    second = Command(root, output)
    workers = second.wait_for_parts(parts[5])
    assert workers
    second.process.kill()
    second.process.wait()
    wait_until_gone(workers)  # they end by themselves
    gate.remove()

    (output / 'train/.part-00099.parquet.partial').write_bytes(b'half a row')
    finished = {path: path.stat().st_mtime_ns for path in (output / 'parts').glob('*.json')}
    assert len(finished) == parts[5] < len(samples)
    third = Command(root, output)
    assert f'{len(samples)} annotations' in third.end()
    assert third.process.returncode == 0

    notes = [read_part(output, number) for number in range(len(samples))]
    dropped = [row.id for note in notes for row in (note or PartReport({}, [])).dropped]
    assert sorted([row.id for row in rows(output / 'train')] + dropped) == sorted(
        row.id for row in samples
    )
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
    assert not list(output.rglob('*.partial'))


def test_folders_whose_names_are_not_utf8(tmp_path: Path) -> None:
    root, output = (tmp_path / os.fsdecode(name) for name in (b'set\xe9', b'out\xff'))
    make_synthetic_set.main(['refcoco', str(root), '--scenes', '3'])
    assert prepare(root, output) == 0
    assert len(read_dataset(str(output / 'train')).records) == len(rows(output / 'train')) > 0


@pytest.mark.parametrize('program', ['prepare_data.py', 'make_synthetic_set.py'])
@pytest.mark.parametrize('seconds', [0.0, 3.0])
def test_ctrl_c_at_a_terminal_is_one_line(
    refcoco: Path, tmp_path: Path, program: str, seconds: float
) -> None:
    """The signal goes to the whole group, so to the working processes too, at any time."""
    arguments = {
        'prepare_data.py': ['refcoco:train', '--root', refcoco, '--output', tmp_path / 'out'],
        'make_synthetic_set.py': ['refcoco', tmp_path / 'set', '--scenes', '100000'],
    }[program]
    script = Path(prepare_data.__file__).with_name(program)
    command = [sys.executable, script, *arguments]
    if program == 'prepare_data.py':
        command += [*SMALL, '--part', '1', '--workers', '2']
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not _handles_signals(process):
        time.sleep(0.002)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (130, 0), said  # 0 if all was done by then
    assert 'Traceback' not in said
    if process.returncode == 130 and '%' not in said:  # no progress bar yet
        assert said.count('\n') == 1


def _handles_signals(process: subprocess.Popen[str]) -> bool:
    status = Path(f'/proc/{process.pid}/status').read_text()
    caught = next(line for line in status.splitlines() if line.startswith('SigCgt'))
    return process.poll() is not None or bool(int(caught.split()[1], 16) & 1 << 14)
