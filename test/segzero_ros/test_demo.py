# SPDX-License-Identifier: Apache-2.0
"""The engines of `make demo` find the objects of its sentences."""

from __future__ import annotations

import pytest
import yaml

pytest.importorskip('rclpy', reason='needs rclpy: make demo installs it, or source ROS 2')

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.metrics.masks import giou, overlap
from segzero_core.synthetic import make_scene
from segzero_ros.demo import CONFIGS, choose_queries
from segzero_ros.paths import config_file
from segzero_ros.sim_camera import SEED


@pytest.mark.parametrize('name', CONFIGS)
def test_every_sentence_finds_its_object(name: str) -> None:
    if name == 'tiny':
        pytest.importorskip('transformers', reason='needs transformers: requirements/models.txt')
    text = config_file(CONFIGS[name]).read_text(encoding='utf-8')
    parameters = yaml.safe_load(text)['/**/segzero']['ros__parameters']
    reasoner, segmenter = (dict(parameters[part]) for part in ('reasoner', 'segmenter'))
    scene = make_scene(SEED)
    with SegZero(
        load_reasoner(reasoner.pop('engine'), **reasoner),
        load_segmenter(segmenter.pop('engine'), **segmenter),
    ) as segzero:
        for query in choose_queries(scene):
            found = segzero(scene.image, query.text)
            assert giou([overlap(found.mask, scene.mask(query.target))]) > 0.5, query.text
