# SPDX-License-Identifier: Apache-2.0
"""Parameters: declarations, refusals, and reading."""

import inspect
import re
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.parameter import Parameter

from segzero_core.errors import ParameterError
from segzero_core.reasoners.openai import OpenAIReasoner
from segzero_ros.parameters import declare_parameters
from segzero_ros.settings import PARAMETERS, EngineSettings, conflicts, read_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def node(ros, request):
    given = getattr(request, 'param', {})
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = rclpy.create_node('parameters', parameter_overrides=overrides)
    declare_parameters(node, PARAMETERS, conflicts)
    yield node
    node.destroy_node()


def test_the_defaults_can_be_used(node):
    settings = read_settings(node)
    assert settings.reasoner == EngineSettings('rules', {})
    assert settings.segmenter == EngineSettings('grabcut', {})
    assert settings.codec == 'numpy'
    assert settings.slop is None
    assert settings.depth_range == (0.1, 10.0)
    assert settings.min_valid == 0.2
    assert not settings.rectified
    assert not settings.compressed
    assert not settings.reliable


def test_what_the_docs_change_in_the_parameter_file_fits_its_engine(node):
    settings = yaml.safe_load((ROOT / 'config' / 'segzero.yaml').read_text())
    values = settings['/**']['ros__parameters']
    (change,) = re.findall(
        r'```yaml\n(.*?)```', (ROOT / 'docs' / 'robot.md').read_text(), re.DOTALL
    )
    for group, changed in yaml.safe_load(change).items():
        values[group] |= changed
    given = {f'{group}.{name}': v for group, each in values.items() for name, v in each.items()}
    node.set_parameters([Parameter(name, value=value) for name, value in given.items()])
    found = read_settings(node).reasoner
    assert found.engine == 'openai'
    assert found.options.keys() <= inspect.signature(OpenAIReasoner).parameters.keys()


@pytest.mark.parametrize(
    ('node', 'wanted'),
    [
        ({}, {}),
        ({'reasoner.num_draft_tokens': -1}, {}),
        ({'reasoner.num_draft_tokens': 0}, {'num_draft_tokens': 0}),  # none, not the default
        ({'reasoner.num_draft_tokens': 4}, {'num_draft_tokens': 4}),
        ({'reasoner.max_new_tokens': 0, 'reasoner.timeout': 0.0}, {}),
    ],
    indirect=['node'],
)
def test_what_is_left_to_the_engine(node, wanted):
    assert read_settings(node).reasoner.options == wanted


@pytest.mark.parametrize(
    'node',
    [
        {
            'reasoner.engine': 'transformers',
            'reasoner.model': 'folder',
            'reasoner.max_new_tokens': 64,
            'reasoner.structured_output': True,
            'reasoner.gpu_memory_utilization': 0.5,
            'segmenter.device': 'cpu',
            'image.transport': 'compressed',
            'image.reliability': 'reliable',
            'depth.enabled': True,
            'depth.min': 1,  # a whole number is a number too
        }
    ],
    indirect=True,
)
def test_engines_get_the_options_that_are_set(node):
    settings = read_settings(node)
    options = {
        'model': 'folder',
        'max_new_tokens': 64,
        'structured_output': True,
        'gpu_memory_utilization': 0.5,
    }
    assert settings.reasoner == EngineSettings('transformers', options)
    assert settings.segmenter == EngineSettings('grabcut', {})  # which runs no model
    assert settings.compressed
    assert settings.reliable
    assert settings.slop == 0.02
    assert settings.depth_range == (1.0, 10.0)


@pytest.mark.parametrize(
    ('node', 'message'),
    [
        ({'reasoner.engine': 'rule'}, r"reasoner.engine must be one of .*'rules'.*, not 'rule'"),
        ({'segmenter.engine': ''}, "segmenter.engine must be one of .*'grabcut'"),
        ({'image.codec': 'magic'}, "image.codec must be one of 'cv_bridge', 'numpy', not 'magic'"),
        ({'image.transport': 3}, 'image.transport must be of type str, not 3'),
        ({'depth.enabled': 'yes'}, "depth.enabled must be of type bool, not 'yes'"),
        ({'depth.min': -1.0}, 'depth.min must be from 0 to 1000, not -1.0'),
        ({'depth.min_valid': 1.5}, 'depth.min_valid must be from 0 to 1, not 1.5'),
        ({'image.rectification': True}, 'image.rectification must be of type str, not True'),
        ({'depth.max': float('nan')}, 'depth.max must be from 0 to 1000, not nan'),
        ({'depth.max': True}, 'depth.max must be of type float, not True'),
        ({'depth.min': 5.0, 'depth.max': 5}, 'depth.min must be less than depth.max'),
        ({'reasoner.max_new_tokens': -1}, 'must be from 0 to 32768, not -1'),
        ({'reasoner.num_draft_tokens': -2}, 'must be from -1 to 64, not -2'),
        ({'depth.frame_mismatch': 'ignore'}, "must be one of 'refuse', 'warn', not 'ignore'"),
        ({'reasoner.max_new_tokens': 5.5}, 'must be of type int, not 5.5'),
        ({'image.codec': 'a', 'image.transport': 'b'}, 'image.transport .*; image.codec .*'),
    ],
    indirect=['node'],
)
def test_values_that_cannot_be_used(node, message):
    with pytest.raises(ParameterError, match=message):
        read_settings(node)


def test_a_running_node_refuses_them_at_once(node):
    (result,) = node.set_parameters([Parameter('image.codec', value='magic')])
    assert not result.successful
    assert result.reason == "image.codec must be one of 'cv_bridge', 'numpy', not 'magic'"
    (result,) = node.set_parameters([Parameter('image.codec', value='cv_bridge')])
    assert result.successful
    assert read_settings(node).codec == 'cv_bridge'


def test_autostart_cannot_be_changed_later(node):
    (result,) = node.set_parameters([Parameter('autostart', value=True)])
    assert not result.successful


def test_values_that_cannot_go_together_are_refused_at_once(node):
    (result,) = node.set_parameters([Parameter('depth.min', value=20.0)])
    assert result.reason == 'depth.min must be less than depth.max, not 20.0 and 10.0'
    pair = [Parameter('depth.max', value=30.0), Parameter('depth.min', value=20.0)]
    assert node.set_parameters_atomically(pair).successful
    assert read_settings(node).depth_range == (20.0, 30.0)


@pytest.mark.parametrize('node', [{'depth.min': 'near'}], indirect=True)
def test_what_was_wrong_from_the_start_can_be_put_right(node):
    (result,) = node.set_parameters([Parameter('depth.max', value=5.0)])
    assert result.successful
    (result,) = node.set_parameters([Parameter('depth.min', value=1.0)])
    assert result.successful
    assert read_settings(node).depth_range == (1.0, 5.0)


def test_what_has_been_read_cannot_change_and_says_why(ros):
    node = rclpy.create_node('settled')
    declare_parameters(node, PARAMETERS, settled=lambda: 'cannot change now')
    (result,) = node.set_parameters([Parameter('image.codec', value='cv_bridge')])
    assert not result.successful
    assert result.reason == 'image.codec cannot change now'
    (result,) = node.set_parameters([Parameter('image.codec', value='numpy')])
    assert result.successful  # as it was
    (result,) = node.set_parameters([Parameter('depth.min', value=0.5)])
    assert result.successful
    assert node.get_parameter('depth.min').value == 0.5
    node.destroy_node()


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('query.continous_rate', 'query.continuous_rate'),
        ('qeury.mode', 'query.mode'),
        ('qeury.timeout', 'query.timeout'),
        ('reasonner.model', 'reasoner.model'),
        ('images.codec', 'image.codec'),
        ('autostrat', 'autostart'),
        ('depth.foo', ''),
        ('arm.speed', ''),
    ],
)
def test_a_parameter_that_has_no_effect_is_warned_of(ros, capfd, name, meant):
    overrides = [
        Parameter(each, value=value)
        for each, value in {name: 1.0, 'use_sim_time': False, 'depth.min': 0.5}.items()
    ]
    node = rclpy.create_node('misspelled', parameter_overrides=overrides)
    declare_parameters(node, PARAMETERS, conflicts)
    node.destroy_node()
    lines = capfd.readouterr().err.splitlines()
    hint = f'. Did you mean {meant}?' if meant else ''
    assert [line[line.find('there is no') :] for line in lines] == [
        f'there is no parameter {name}; its value has no effect{hint}'
    ]


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('reasoner.drafts', 'reasoner.num_draft_tokens'),
        ('reasoner.compiled', 'reasoner.torch_compile'),
        ('segmenter.compiled', 'segmenter.torch_compile'),
        ('reasoner.guided', 'reasoner.structured_output'),
        ('reasoner.memory_share', 'reasoner.gpu_memory_utilization'),
    ],
)
def test_an_old_name_is_an_error_that_names_the_new_one(ros, old, new):
    node = rclpy.create_node('old', parameter_overrides=[Parameter(old, value=1)])
    with pytest.raises(ParameterError, match=f'the parameter {old} is called {new} now'):
        declare_parameters(node, PARAMETERS, conflicts)
    node.destroy_node()


@pytest.mark.parametrize('value', ['true', 1, 'yes'])
def test_a_parameter_that_is_read_at_once_is_checked_at_once(ros, value):
    overrides = [Parameter('autostart', value=value)]
    node = rclpy.create_node('early', parameter_overrides=overrides)
    with pytest.raises(ParameterError, match='autostart must be of type bool, not'):
        declare_parameters(node, PARAMETERS, conflicts)
    node.destroy_node()


@pytest.mark.parametrize(
    ('node', 'options'),
    [
        ({'reasoner.num_draft_tokens': 0}, {'num_draft_tokens': 0}),
        ({'reasoner.num_draft_tokens': -1}, {}),
        ({'reasoner.num_draft_tokens': 5}, {'num_draft_tokens': 5}),
        ({'reasoner.max_think_tokens': 0, 'reasoner.timeout': 0.0}, {}),
        ({'reasoner.answer': 'box'}, {'answer': 'box'}),
    ],
    indirect=['node'],
)
def test_options_that_are_off_differ_from_those_left_to_the_engine(node, options):
    assert read_settings(node).reasoner.options == options


@pytest.mark.parametrize(
    ('node', 'reasoner', 'segmenter'),
    [
        ({'reasoner.engine': 'transformers', 'segmenter.engine': 'sam2'}, True, True),
        ({'reasoner.engine': 'openai', 'segmenter.engine': 'sam2'}, False, True),
        ({'reasoner.engine': 'rules', 'segmenter.engine': 'grabcut'}, False, False),
    ],
    indirect=['node'],
)
def test_only_engines_that_run_a_model_get_the_device(node, reasoner, segmenter):
    both = [Parameter(f'{kind}.device', value='cpu') for kind in ('reasoner', 'segmenter')]
    node.set_parameters(both)
    settings = read_settings(node)
    assert ('device' in settings.reasoner.options) == reasoner
    assert ('device' in settings.segmenter.options) == segmenter


def test_the_defaults_that_the_descriptions_state_are_the_engines(node):
    server = inspect.signature(OpenAIReasoner).parameters
    source = (ROOT / 'segzero_core' / 'reasoners' / 'vllm.py').read_text()  # needs a GPU's vLLM
    (memory,) = re.findall(r'gpu_memory_utilization: float = ([\d.]+)', source)
    for name, default in [
        ('reasoner.url', server['url'].default),
        ('reasoner.timeout', f'{server["timeout"].default:g}'),
        ('reasoner.startup_timeout', f'{server["startup_timeout"].default:g}'),
        ('reasoner.gpu_memory_utilization', memory),
    ]:
        assert re.search(rf'\b(0|empty) is {re.escape(default)}', PARAMETERS[name].description)


@pytest.mark.parametrize('name', PARAMETERS)
def test_every_parameter_is_described(node, name):
    descriptor = node.describe_parameter(name)
    assert descriptor.description
    if PARAMETERS[name].choices:
        assert descriptor.additional_constraints.startswith('One of: ')


def test_other_parameters_are_not_our_business(node):
    (result,) = node.set_parameters([Parameter('use_sim_time', value=True)])
    assert result.successful


@pytest.mark.parametrize(
    ('topic', 'choice', 'rectified'),
    [
        ('/camera/image_raw', 'auto', False),
        ('/camera/color/image_rect_raw', 'auto', True),
        ('/camera/image_rect/compressed', 'auto', True),
        ('/rectory/image', 'auto', False),
        ('/image_rectifier/image_raw', 'auto', False),
        ('/image_rect/image_raw', 'auto', False),
        ('/camera/image_rect/image_raw/compressed', 'auto', False),
        ('/camera/image_rectangle', 'auto', False),
        ('/camera/image_rectifier', 'auto', False),
        ('/camera/not_image_rect', 'auto', False),
        ('/camera/image_rect_color', 'auto', True),
        ('/camera/image_rect_color/compressed', 'auto', True),
        ('/camera/image_rectified', 'auto', True),
        ('/image_rect', 'auto', True),
        ('/camera/image_rect', 'raw', False),
        ('/camera/image', 'rectified', True),
    ],
)
def test_the_topic_says_whether_images_are_rectified_unless_the_user_does(
    ros, topic, choice, rectified
):
    node = rclpy.create_node('remapped', cli_args=['--ros-args', '-r', f'image:={topic}'])
    declare_parameters(node, PARAMETERS, conflicts)
    node.set_parameters([Parameter('image.rectification', value=choice)])
    assert read_settings(node).rectified == rectified
    node.destroy_node()
