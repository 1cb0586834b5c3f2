# SPDX-License-Identifier: Apache-2.0
"""Engines by name: accepted options, and errors for wrong names or options."""

import importlib
import inspect
import subprocess
import sys

import pytest

from segzero_core import load_reasoner, load_segmenter
from segzero_core.errors import EngineOptionError, ModelLoadError, UnknownNameError
from segzero_core.reasoners import REASONERS
from segzero_core.registry import EngineEntry, create_engine, look_up
from segzero_core.segmenters import SEGMENTERS


def test_unknown_name_suggests_the_nearest_and_lists_all():
    with pytest.raises(UnknownNameError, match=r"'grabcat'.*mean 'grabcut'.*grabcut, sam2"):
        load_segmenter('grabcat')


def test_unlike_name_gets_no_suggestion():
    with pytest.raises(UnknownNameError, match=r"unknown colour 'xyzzy'\. Available: blue, red"):
        look_up('colour', 'xyzzy', ['red', 'blue'])


def test_option_the_engine_does_not_take_names_those_it_takes():
    with pytest.raises(EngineOptionError, match=r"'rules' has no option 'model'.*takes: .*family"):
        load_reasoner('rules', model='some/model')


def test_empty_options_are_left_to_the_engine():
    reasoner = load_reasoner('rules', model='', device=None, family='')
    assert reasoner.task.family.name


@pytest.mark.parametrize('name', [*REASONERS, *SEGMENTERS])
def test_the_registry_knows_which_engines_choose_their_device(name):
    entry = {**REASONERS, **SEGMENTERS}[name]
    module, class_name = entry.path.split(':')
    if name not in ('rules', 'openai', 'grabcut'):
        pytest.importorskip(module, reason=f'needs requirements/{entry.requirements}.txt')
    engine = getattr(importlib.import_module(module), class_name)
    assert entry.has_device == ('device' in inspect.signature(engine).parameters)


def test_missing_library_names_the_requirements_file():
    registry = {'absent': EngineEntry('no_such_library_anywhere:EngineEntry', 'sam2')}
    with pytest.raises(ModelLoadError, match=r'no_such_library_anywhere.*requirements/sam2\.txt'):
        create_engine('segmenter', registry, 'absent', {})


def test_importing_segzero_needs_no_heavy_library():
    code = (
        'import sys, segzero_core, segzero_core.__main__\n'
        'heavy = {"torch", "transformers", "rclpy", "sam2", "vllm"} & set(sys.modules)\n'
        'sys.exit(f"imported {heavy}" if heavy else 0)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
