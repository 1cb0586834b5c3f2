# SPDX-License-Identifier: Apache-2.0
"""The pipeline on real engines, and on small test engines that fail, wait or observe."""

import math
import os
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.answers.parse import Answer, format_answer
from segzero_core.errors import AnswerError, CancelledError, ImageError, QueryError
from segzero_core.overlap import EmbeddingOverlap
from segzero_core.prompts import get_family
from segzero_core.reasoners.base import Reply
from segzero_core.runtime.cpu_threads import half_the_cores
from segzero_core.segmenters import MaskResult
from segzero_core.synthetic import make_scene
from segzero_core.task import Task
from segzero_core.types import Box, Point, Size

IMAGE = np.full((60, 80, 3), 90, np.uint8)


class Scripted:
    """A reasoner that runs a function; the family is real."""

    def __init__(self, write, family='json'):
        self.task = Task(family=get_family(family))
        self.write = write
        self.closed = False

    def reason(self, image, query, on_text=None, cancel=None):
        return Reply(self.write())

    def close(self):
        self.closed = True


class Streaming(Scripted):
    """A reasoner that writes piece by piece, and runs a function before each piece."""

    def __init__(self, text, before=lambda written: None):
        super().__init__(None)
        self.pieces = [text[i : i + 5] for i in range(0, len(text), 5)]
        self.before = before

    def reason(self, image, query, on_text=None, cancel=None):
        written = ''
        for piece in self.pieces:
            self.before(written)
            written += piece
            on_text(piece)
        return Reply(written)


class BoxFiller:
    """A segmenter whose mask is the box, so the mask shows the prompt that was received."""

    def __init__(self, on_embed=lambda: None):
        self.on_embed = on_embed
        self.embedded = []
        self.prompts = []
        self.closed = False

    def embed(self, image):
        self.on_embed()
        self.embedded.append(image.copy())
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
    assert [warning.kind for warning in found.warnings] == ['synthetic_only']
    assert 'the reasoner in use knows' in found.warnings[0].message
    assert set(found.timings) == {'reason', 'first_text', 'embed', 'decode', 'total'}
    assert found.timings['total'] >= found.timings['reason'] >= 0
    assert 0 <= found.timings['first_text'] <= found.timings['total']


def test_coordinates_reach_the_segmenter_in_original_pixels():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))  # in an 840 x 840 square
    segmenter = BoxFiller()
    family = get_family('json')
    assert family.answer_size(Size(80, 60)) == (840, 840)
    with SegZero(Scripted(lambda: text), segmenter) as segzero:
        found = segzero(IMAGE, 'it')
    assert found.warnings == ()
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
    with SegZero(Scripted(lambda: ''), BoxFiller()) as segzero:
        with pytest.raises(ImageError):
            segzero(image, 'it')
        with pytest.raises(ImageError):
            segzero.answer_all(image, ['it', 'that'])


def test_an_error_in_either_engine_reaches_the_caller_and_the_next_query_works():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    outcomes = iter([RuntimeError('reasoner broke'), text, text])

    def write():
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    segmenter = BoxFiller()
    with SegZero(Scripted(write), segmenter) as segzero:
        with pytest.raises(RuntimeError, match='reasoner broke'):
            segzero(IMAGE, 'it')
        segmenter.on_embed = lambda: (_ for _ in ()).throw(RuntimeError('segmenter broke'))
        with pytest.raises(RuntimeError, match='segmenter broke'):
            segzero(255 - IMAGE, 'it')
        segmenter.on_embed = lambda: None
        assert segzero(255 - IMAGE, 'it').mask.any()


def test_cancelling_after_the_reasoner_finished_still_makes_no_mask():
    cancel = threading.Event()
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    segmenter = BoxFiller(on_embed=cancel.set)
    with SegZero(Scripted(lambda: text), segmenter) as segzero, pytest.raises(CancelledError):
        segzero(IMAGE, 'it', cancel=cancel)
    assert not segmenter.prompts


def test_a_frame_is_embedded_once_however_many_sentences_are_about_it():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    other = IMAGE.copy()
    other[3, 4, 1] += 1
    segmenter = BoxFiller()
    with SegZero(Scripted(lambda: text), segmenter) as segzero:
        for image in (IMAGE, IMAGE.copy(), other, other, IMAGE[:, ::-1], IMAGE.reshape(80, 60, 3)):
            assert segzero(image, 'it').mask.shape == image.shape[:2]
    frames = [IMAGE, other, IMAGE, IMAGE.reshape(80, 60, 3)]
    assert [each.shape for each in segmenter.embedded] == [each.shape for each in frames]
    assert all(map(np.array_equal, segmenter.embedded, frames))


@pytest.mark.parametrize(
    ('devices', 'cores', 'early'),
    [(('cpu', 'cpu'), 1, False), (('cuda', 'cpu'), 1, True), (('cpu', 'cpu'), 64, True)],
)
def test_an_image_is_embedded_beside_the_writing_where_both_need_the_same_cores(
    devices, cores, early, monkeypatch
):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)), raising=False)
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    begun = threading.Event()
    segmenter = BoxFiller(on_embed=begun.set)

    def before(written):
        if written or early:
            assert begun.wait(30)
        else:
            assert not begun.wait(0.05)

    reasoner = Streaming(text, before)
    reasoner.device, segmenter.device = (SimpleNamespace(type=kind) for kind in devices)
    with SegZero(reasoner, segmenter) as segzero:
        assert segzero(IMAGE, 'it').mask.any()


def test_what_takes_longer_than_the_writing_is_begun_at_once(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0}, raising=False)
    begun, found = threading.Event(), []

    def embed():
        begun.set()
        while segzero.writing_seconds == math.inf:
            time.sleep(0.001)
        time.sleep(segzero.writing_seconds + 0.01)

    def before(written):
        if not written:
            found.append(begun.wait(30 if found else 0.05))

    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    reasoner, segmenter = Streaming(text, before), BoxFiller(on_embed=embed)
    reasoner.device = segmenter.device = SimpleNamespace(type='cpu')
    with SegZero(reasoner, segmenter) as segzero:
        for image in (IMAGE, IMAGE // 2):
            begun.clear()
            segzero(image, 'it')
    assert found == [False, True]


def test_beside_an_embedding_the_reasoner_takes_half_of_the_cores(monkeypatch):
    torch = pytest.importorskip('torch', reason='needs torch')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(7)), raising=False)
    was = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        embedding = Future()
        overlap = EmbeddingOverlap(lambda: embedding, same_cores=True)
        with overlap:
            assert torch.get_num_threads() == 4
            overlap.on_decode_step()
            assert torch.get_num_threads() == 2
            embedding.set_result(None)
            overlap.on_decode_step()
            assert torch.get_num_threads() == 4
        overlap = EmbeddingOverlap(Future, same_cores=True)
        with overlap:
            overlap.on_decode_step()
        assert torch.get_num_threads() == 4
        monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))
        overlap = EmbeddingOverlap(Future, same_cores=True)
        with overlap:
            overlap.on_decode_step()
            assert torch.get_num_threads() == 4  # half of the cores are free already
        overlap = EmbeddingOverlap(Future, same_cores=False)
        with overlap:
            overlap.on_decode_step()
            assert torch.get_num_threads() == 4
        monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(7)))
        with EmbeddingOverlap(Future, same_cores=True, longer=True):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(was)


def test_the_second_thread_does_not_take_half_the_cores_for_all(monkeypatch):
    torch = pytest.importorskip('torch', reason='needs torch')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(4)), raising=False)
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    was, counted = torch.get_num_threads(), []
    torch.set_num_threads(4)
    try:
        segmenter = BoxFiller(on_embed=lambda: counted.append(torch.get_num_threads()))
        with SegZero(Scripted(lambda: text), segmenter) as segzero, half_the_cores():
            segzero(IMAGE, 'it')
        assert counted == [2]
    finally:
        torch.set_num_threads(was)


def test_a_segmenter_that_embeds_at_once_gets_no_thread_for_it():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    threads = []
    segmenter = BoxFiller(on_embed=lambda: threads.append(threading.current_thread()))
    segmenter.embeds_at_once = True
    with SegZero(Scripted(lambda: text), segmenter) as segzero:
        for image in (IMAGE, IMAGE, 255 - IMAGE):
            found = segzero(image, 'it')
            assert found.mask.any()
            assert found.timings['embed'] >= 0
    assert threads == 3 * [threading.current_thread()]
    assert np.array_equal(segmenter.embedded[-1], 255 - IMAGE)


def test_an_image_that_has_changed_in_place_is_another_frame():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    image, segmenter = IMAGE.copy(), BoxFiller()
    with SegZero(Scripted(lambda: text), segmenter) as segzero:
        segzero(image, 'it')
        image[-1, -1, -1] += 1
        segzero(image, 'it')
    assert [int(each[-1, -1, -1]) for each in segmenter.embedded] == [
        IMAGE[-1, -1, -1],
        image[-1, -1, -1],
    ]


def test_a_frame_that_could_not_be_embedded_is_tried_again():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    outcomes = iter([None, RuntimeError('out of memory'), None])

    def step():
        if (outcome := next(outcomes)) is not None:
            raise outcome

    other = 255 - IMAGE
    with SegZero(Scripted(lambda: text), BoxFiller(step)) as segzero:
        assert segzero(IMAGE, 'it').mask.any()
        with pytest.raises(RuntimeError):
            segzero(other, 'it')
        assert segzero(other, 'it').mask.any()


def test_the_mask_is_made_before_the_answer_has_ended():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    segmenter = BoxFiller()
    made = threading.Event()
    inner = segmenter.segment
    segmenter.segment = lambda *prompt: (inner(*prompt), made.set())[0]

    def before(written):
        if '}' in written:  # the closing tag is still to be written
            assert made.wait(30)

    pieces = []
    with SegZero(Streaming(text, before), segmenter) as segzero:
        found = segzero(IMAGE, 'it', pieces.append)
    assert made.is_set()
    assert ''.join(pieces) == text
    assert len(segmenter.prompts) == 1
    assert found.mask.sum() == 33 * 41


def test_a_mask_begun_for_what_was_not_the_answer_after_all_is_thrown_away():
    # The first object lacks its second point; the answer is the second one.
    first = '<think>a</think><answer>{"bbox": [0, 0, 84, 140], "points": [[1, 2], [3, 4]]}'
    last = answer_text((84, 140, 420, 700), (210, 280), (315, 420)).partition('<answer>')[2]
    text = first + '<answer>' + last
    wanted = Streaming(text)
    segmenter = BoxFiller()
    with SegZero(wanted, segmenter) as segzero:
        found = segzero(IMAGE, 'it')
    assert found.box == pytest.approx((8, 10, 40, 50))
    assert found.mask.sum() == 33 * 41


def test_several_sentences_about_one_image_are_answered_like_one_by_one():
    texts = {
        'a': answer_text((84, 140, 420, 700), (210, 280), (315, 420), reasoning='left'),
        'b': 'I cannot say.',
        'c': answer_text((420, 140, 700, 280), (500, 200), (600, 210), reasoning='right'),
    }

    class Known(Scripted):
        def reason(self, image, query, on_text=None, cancel=None):
            return Reply(texts[query])

    segmenter = BoxFiller()
    with SegZero(Known(None), segmenter) as segzero:
        first, second, third = segzero.answer_all(IMAGE, ['a', 'b', 'c'])
        assert len(segmenter.embedded) == 1
        assert isinstance(second, AnswerError)
        assert second.kind == 'no_json'
        for found, query in ((first, 'a'), (third, 'c')):
            alone = segzero(IMAGE, query)
            assert np.array_equal(found.mask, alone.mask)
            assert (found.box, found.points) == (alone.box, alone.points)
            assert found.reasoning == alone.reasoning
        assert first.reasoning == 'left'
        assert segzero.answer_all(IMAGE, []) == []
        with pytest.raises(QueryError):
            segzero.answer_all(IMAGE, ['a', ' '])


def test_warming_up_runs_the_engines_that_need_it_and_leaves_no_trace():
    text = answer_text((84, 140, 420, 700), (210, 280), (315, 420))
    reasoner, segmenter = Streaming(text), BoxFiller()
    with SegZero(reasoner, segmenter) as segzero:
        segzero.warm_up()
        assert not segmenter.embedded
        reasoner.needs_warm_up = segmenter.needs_warm_up = True
        written = []
        reasoner.before = written.append
        assert segzero.warm_up(Size(80, 60)) > 0
        assert written
        assert [each.shape for each in segmenter.embedded] == [(60, 80, 3)] * 2
        assert len(segmenter.prompts) == 2
        assert segzero(IMAGE, 'it').mask.sum() == 33 * 41


def test_closing_frees_both_engines():
    reasoner, segmenter = Scripted(lambda: ''), BoxFiller()
    SegZero(reasoner, segmenter).close()
    assert reasoner.closed
    assert segmenter.closed
