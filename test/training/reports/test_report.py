# SPDX-License-Identifier: Apache-2.0
"""Reports: measured figures in the right places, and pages that need no other files."""

from __future__ import annotations

import csv
import html.parser
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segzero_core.synthetic import make_scene
from training.evaluate import evaluate
from training.evaluation.merging import read_rows
from training.evaluation.options import make_config
from training.evaluation.shards import ProcessRank
from training.report import main, report
from training.reports.page import _choose
from training.reports.runs import known_name
from training.reports.tables import published

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')

SCRIPT = 'the <script>document.title = "run"</script> "cup" & Tässchen ☕'

Failure = Callable[[Callable[[list[str]], int], list[str]], str]


@pytest.fixture(scope='module')
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on six pictures called reasonseg_test, one without an answer."""
    data = tmp_path_factory.mktemp('data') / 'reasonseg_test'
    data.mkdir()
    rows = []
    for i in range(6):
        scene = make_scene(i)
        Image.fromarray(scene.image).save(data / f'{i}.png')
        Image.fromarray(scene.mask(0)).save(data / f'{i}_mask.png')
        query = SCRIPT if i == 0 else scene.queries()[0].text
        rows.append({'id': i, 'image': f'{i}.png', 'mask': f'{i}_mask.png', 'query': query})
    (data / 'records.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    folder = data.parent / 'run'
    evaluate(make_config(None, {'dataset': str(data), 'output': str(folder)}), ProcessRank())
    return folder


def variant(finished: Path, name: str, giou: float | None = None, **settings: Any) -> Path:
    """Return a copy of a run with other settings."""
    folder = Path(shutil.copytree(finished, finished.parent / name, dirs_exist_ok=True))
    summary = json.loads((folder / 'summary.json').read_text())
    summary['settings'] |= settings
    if giou is not None:
        summary['standard']['giou'] = {'value': giou, 'low': giou - 0.1, 'high': giou + 0.1}
    (folder / 'summary.json').write_text(json.dumps(summary))
    return folder


def table(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / f'{name}.csv').open(encoding='utf-8')))


def measured(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [
        (row['checkpoint'], row['reasonseg:test gIoU']) for row in rows if 'meas' in row['source']
    ]


# --- tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('dataset', 'name'),
    [
        ('Ricky06662/ReasonSeg_val', 'reasonseg:val'),
        ('/data/ReasonSeg_test', 'reasonseg:test'),
        ('refcoco:testA', 'refcoco:testA'),
        ('Ricky06662/refcocoplus_testA', 'refcoco+:testA'),
        ('Ricky06662/refcocog_test_all', 'refcocog:test_all'),
        ('synthetic:val?count=3', 'synthetic:val?count=3'),
    ],
)
def test_datasets_go_by_the_names_of_published_figures(dataset: str, name: str) -> None:
    assert known_name(dataset) == name


def test_every_expression_is_another_dataset() -> None:
    """Figures of expressions are some points higher and are not comparable with instances."""
    assert known_name('refcoco:val', 'expression') == 'refcoco:val_all'
    assert known_name('Ricky06662/refcoco_val_all', 'expression') == 'refcoco:val_all'
    assert known_name('refcoco:val', 'instance') == 'refcoco:val'
    assert known_name('chartqa:test', 'expression') == 'chartqa:test'


def test_published_tables_are_whole() -> None:
    tables = {entry['name']: entry for entry in published()}
    assert list(tables) == ['1', '2', '3', '4', '5', '6', '7', 'Figure 5']
    training = Path(__file__).parents[3] / 'config' / 'training'
    presets = {path.stem for path in training.glob('*.yaml')}
    for entry in tables.values():
        for row in entry['rows']:
            assert len(row['values']) == len(entry['columns']), row
            assert all(value is None or 10 < value < 100 for value in row['values']), row
            preset = row.get('preset', '')
            assert not preset or preset.startswith('Qwen') or preset in presets, preset
    seven = [row for row in tables['6']['rows'] if row['system'] == 'Seg-Zero-7B']
    assert seven[0]['values'] == [62.6, 62.0, 57.5, 52.0]


def test_a_run_stands_in_every_table_it_belongs_to(finished: Path, tmp_path: Path) -> None:
    runs = [finished, variant(finished, 'soft', 0.5, model='runs/rl_soft_3b/model')]
    report(runs, tmp_path, samples=0)
    for number in (1, 2, 3, 4):
        rows = table(tmp_path, f'table_{number}')
        assert measured(rows) == [('its result', '50.0 (40.0 to 60.0)')]
        place = next(i for i, row in enumerate(rows) if 'meas' in row['source'])
        assert rows[place - 1]['reasonseg:test gIoU'] == '53.8'  # below its published row
    assert not measured(table(tmp_path, 'table_5'))
    assert len(measured(table(tmp_path, 'table_6'))) == 2  # an open comparison takes all
    assert all('measured' not in row['source'] for row in table(tmp_path, 'table_7'))
    whole = table(tmp_path, 'measured')
    assert [row['rows'] for row in whole] == ['6', '6']
    assert whole[0]['dataset'] == 'reasonseg:test'
    text = (tmp_path / 'report.md').read_text(encoding='utf-8')
    assert '## Table 6: Reasoning segmentation, zero-shot' in text
    assert '| LISA-13B-LLaVA1.5 | the paper | published | 57.7 | 60.3 | 53.8 | 50.8 |' in text
    assert '| rules + grabcut | **measured** | the only one |' in text


def test_the_released_model_stands_below_its_published_row(finished: Path, tmp_path: Path) -> None:
    report([variant(finished, 'seg', model='Ricky06662/Seg-Zero-7B')], tmp_path, samples=0)
    systems = [row['system'] for row in table(tmp_path, 'table_6')]
    place = systems.index('Seg-Zero-7B')
    assert systems[place + 1] == 'Seg-Zero-7B + grabcut'
    assert systems.count('Seg-Zero-7B + grabcut') == 1


def test_last_checkpoint_and_best_of_k_are_told_apart(finished: Path, tmp_path: Path) -> None:
    runs = [
        variant(finished, f'at{i}', giou, model=f'runs/main_7b_n16/{name}')
        for i, (name, giou) in enumerate(
            [('checkpoint-100', 0.6), ('checkpoint-1000', 0.3), ('checkpoint-200', 0.7)]
        )
    ]
    report(runs, tmp_path, samples=0)
    assert measured(table(tmp_path, 'table_6')) == [
        ('last checkpoint (step 1000)', '30.0 (20.0 to 40.0)'),
        ('best of 3', '70.0 (60.0 to 80.0)'),
    ]
    report([*runs, variant(finished, 'final', 0.4, model='runs/main_7b_n16/model')], tmp_path, 0)
    assert measured(table(tmp_path, 'table_6'))[0] == (
        'last checkpoint (its result)',
        '40.0 (30.0 to 50.0)',
    )


def test_other_prompts_and_protocols_are_other_systems(finished: Path, tmp_path: Path) -> None:
    runs = [
        finished,
        variant(finished, 'box', segmenter_prompt='box'),
        variant(finished, 'released', protocol='released'),
    ]
    report(runs, tmp_path, samples=0)
    systems = [row['system'] for row in table(tmp_path, 'measured')]
    assert systems == [
        'rules + grabcut',
        'rules + grabcut, prompted with box',
        'rules + grabcut, protocol released',
    ]


@pytest.mark.parametrize('what', ['unfinished', 'nothing', 'twice', 'dataset'])
def test_what_cannot_be_reported(
    finished: Path, tmp_path: Path, what: str, failure: Failure
) -> None:
    runs, message = [finished], ''
    if what == 'unfinished':
        runs, message = [variant(finished, 'cut')], 'holds no finished evaluation'
        (runs[0] / 'summary.json').unlink()
    elif what == 'nothing':
        runs, message = [tmp_path], 'holds no finished evaluation'
    elif what == 'twice':
        runs, message = [finished, variant(finished, 'again')], 'measured the same'
    else:
        moved = variant(finished, 'moved', dataset='/nowhere')
        runs, message = [moved], f"no page of {moved}: unknown dataset '/nowhere'"
    error = failure(main, [*map(str, runs), '--output', str(tmp_path / 'out')])
    assert message in error
    assert not (tmp_path / 'out').exists()


# --- pages ------------------------------------------------------------------------------------


class Texts(html.parser.HTMLParser):
    """Collects what a page holds."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words = ''
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or '' for name, value in attrs if name in ('src', 'href')]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope='module')
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('report')
    assert main([str(finished), '--output', str(folder), '--samples', '4']) == 0
    return folder / 'run.html'


def test_a_page_shows_worst_and_best_and_needs_nothing_else(page: Path, finished: Path) -> None:
    found = Texts(page.read_text(encoding='utf-8'))
    assert 'script' not in found.tags
    summary = json.loads((finished / 'summary.json').read_text())
    giou = summary['standard']['giou']
    assert f'gIoU{100 * giou["value"]:.1f} ({100 * giou["low"]:.1f} to' in found.words
    assert SCRIPT.replace('<', '< ') in found.words  # what check_query made of it, as it was asked
    assert found.tags.count('article') == 6  # 4 of 6, and the other 2
    assert all(source.startswith('data:image/jpeg;base64,') for source in found.sources)
    rows = list(read_rows(finished))
    answered = [row for row in rows if row['mask']]
    assert len(found.sources) == 2 * len(rows) + len(answered)
    worst = min(rows, key=lambda row: row['intersection'] / row['union'])
    first = found.words[found.words.index('Worst') :]
    assert first.index(worst['query']) < 20
    assert answered[-1]['reasoning'] in found.words


def test_a_page_shows_whatever_a_model_wrote(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / 'run')
    rows = list(read_rows(copy))
    row = next(row for row in rows if row['mask'])
    row |= {'box': [-5e9, 0.0, 9e306, 5.0], 'points': [[1e20, 3.0]], 'text': 'half \ud83c'}
    (copy / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    assert main([str(copy), '--output', str(tmp_path), '--samples', '9']) == 0
    assert 'half \\ud83c' in (tmp_path / 'run.html').read_text(encoding='utf-8')


def test_the_worst_are_of_many_images() -> None:
    images = list('aaaabbc')
    assert _choose(range(7), images, 3) == [0, 4, 6]
    assert _choose(range(7), images, 5) == [0, 1, 4, 5, 6]
    assert _choose(range(7), images, 9) == list(range(7))
    assert _choose([6, 1, 0], images, 2) == [6, 1]


def test_pages_open_in_a_browser(page: Path, tmp_path: Path) -> None:
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    if not browser:
        pytest.skip('needs a browser: apt install chromium')
    picture = tmp_path / 'page.png'
    command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage']
    command += [f'--user-data-dir={tmp_path / "profile"}', '--window-size=1400,1200']
    done = subprocess.run(
        [*command, f'--screenshot={picture}', '--dump-dom', page.as_uri()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (
        '<title>reasonseg:test: rules + grabcut</title>' in done.stdout
    )  # the script did not run
    shown = np.asarray(Image.open(picture).convert('RGB')).astype(int)
    # Tabletops are brownish, the page is not: its pictures are there.
    coloured = (shown.max(axis=2) - shown.min(axis=2) > 30).mean()
    assert coloured > 0.02
