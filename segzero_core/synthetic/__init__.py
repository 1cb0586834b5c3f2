# SPDX-License-Identifier: Apache-2.0
"""Tabletop scenes with exact masks, depth, surfaces and sentences.

The scenes serve the demo, the tests and small trainings. All ground truth is exact, and the same
seed gives the same scene on every machine.
"""

from segzero_core.synthetic.layout import COLOURS
from segzero_core.synthetic.queries import KINDS, Kind, Query
from segzero_core.synthetic.scene import (
    VERSION,
    Scene,
    SceneObject,
    make_scene,
    noisy_depth,
)
from segzero_core.synthetic.shapes import SHAPES, SIZES
from segzero_core.synthetic.tabletops import TABLES

__all__ = [
    'COLOURS',
    'KINDS',
    'SHAPES',
    'SIZES',
    'TABLES',
    'VERSION',
    'Kind',
    'Query',
    'Scene',
    'SceneObject',
    'make_scene',
    'noisy_depth',
]
