# SPDX-License-Identifier: Apache-2.0
"""The way docs/data.md describes: dataset, training set, training, measuring, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segzero_core.data import Sample, read_samples
from training import evaluate, make_synthetic_set, prepare_data, report

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')
pytest.importorskip('datasets', reason='needs datasets: requirements/train.txt')

CONFIG = """\
method: sft
think: false
image_size: 56
batch_size: 4
micro_batch: 4
max_steps: 2
learning_rate: 1e-3
save_steps: 2
gradient_checkpointing: false
"""


@pytest.fixture(scope='module')
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Root folders of synthetic scenes in both layouts."""
    roots = {layout: tmp_path_factory.mktemp(layout) for layout in ('refcoco', 'reasonseg')}
    for layout, root in roots.items():
        size = ['--scenes', '10', '--width', '128', '--height', '96']
        assert make_synthetic_set.main([layout, str(root), *size]) == 0
    return roots


@pytest.fixture(scope='module')
def prepared(datasets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp('walk') / 'prepared'
    arguments = ['refcoco:train', '--root', str(datasets['refcoco']), '--output', str(output)]
    assert prepare_data.main([*arguments, '--size', '56', '--workers', '1']) == 0
    return output


def measure(output: Path, name: str, root: Path, *options: str) -> dict[str, Any]:
    arguments = ['--dataset', name, '--root', str(root), '--segmenter', 'grabcut']
    assert evaluate.main([*arguments, '--output', str(output), *options]) == 0
    summary: dict[str, Any] = json.loads((output / 'summary.json').read_text())
    return summary


def check_rows(output: Path, name: str, root: Path, limit: int = 0) -> None:
    """Every sample has one row, with its truth counted exactly."""
    rows = [json.loads(line) for line in (output / 'rows.jsonl').read_text().splitlines()]
    samples = [row for row in read_samples(name, root, limit=limit) if isinstance(row, Sample)]
    assert [row['id'] for row in rows] == [sample.id for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        assert sample.truth is not None
        assert row['truth'] == sample.truth.area
        ignored = sample.ignore.area if sample.ignore else 0
        assert row['released'][2] == sample.truth.area + ignored


def test_from_a_dataset_to_figures(
    trl: None,
    datasets: dict[str, Path],
    prepared: Path,
    tiny_reasoner_dir: Path,
    start_training: Any,
    tmp_path: Path,
) -> None:
    config = tmp_path / 'short.yaml'
    config.write_text(f'{CONFIG}model: {tiny_reasoner_dir}\ndata: {prepared / "train"}\n')
    training = start_training(config, tmp_path / 'run')
    assert 'the model is in' in training.finish()
    model = str(tmp_path / 'run/model')
    short = ['--limit', '8', '--max-new-tokens', '8']  # it knows nothing yet
    for name, layout in (('refcoco:testA', 'refcoco'), ('reasonseg:val', 'reasonseg')):
        output = tmp_path / layout
        summary = measure(output, name, datasets[layout], *short, '--model', model)
        assert summary['rows'] == len(read_samples(name, datasets[layout], limit=8))
        check_rows(output, name, datasets[layout], limit=8)
    runs = [str(tmp_path / layout) for layout in datasets]
    assert report.main([*runs, '--output', str(tmp_path / 'report')]) == 0
    tables = (tmp_path / 'report/report.md').read_text()
    assert 'refcoco:testA' in tables
    assert 'reasonseg:val' in tables
    for layout in datasets:
        assert '<img' in (tmp_path / f'report/{layout}.html').read_text()


@pytest.mark.parametrize(
    ('name', 'layout'), [('refcoco:val', 'refcoco'), ('reasonseg:test', 'reasonseg')]
)
def test_rules_find_most_of_it(
    datasets: dict[str, Path], tmp_path: Path, name: str, layout: str
) -> None:
    """A figure far from zero: truth, image and answer are of the same thing."""
    summary = measure(tmp_path, name, datasets[layout], '--reasoner', 'rules')
    assert summary['standard']['giou']['value'] > 0.3
    check_rows(tmp_path, name, datasets[layout])
