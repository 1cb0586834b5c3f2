# SPDX-License-Identifier: Apache-2.0
"""The settings of an evaluation: flags, presets, and the folder of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.evaluate import main
from training.evaluation.options import make_config

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')

ROOT = Path(__file__).parents[3]
SCENES = 'synthetic:val?size=160x120&count=12'

Failure = Callable[[Callable[[list[str]], int], list[str]], str]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'no dataset is given: use --dataset'),
        (['--dataset', SCENES, '--prompt', 'box'], 'prompt is called segmenter_prompt now'),
        (['--dataset', '/nowhere'], 'no'),
        (['--dataset', SCENES, '--reasoner', 'rulez'], "Did you mean 'rules'"),
        (['--dataset', SCENES, '--batch-size', '0'], 'at least 1'),
        (
            ['--dataset', SCENES, '--config', 'config/evaluation/nope.yaml'],
            'cannot read the preset',
        ),
        (['--dataset', SCENES, '--reasoner-option', 'fast'], 'key=value'),
    ],
)
def test_settings_that_cannot_be_used(
    arguments: list[str], message: str, tmp_path: Path, failure: Failure
) -> None:
    error = failure(main, [*arguments, '--output', str(tmp_path)])
    assert message in error


@pytest.mark.parametrize(
    ('model', 'folder'),
    [
        ('', 'refcoco_testA-rules'),
        ('Ricky06662/Seg-Zero-7B', 'refcoco_testA-Seg-Zero-7B'),
        ('runs/rl_soft_3b/model', 'refcoco_testA-rl_soft_3b-model'),
        ('runs/rl_soft_3b/checkpoint-50', 'refcoco_testA-rl_soft_3b-checkpoint-50'),
    ],
)
def test_each_checkpoint_has_a_folder_of_its_own(model: str, folder: str) -> None:
    config = make_config(None, {'dataset': 'refcoco:testA', 'model': model})
    assert config.output == str(Path('runs', 'eval', folder))


def test_each_way_of_measuring_has_a_folder_of_its_own() -> None:
    ways: list[dict[str, Any]] = [
        {},
        {'level': 'expression'},
        {'answer': 'box'},
        {'segmenter_prompt': 'box'},
        {'think': 'no'},
        {'protocol': 'released'},
        {'limit': 5},
    ]
    configs = [make_config(None, {'dataset': 'refcoco:testA', **way}) for way in ways]
    assert len({config.output for config in configs}) == len(ways)
    assert configs[5].output == str(Path('runs', 'eval', 'refcoco_testA-rules-released'))


def test_a_preset_may_say_no_without_quotes(tmp_path: Path) -> None:
    (tmp_path / 'brief.yaml').write_text('think: no\nanswer: box\n')
    config = make_config(tmp_path / 'brief.yaml', {'dataset': SCENES})
    assert (config.answer, config.think) == ('box', 'no')


@pytest.mark.parametrize('preset', sorted((ROOT / 'config' / 'evaluation').glob('*.yaml')))
def test_presets_can_be_read(preset: Path) -> None:
    config = make_config(preset, {'dataset': SCENES})
    assert config != make_config(None, {'dataset': SCENES})
