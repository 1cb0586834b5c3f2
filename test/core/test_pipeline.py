# SPDX-License-Identifier: Apache-2.0
"""The pipeline on real engines, and on small ones that fail, wait or watch."""

import threading

import numpy as np
import pytest

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.answer import Answer, format_answer
from segzero_core.errors import AnswerError, CancelledError, ImageError, QueryError
from segzero_core.prompts import get_family
from segzero_core.segmenters import MaskResult
from segzero_core.synthetic import make_scene
from segzero_core.types import Box, Point, Size

IMAGE = np.full((60, 80, 3), 90, np.uint8)


class Scripted:
    """A reasoner that runs a function; the family is real."""

    def __init__(self, write, family='json'):
        self.family = get_family(family)
        self.write = write
        self.closed = False

    def reason(self, image, query, on_text=None, cancel=None):
        return self.write()

    def close(self):
        self.closed = True


class BoxFiller:
    """A segmenter whose mask is the box: what reaches it is what can be read off the mask."""

    def __init__(self, on_embed=lambda: None):
        self.on_embed = on_embed
        self.prompts = []
        self.closed = False

    def embed(self, image):
        self.on_embed()
        return image.shape[:2]

    def segment(self, embedding, box, points):
        self.prompts.append((box, points))
        mask = np.zeros(embedding, bool)
        mask[round(box.y1) : round(box.y2) + 1, round(box.x1) : round(box.x2) + 1] = True
        return MaskResult(mask, 0.5)

    def close(self):
        self.closed = True


def answer_text(box, *points, reasoning='because'):
    return format_answer(Answer(Box(*box), tuple(Point(*p) for p in points), reasoning, ()))


def test_real_engines_find_what_the_sentence_asks_for():
    scene = make_scene(11)
    query = next(q for q in scene.queries() if q.kind == 'attribute')
    with SegZero(load_reasoner('rules'), load_segmenter('grabcut')) as segzero:
        found = segzero(scene.image, query.text)
    truth = scene.mask(query.target)
    iou = (found.mask & truth).sum() / (found.mask | truth).sum()
    assert found.mask.shape == truth.shape
    assert found.mask.dtype == bool
    assert iou > 0.5
    assert found.reasoning
    assert found.reasoning in found.text
    assert set(found.timings) == {'reason', 'embed', 'decode', 'total'}
    assert found.timings['total'] >= found.timings['reason']


def test_coordinates_reach_the_segmenter_in_original_pixels():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))  # in an 840 x 840 square
    segmenter = BoxFiller()
    family = get_family('json')
    assert family.answer_size(Size(80, 60)) == (840, 840)
    with SegZero(Scripted(lambda: text), segmenter) as segzero:
        found = segzero(IMAGE, 'it')
    ((box, points),) = segmenter.prompts
    assert box == pytest.approx((8, 10, 40, 50))
    assert points[0] == pytest.approx((20, 20))
    assert points[1] == pytest.approx((30, 30))
    assert found.box == box
    assert found.points == points
    assert found.mask.shape == (60, 80)


def test_embedding_and_reasoning_run_at_the_same_time():
    meet = threading.Barrier(
        2, timeout=20
    )  # breaks, and the call raises, if one waits for the other
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))

    def write():
        meet.wait()
        return text

    with SegZero(Scripted(write), BoxFiller(on_embed=meet.wait)) as segzero:
        assert segzero(IMAGE, 'it').mask.any()


def test_unreadable_answer_carries_the_raw_text():
    segmenter = BoxFiller()
    scripted = Scripted(lambda: 'I cannot say.')
    with SegZero(scripted, segmenter) as segzero, pytest.raises(AnswerError) as caught:
        segzero(IMAGE, 'it')
    assert caught.value.kind == 'no_json'
    assert caught.value.text == 'I cannot say.'
    assert not segmenter.prompts


@pytest.mark.parametrize('query', ['', '  \n', 'x' * 100_000])
def test_unusable_sentences_never_reach_an_engine(query):
    def write():
        raise AssertionError('the reasoner was asked')

    with SegZero(Scripted(write), BoxFiller()) as segzero, pytest.raises(QueryError):
        segzero(IMAGE, query)


@pytest.mark.parametrize(
    'image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_unusable_images_are_refused(image):
    with SegZero(Scripted(lambda: ''), BoxFiller()) as segzero, pytest.raises(ImageError):
        segzero(image, 'it')


def test_an_error_in_either_engine_reaches_the_caller_and_the_next_query_works():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    steps = iter([RuntimeError('reasoner broke'), text, text])
    embeds = iter([None, RuntimeError('segmenter broke'), None])

    def step(outcomes):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with SegZero(Scripted(lambda: step(steps)), BoxFiller(lambda: step(embeds))) as segzero:
        with pytest.raises(RuntimeError, match='reasoner broke'):
            segzero(IMAGE, 'it')
        with pytest.raises(RuntimeError, match='segmenter broke'):
            segzero(IMAGE, 'it')
        assert segzero(IMAGE, 'it').mask.any()


def test_cancelling_after_the_reasoner_finished_still_makes_no_mask():
    cancel = threading.Event()
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    segmenter = BoxFiller(on_embed=cancel.set)
    with SegZero(Scripted(lambda: text), segmenter) as segzero, pytest.raises(CancelledError):
        segzero(IMAGE, 'it', cancel=cancel)
    assert not segmenter.prompts


def test_closing_frees_both_engines():
    reasoner, segmenter = Scripted(lambda: ''), BoxFiller()
    SegZero(reasoner, segmenter).close()
    assert reasoner.closed
    assert segmenter.closed
