# SPDX-License-Identifier: Apache-2.0
"""The overlay picture: marked pixels, unchanged pixels, and text of any length."""

import numpy as np
import pytest

from segzero_core.overlay import ACCENT, PANEL, draw_overlay
from segzero_core.types import Box, Point, Segmentation


def segmentation(height, width, reasoning='It is round.'):
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    box = Box(width // 4, height // 4, width // 2 - 1, height // 2 - 1)
    points = (Point(width * 0.3, height * 0.3), Point(width * 0.4, height * 0.4))
    return Segmentation(mask, 0.9, box, points, reasoning, 'raw')


def test_shows_the_object_as_it_is_dims_the_rest_and_leaves_the_input_alone():
    image = np.full((120, 160, 3), 100, np.uint8)
    before = image.copy()
    drawn = draw_overlay(image, segmentation(120, 160), 'the ball')
    assert (image == before).all()
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] > 120
    assert drawn.shape[1:] == (160, 3)
    assert (drawn[70:120] == 70).all()  # below the mask nothing is drawn
    assert (drawn[35, 66] == 100).all()  # on the mask, away from outline and points
    assert (drawn == ACCENT).all(axis=-1).any()


def test_the_sentence_and_the_reasoning_are_written_below():
    image = np.zeros((120, 160, 3), np.uint8)
    drawn = draw_overlay(image, segmentation(120, 160), 'the ball')
    silent = draw_overlay(image, segmentation(120, 160, reasoning=''), 'the ball')
    assert silent.shape[0] < drawn.shape[0]
    assert (silent[120:] != PANEL).any()


@pytest.mark.parametrize('size', [(1, 1), (3, 700), (1080, 1920)])
def test_any_size_and_any_words(size):
    words = 'ünïcödé ✓ 杯子 ' + 'verylongword' * 40 + ' and so on' * 200
    drawn = draw_overlay(np.zeros((*size, 3), np.uint8), segmentation(*size, words), words)
    assert drawn.shape[1] == size[1]


def test_reasoning_of_any_length_keeps_the_panel_bounded():
    image = np.zeros((120, 160, 3), np.uint8)
    long = draw_overlay(image, segmentation(120, 160, 'word ' * 100), 'it').shape
    longer = draw_overlay(image, segmentation(120, 160, 'word ' * 10_000), 'it').shape
    assert long == longer
