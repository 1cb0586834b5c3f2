# SPDX-License-Identifier: Apache-2.0
"""The configuration: inheritance, types, and what the presets say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from segzero_core.errors import ConfigError
from training.config import TrainConfig, load_config, save_config

PRESETS = Path(__file__).parents[2] / 'config' / 'training'


def write(folder: Path, text: str, name: str = 'run.yaml') -> Path:
    path = folder / name
    path.write_text(text)
    return path


def preset(name: str) -> TrainConfig:
    return load_config(PRESETS / f'{name}.yaml')


@pytest.mark.parametrize('path', sorted(PRESETS.glob('*.yaml')), ids=lambda path: path.stem)
def test_every_preset_loads(path: Path) -> None:
    assert load_config(path).output == f'runs/{path.stem}'


def test_released_recipe() -> None:
    # dvlab-research/Seg-Zero at 77f9ea5: training_scripts/seg_zero_3b.yaml and its script.
    config = preset('released_2k')
    assert config.data == 'Ricky06662/refCOCOg_2k_840'
    assert (config.reward_mode, config.answer_format) == ('released', 'strict')
    assert (config.batch_size, config.num_generations, config.micro_batch) == (16, 8, 1)
    assert (config.learning_rate, config.schedule, config.weight_decay) == (1e-6, 'constant', 0.01)
    assert (config.beta, config.epsilon, config.entropy) == (5e-3, 0.2, 1e-3)
    assert (config.max_completion_tokens, config.temperature, config.loss) == (1300, 1.0, 'grpo')
    assert config.recipe.rewards == (
        'think_format',
        'answer_format',
        'box_iou',
        'box_l1',
        'point_l1',
    )


@pytest.mark.parametrize(
    ('name', 'rewards'),
    [
        ('rl_nocot_3b', ('answer_format', 'box_iou', 'box_l1', 'point_l1')),
        ('rl_points_3b', ('think_format', 'answer_format', 'point_l1')),
        ('rl_bbox_3b', ('think_format', 'answer_format', 'box_iou', 'box_l1')),
    ],
)
def test_one_switch_changes_the_rewards(name: str, rewards: tuple[str, ...]) -> None:
    assert preset(name).recipe.rewards == rewards


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('tiny_imitation', {'method': 'sft'}),
        ('tiny_nocot', {'think': False}),
        ('tiny_bbox', {'answer': 'box'}),
        ('tiny_points', {'answer': 'points'}),
        ('tiny_softacc', {'accuracy': 'soft'}),
        ('tiny_soft', {'answer_format': 'soft'}),
    ],
)
def test_a_row_in_miniature_changes_one_thing(name: str, change: dict[str, Any]) -> None:
    common = dataclasses.replace(preset('tiny_grpo'), output=f'runs/{name}')
    assert preset(name) == dataclasses.replace(common, **change)


def test_rows_in_miniature_fit_their_micro_batches() -> None:
    for name in ('tiny_grpo', 'tiny_imitation'):
        config = preset(name)
        copies = config.num_generations if config.method == 'grpo' else 1
        assert config.batch_size * copies % config.micro_batch == 0


def test_grandchildren_inherit() -> None:
    config = preset('main_7b_n16')
    assert config.model == 'Qwen/Qwen2.5-VL-7B-Instruct'
    assert config.num_generations == 16
    assert config.answer_format == 'strict'
    assert config.beta == 5e-3


def test_overrides_win_and_a_saved_run_repeats_itself(tmp_path: Path) -> None:
    config = load_config(
        PRESETS / 'base.yaml',
        ['learning_rate=2e-6', 'think=false', 'extra_rewards=[length]', 'output=x'],
    )
    assert (config.learning_rate, config.think, config.extra_rewards) == (2e-6, False, ('length',))
    save_config(config, tmp_path / 'config.yaml')
    assert load_config(tmp_path / 'config.yaml') == config


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('learning_rat=1', "unknown setting 'learning_rat'.*Did you mean 'learning_rate'?"),
        ('answer=mask', 'answer must be one of box_points, box, points'),
        ('batch_size=many', "batch_size must be a whole number, got 'many'"),
        ('think=1', 'think must be true or false, got 1'),
        ('beta=[1]', 'beta must be a number'),
        ('batch_size=0', 'batch_size must be at least 1, got 0'),
        ('eval_limit=-1', 'eval_limit must be at least 0, got -1'),
        ('seed=-1', 'seed must be at least 0, got -1'),
        ('seed=4294967296', 'seed must be at most 4294967295, got 4294967296'),
        pytest.param('beta=1' + '0' * 400, 'beta must be a number', id='beta=1e400'),
        ('lora_dropout=1.5', 'lora_dropout must be at most 1, got 1.5'),
        ('epsilon_high=-1', 'epsilon_high must be at least 0, got -1'),
        ('output=2024-11-21', r'output must be text \(in quotes\)'),
        ('output=2024-13-45', 'the value of output is no YAML: month must be'),
        ('epochs=-1', 'epochs must be above 0, got -1'),
        ('temperature=0', 'temperature must be above 0, got 0'),
        ('learning_rate=.nan', 'learning_rate must be a number, got nan'),
        ('batch_size', "'batch_size' is not of the form key=value"),
        ('num_generations=1', 'num_generations must be at least 2'),
        ('extra_rewards=[lenght]', "unknown extra reward 'lenght'"),
        ('extra_rewards=[length, length]', 'extra_rewards names one twice'),
        ('extra_rewards=[mask_iou]', 'the reward mask_iou needs a segmenter'),
        ('model=', 'model is not set'),
    ],
)
def test_bad_setting_is_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(PRESETS / 'base.yaml', [override])


def test_an_empty_output_is_the_folder_named_after_the_file() -> None:
    for nothing in ('output=', "output=''"):
        assert load_config(PRESETS / 'rl_soft_3b.yaml', [nothing]).output == 'runs/rl_soft_3b'


def test_bad_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'model: a\ndata: b\nbatchsize: 3\n')
    with pytest.raises(ConfigError, match=r"'batchsize' in run.yaml. Did you mean 'batch_size'"):
        load_config(path)


def test_missing_preset_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r'Did you mean rl_soft_3b\.yaml'):
        load_config(PRESETS / 'rl_sotf_3b.yaml')


@pytest.mark.parametrize('text', ['method: warm_up', 'method: masks', 'role: reasoner'])
def test_the_recipe_of_tiny_models_has_a_command_of_its_own(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r'use training/tiny_recipe/train\.py'):
        load_config(write(tmp_path, text))


def test_circle_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 'base: b.yaml\n', 'a.yaml')
    with pytest.raises(ConfigError, match='inherits from itself'):
        load_config(write(tmp_path, 'base: a.yaml\n', 'b.yaml'))


@pytest.mark.parametrize('path', sorted(PRESETS.glob('*.yaml')), ids=lambda path: path.stem)
def test_a_preset_shows_only_what_differs_from_what_it_inherits(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    base = values.pop('base', None)
    if base:
        inherited = dataclasses.asdict(load_config(path.parent / base))
    else:
        inherited = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    here = dataclasses.asdict(load_config(path))
    repeated = [key for key in values if here[key] == inherited[key]]
    assert repeated == []


def test_a_setting_by_its_old_name_is_an_error_that_names_the_new_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'vllm_memory in run.yaml is called vllm_gpu_memory_u'):
        load_config(write(tmp_path, 'model: a\ndata: b\nvllm_memory: 0.5\n'))
    with pytest.raises(ConfigError, match='vllm_memory in the command line is called vllm_gpu'):
        load_config(PRESETS / 'base.yaml', ['vllm_memory=0.5'])
