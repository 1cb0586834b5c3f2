# SPDX-License-Identifier: Apache-2.0
"""Every fault gives one clear message, and no good data is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero_core.errors import SegZeroError
from segzero_core.runtime.program import one_line
from training.files import claimed
from training.tiny_recipe.train import main as tiny_recipe
from training.train import main


def fails(config: Path, *overrides: str, command: Callable[[list[str]], int] = main) -> str:
    """Run the command line, which must end with an error; return the line it says."""
    with pytest.raises((SegZeroError, OSError)) as caught:
        command(['--config', str(config), *overrides])
    return one_line(caught.value)


def make_folder(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir()
    Image.fromarray(np.zeros((56, 56, 3), np.uint8)).save(folder / 'a.png')
    (folder / 'broken.png').write_bytes((folder / 'a.png').read_bytes()[:-20])
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / 'records.jsonl').write_text(text)
    return folder


Limit = Callable[[int], AbstractContextManager[None]]

GOOD = {'image': 'a.png', 'query': 'it', 'box': [1, 2, 30, 40], 'points': [[5, 5], [9, 9]]}

SFT = ('method=sft', 'micro_batch=2')


def test_missing_dataset(short_grpo: Path) -> None:
    assert "no such dataset folder: './nowhere'" in fails(short_grpo, 'data=./nowhere')


def test_wrong_column(short_grpo: Path, tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_dict({'id': ['1'], 'question': ['?'], 'solution': ['']})
    (tmp_path / 'data').mkdir()
    table.to_parquet(tmp_path / 'data' / 'train.parquet')
    message = fails(short_grpo, f'data={tmp_path / "data"}')
    assert "has no column 'problem'" in message
    assert 'has id, question, solution' in message


def test_no_usable_row_names_the_first(short_grpo: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / 'data', [{**GOOD, 'id': 'seven', 'image': 'broken.png'}])
    message = fails(short_grpo, f'data={data}')
    assert 'no usable row among 1: seven: ' in message
    assert 'broken.png cannot be read as an image' in message


def test_bad_rows_are_reported_and_left_out(
    short_grpo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solution = '[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}, {"bbox_2d": [5, 5, 9, 9], '
    rows = [
        {**GOOD, 'id': 'good'},
        {**GOOD, 'id': 'damaged', 'image': 'broken.png'},
        {**GOOD, 'id': 'reversed', 'box': [30, 2, 1, 40]},
        {
            'id': 'two',
            'image': 'a.png',
            'query': 'x',
            'solution': solution + '"point_2d": [6, 6]}]',
        },
    ]
    data = make_folder(tmp_path / 'data', rows)
    output = tmp_path / 'run'
    # It stops at the split into micro-batches, long after the data was read.
    fails(short_grpo, f'data={data}', f'output={output}', 'micro_batch=3')
    errors = capsys.readouterr().err
    assert 'row damaged left out: ' in errors
    assert 'row reversed left out: the box [30.0, 2.0, 1.0, 40.0] has no area' in errors
    assert 'row two left out: means 2 objects' in errors
    assert '3 of 4 rows' in errors


def test_micro_batch_that_does_not_divide(short_grpo: Path, tmp_path: Path) -> None:
    message = fails(short_grpo, 'micro_batch=3', f'output={tmp_path / "run"}')
    assert 'batch_size (2) x num_generations (4) = 8 sequences per step' in message
    assert 'micro_batch can be 1, 2, 4, 8' in message


def test_rollouts_without_vllm(short_grpo: Path, tmp_path: Path) -> None:
    pytest.importorskip('trl')
    try:
        import vllm  # noqa: F401
    except ImportError:
        message = fails(short_grpo, 'rollouts=vllm_colocate', f'output={tmp_path / "run"}')
        assert 'needs vLLM' in message
        assert 'use rollouts=transformers' in message
    else:
        pytest.skip('vLLM is installed')


def test_thinking_that_is_not_in_the_data(short_grpo: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / 'data', [{**GOOD, 'id': 'good'}])
    message = fails(short_grpo, *SFT, f'data={data}', f'output={tmp_path / "run"}')
    assert "row 'good' has no reasoning to learn from: set think=false" in message


def test_rows_a_training_cannot_use_are_left_out_before_it_begins(
    short_grpo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = Image.new('L', (56, 56))
    mask.paste(1, (0, 0, 31, 41))
    mask.save(tmp_path / 'mask.png')
    rows = [
        {**GOOD, 'id': 'plain'},
        {**GOOD, 'id': 'thought', 'reasoning': 'It is that one.'},
        {**GOOD, 'id': 'masked', 'mask': '../mask.png'},
    ]
    data = make_folder(tmp_path / 'data', rows)
    masks = ('method=grpo', 'extra_rewards=[mask_iou]', 'segmenter=grabcut')
    for method, kept, word in ((SFT, 'thought', 'reasoning'), (masks, 'masked', 'mask_iou')):
        settings = [*method, f'data={data}', f'output={tmp_path / kept}', 'micro_batch=3']
        message = fails(short_grpo, *settings)  # 3 does not divide
        errors = capsys.readouterr().err
        left_out = [line for line in errors.splitlines() if ' left out: has no ' in line]
        assert [line.split()[1] for line in left_out] == [
            name for name in ('plain', 'thought', 'masked') if name != kept
        ]
        assert all(word in line for line in left_out)
        assert 'cannot be split into micro-batches' in message


@pytest.mark.parametrize('method', [('method=grpo',), SFT], ids=['grpo', 'sft'])
def test_not_a_number_stops_and_names_step_and_rows(
    short_grpo: Path, tmp_path: Path, method: tuple[str, ...]
) -> None:
    run = tmp_path / 'run'
    settings = [*method, f'output={run}', 'save_steps=1', 'beta=0', 'entropy=0.1']
    message = fails(short_grpo, *settings, 'learning_rate=1e38', 'max_steps=3')
    assert 'became nan at step 2, in the batch of rows train/' in message
    assert f'{run / "checkpoint-1"} is good' in message
    assert (run / 'checkpoint-1' / 'model.safetensors').is_file()
    assert not (run / 'checkpoint-2').exists()


def test_full_disk_keeps_the_last_good_checkpoint(
    short_grpo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], limited_files: Limit
) -> None:
    run = tmp_path / 'run'
    settings = [*SFT, f'output={run}', 'save_steps=1']
    assert main(['--config', str(short_grpo), *settings, 'max_steps=1']) == 0
    capsys.readouterr()
    shutil.copytree(run / 'checkpoint-1', run / 'checkpoint-1.bak')  # a person's copy
    with limited_files(2**20):
        message = fails(short_grpo, *settings, 'max_steps=2')
    assert f'cannot save the checkpoint of step 2 to {run}' in message
    assert f'The last good checkpoint is {run / "checkpoint-1"}' in message
    names = {'checkpoint-1', 'checkpoint-1.bak'}
    assert {path.name for path in run.glob('checkpoint*')} == names
    # With free space the same command continues.
    assert main(['--config', str(short_grpo), *settings, 'max_steps=2']) == 0
    assert (run / 'checkpoint-2').is_dir()


def test_full_disk_keeps_what_was_measured(
    short_grpo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], limited_files: Limit
) -> None:
    run = tmp_path / 'run'
    settings = [*SFT, f'output={run}', 'save_steps=1', 'max_steps=1']
    assert main(['--config', str(short_grpo), *settings]) == 0
    capsys.readouterr()
    before = [(run / name).read_text() for name in ('config.yaml', 'metrics.jsonl')]
    for size in (100, len(before[0]) + 1):  # refused the settings, then the metrics
        with limited_files(size):
            message = fails(short_grpo, *settings)
        assert str(run) in message
        assert [(run / name).read_text() for name in ('config.yaml', 'metrics.jsonl')] == before


def test_answers_that_never_parse_are_reported(
    short_grpo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ['max_steps=10', f'output={tmp_path / "run"}', 'max_completion_tokens=2']
    assert main(['--config', str(short_grpo), *settings, 'save_steps=100', 'sample_steps=0']) == 0
    printed = capsys.readouterr().out
    assert printed.count('not one answer of the last 10 steps could be read') == 1


def test_a_run_has_one_process(short_grpo: Path, tmp_path: Path) -> None:
    run = tmp_path / 'run'
    scratch = tmp_path / 'scratch.yaml'
    scratch.write_text(f'role: reasoner\ncache: {tmp_path}\n')
    with claimed(run):
        for config, command in ((short_grpo, main), (scratch, tiny_recipe)):
            message = fails(config, f'output={run}', command=command)
            assert f'another process is at work in {run}: wait for it' in message
    assert [path.name for path in run.iterdir()] == ['.lock']


def test_other_settings_are_not_mixed_into_a_run(short_grpo: Path, tmp_path: Path) -> None:
    run = tmp_path / 'run'
    (run / 'checkpoint-2').mkdir(parents=True)
    text = short_grpo.read_text()
    (run / 'config.yaml').write_text(text + f'output: {run}\n')
    elsewhere = 'vllm_url=http://other:8000'
    message = fails(short_grpo, f'output={run}', 'beta=0.5', elsewhere)
    assert 'holds a run with other settings: beta (0.005, now 0.5). Start' in message
