# SPDX-License-Identifier: Apache-2.0
"""The benchmarks `flood` and `soak` in small: all they count must hold; times do not matter."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture
def figures(processes, domain, tmp_path):
    """Run a benchmark; return its figures."""

    def run(name, *arguments):
        report = tmp_path / 'figures.json'
        process = processes(str(BENCHMARKS / name), *arguments, '--json', str(report))
        output, _ = process.communicate(timeout=200)
        assert report.exists(), output
        return json.loads(report.read_text())

    return run


def test_a_flood_of_images_and_sentences(figures):
    found = figures('flood.py', '--seconds', '1', '--queries', '100')
    assert found['answered_once'] == found['queries'] == 100
    assert found['last'] == 'ok'
    assert found['statuses'] == {
        'ok': found['statuses']['ok'],
        'replaced': 100 - found['statuses']['ok'],
    }


def test_a_soak_with_every_planned_fault(figures):
    found = figures('soak.py', '--frames', '400', '--queries', '24')
    assert len(found['plan']) == 24
    assert found['frames'] >= 400
    assert found['broken_frames'] > 0
    assert all(found['outcomes'].values())  # every kind of sentence came, and ended
    # How old a frame may be depends on the machine.
    assert [each for each in found['failures'] if 'is about a frame' not in each] == []
