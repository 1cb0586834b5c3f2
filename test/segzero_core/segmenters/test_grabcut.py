# SPDX-License-Identifier: Apache-2.0
"""The grabcut segmenter against exact masks, and on unsuitable prompts."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_core.errors import ImageError
from segzero_core.geometry import largest_inscribed_circles, mask_to_box
from segzero_core.metrics.masks import image_ious, overlap
from segzero_core.segmenters import load_segmenter
from segzero_core.segmenters.grabcut import GrabCutSegmenter
from segzero_core.synthetic import make_scene
from segzero_core.types import Box, Point


@pytest.fixture(scope='module')
def segmenter():
    return load_segmenter('grabcut')


def iou(found, truth):
    return float(image_ious([overlap(found, truth)])[0])


def prompts(mask):
    return mask_to_box(mask), [circle.center for circle in largest_inscribed_circles(mask)]


def two_discs(gap=0):
    """Two red discs side by side on grey; ``gap`` pixels between them."""
    image = np.full((120, 200, 3), 150, np.uint8)
    for x in (70 - gap, 130):
        cv2.circle(image, (x, 60), 28, (200, 40, 40), cv2.FILLED)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_exact_prompts_give_nearly_exact_masks(segmenter):
    ious = []
    for seed in range(8):
        scene = make_scene(seed)
        embedding = segmenter.embed(scene.image)
        for i in range(len(scene.objects)):
            result = segmenter.segment(embedding, *prompts(scene.mask(i)))
            assert result.mask.dtype == bool
            assert result.mask.shape == (480, 640)
            ious.append(iou(result.mask, scene.mask(i)))
    assert np.mean(ious) > 0.95
    assert min(ious) > 0.5


def test_points_alone_find_the_object(segmenter):
    ious = []
    for seed in range(6):
        scene = make_scene(seed)
        embedding = segmenter.embed(scene.image)
        for i in range(len(scene.objects)):
            _, points = prompts(scene.mask(i))
            ious.append(iou(segmenter.segment(embedding, None, points).mask, scene.mask(i)))
    assert np.mean(ious) > 0.75
    # Nothing can be learnt from a single colour: no mask, where a box would have been filled.
    flat = segmenter.embed(np.full((40, 40, 3), 90, np.uint8))
    assert not segmenter.segment(flat, None, [Point(20, 20)]).mask.all()


def test_sloppy_boxes_are_forgiven(segmenter):
    rng = np.random.default_rng(0)
    ious = []
    for seed in range(6):
        scene = make_scene(seed)
        embedding = segmenter.embed(scene.image)
        for i in range(len(scene.objects)):
            box, points = prompts(scene.mask(i))
            shift = 0.05 * np.array([box.x2 - box.x1, box.y2 - box.y1] * 2) * rng.uniform(-1, 1, 4)
            sloppy = Box(*np.clip(np.array(box) + shift, 0, (639, 479) * 2))
            ious.append(iou(segmenter.segment(embedding, sloppy, points).mask, scene.mask(i)))
    assert np.mean(ious) > 0.9


def test_the_hole_of_a_ring_stays_out(segmenter):
    scene = make_scene(3, shapes=('ring',), count=(2, 3), crowding=0)
    embedding = segmenter.embed(scene.image)
    for i in range(len(scene.objects)):
        box, points = prompts(scene.mask(i))
        assert iou(segmenter.segment(embedding, box, points).mask, scene.mask(i)) > 0.9


def test_only_pieces_with_a_point_are_kept(segmenter):
    image = two_discs(gap=12)
    embedding = segmenter.embed(image)
    both = Box(28, 30, 160, 90)
    left = segmenter.segment(embedding, both, [Point(58, 60)]).mask
    assert left[60, 58]
    assert not left[60, 130]
    either = segmenter.segment(embedding, both, [Point(58, 60), Point(130, 60)]).mask
    assert either[60, 58]
    assert either[60, 130]


def test_one_embedding_serves_many_prompts_and_survives_the_next(segmenter):
    first, second = make_scene(0), make_scene(1)
    embedding = segmenter.embed(first.image)
    prompt = prompts(first.mask(0))
    before = segmenter.segment(embedding, *prompt)
    segmenter.segment(segmenter.embed(second.image), *prompts(second.mask(0)))
    segmenter.segment(embedding, *prompts(first.mask(1)))
    after = segmenter.segment(embedding, *prompt)
    assert np.array_equal(before.mask, after.mask)
    assert before.score == after.score


def test_embedding_does_not_depend_on_the_callers_array(segmenter):
    image = two_discs(gap=12)
    embedding = segmenter.embed(image)
    prompt = Box(28, 30, 90, 90), [Point(58, 60)]
    before = segmenter.segment(embedding, *prompt).mask
    image[:] = 0
    assert np.array_equal(segmenter.segment(embedding, *prompt).mask, before)


def test_huge_images_come_back_at_their_own_size(segmenter):
    scene = make_scene(5)
    image = cv2.resize(scene.image, (2560, 1920), interpolation=cv2.INTER_CUBIC)
    truth = cv2.resize(scene.mask(0).astype(np.uint8), (2560, 1920)).astype(bool)
    result = segmenter.segment(segmenter.embed(image), *prompts(truth))
    assert result.mask.shape == (1920, 2560)
    assert iou(result.mask, truth) > 0.9


def test_the_score_tells_a_clear_object_from_an_invisible_one(segmenter):
    rng = np.random.default_rng(0)
    plain = np.clip(rng.normal(120, 4, (120, 160, 3)), 0, 255).astype(np.uint8)
    clear = plain.copy()
    clear[40:80, 50:110] = (40, 160, 60)
    prompt = Box(50, 40, 109, 79), [Point(80, 60)]
    assert segmenter.segment(segmenter.embed(clear), *prompt).score > 0.9
    assert segmenter.segment(segmenter.embed(plain), *prompt).score < 0.3


def test_a_box_over_everything_is_the_answer_when_there_is_nothing_to_compare(segmenter):
    image = np.full((30, 40, 3), 90, np.uint8)
    result = segmenter.segment(segmenter.embed(image), Box(0, 0, 39, 29), [])
    assert result.mask.all()
    assert result.score == 0


def test_bad_images_are_refused(segmenter):
    with pytest.raises(ImageError, match='float32'):
        segmenter.embed(np.zeros((4, 4, 3), np.float32))


@settings(max_examples=80)
@given(
    st.sampled_from([(1, 1), (1, 30), (30, 1), (5, 4), (40, 60)]),
    st.lists(st.floats(-5, 70), min_size=4, max_size=4),
    st.lists(st.tuples(st.floats(-5, 70), st.floats(-5, 70)), max_size=3),
    st.booleans(),
)
def test_no_prompt_breaks_it(shape, corners, points, noisy):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3)) if noisy else np.zeros((*shape, 3))
    segmenter = GrabCutSegmenter()
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    embedding = segmenter.embed(image.astype(np.uint8))
    result = segmenter.segment(embedding, Box(x1, y1, x2, y2), [Point(*p) for p in points])
    assert result.mask.shape == shape
    assert result.mask.dtype == bool
    assert 0 <= result.score <= 1
