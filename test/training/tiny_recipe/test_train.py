# SPDX-License-Identifier: Apache-2.0
"""The command that trains tiny models: its settings."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

from segzero_core.errors import ConfigError
from segzero_core.synthetic import KINDS
from training.tiny_recipe.train import read_settings

PRESET = Path(__file__).parents[3] / 'config' / 'tiny_recipe' / 'tiny_reasoner.yaml'


def test_the_preset_and_its_overrides_become_settings():
    preset = read_settings(PRESET, [])
    assert preset.output == Path('runs/tiny_reasoner')
    assert preset.phases[0].sentences == 0
    assert set(preset.phases[-1].kinds) == set(KINDS)
    changed = read_settings(PRESET, ['seed=3', 'output=elsewhere'])
    assert changed == dataclasses.replace(preset, seed=3, output=Path('elsewhere'))


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('scene=3', "Did you mean 'scenes'"),
        ('phases=[{stepz: 3}]', "Did you mean 'steps'"),
        ('phases=[{steps: 3}]', 'missing 3 required positional arguments'),
        ('phases=[]', 'phases is empty'),
        (
            'phases=[{steps: 1, scenes: 1, sentences: 1, learning_rate: 1, kinds: [x]}]',
            "kind .*'x'",
        ),
        ('scenes=many', "scenes must be of type int, got 'many'"),
        ('scenes=0', 'scenes must be at least 1, got 0'),
        ('seed=1.7', 'seed must be of type int, got 1.7'),
        ('seed=-1', 'seed must be at least 0, got -1'),
        ('dense_weight=.nan', 'dense_weight must be of type float, got nan'),
        ('seed=2024-13-45', 'the value of seed is no YAML: month must be'),
        ('phases=3', 'phases must be a list of mappings, got 3'),
        ('seed=[', 'the value of seed is no YAML'),
        ('seed', "'seed' is not of the form key=value"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        read_settings(PRESET, [override])


@pytest.mark.parametrize(
    'text', ['role: teacher', 'cache: x', '- role', 'method: warm_up', 'role: [reasoner]', '']
)
def test_a_file_without_a_role_is_refused(text, tmp_path):
    file = tmp_path / 'a.yaml'
    file.write_text(text)
    with pytest.raises(ConfigError, match='names no tiny model to train'):
        read_settings(file, [])
