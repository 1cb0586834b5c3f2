# SPDX-License-Identifier: Apache-2.0
"""A call that fails at any step leaves no state: the next call is answered as by new engines.

Real engines (``rules`` and ``grabcut``) in wrappers that fail once, at one step.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segzero_core import SegZero, load_reasoner, load_segmenter
from segzero_core.answers.parse import Answer, format_answer
from segzero_core.reasoners.base import Reply
from segzero_core.segmenters import MaskResult
from segzero_core.synthetic import make_scene
from segzero_core.task import Task
from segzero_core.types import Box, Point, Size

SCENE = make_scene(11, size=Size(160, 120))
OTHER = make_scene(12, size=Size(160, 120)).image
QUERY = next(query.text for query in SCENE.queries() if query.kind == 'attribute')
FAILURES = {
    'memory': lambda: MemoryError('no memory'),
    'cuda': lambda: RuntimeError('CUDA error: out of memory'),
    'interrupt': KeyboardInterrupt,
}
STEPS = ('reason', 'text', 'reasoned', 'embed', 'embedded', 'segment', 'segmented')


class FailsOnce:
    """Raises an error once, at one step."""

    def __init__(self, step: str, error: Callable[[], BaseException]) -> None:
        self.step, self.error = step, error
        self.threads: list[str] = []

    def at(self, step: str) -> None:
        if step == self.step:
            self.step = ''
            self.threads.append(threading.current_thread().name)
            raise self.error()


class WrappedReasoner:
    def __init__(self, failure: FailsOnce) -> None:
        self.inner, self.failure = load_reasoner('rules'), failure
        self.task = self.inner.task

    def reason(self, image: Any, query: str, on_text: Any = None, cancel: Any = None) -> Reply:
        def text(piece: str) -> None:
            on_text(piece)
            self.failure.at('text')

        self.failure.at('reason')
        reply = self.inner.reason(image, query, text, cancel)
        self.failure.at('reasoned')
        return reply

    def close(self) -> None:
        self.inner.close()


class WrappedSegmenter:
    def __init__(self, failure: FailsOnce) -> None:
        self.inner, self.failure = load_segmenter('grabcut'), failure

    def embed(self, image: Any) -> Any:
        self.failure.at('embed')
        embedding = self.inner.embed(image)
        self.failure.at('embedded')
        return embedding

    def segment(self, *prompt: Any) -> MaskResult:
        self.failure.at('segment')
        found = self.inner.segment(*prompt)
        self.failure.at('segmented')
        return found

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(scope='module')
def fresh() -> Any:
    with SegZero(load_reasoner('rules'), load_segmenter('grabcut')) as segzero:
        return segzero(SCENE.image, QUERY)


@pytest.mark.parametrize('name', FAILURES)
@pytest.mark.parametrize('step', STEPS)
def test_after_a_failure_the_same_sentence_is_answered_as_by_new_engines(
    step: str, name: str, fresh: Any
) -> None:
    failure = FailsOnce('', FAILURES[name])
    segzero = SegZero(WrappedReasoner(failure), WrappedSegmenter(failure))
    with segzero:
        segzero(OTHER, 'the thing on the left')
        failure.step = step
        with pytest.raises(type(failure.error())):
            segzero(SCENE.image, QUERY)
        assert failure.threads  # it was that failure
        if step in ('embed', 'embedded'):
            assert failure.threads[0].startswith('segzero-segment')
        found = segzero(SCENE.image, QUERY)
    assert (found.box, found.points, found.text) == (fresh.box, fresh.points, fresh.text)
    assert np.array_equal(found.mask, fresh.mask)
    assert found.score == fresh.score


class BrightPixels:
    """A segmenter whose mask is the bright pixels, which shows the frame that was embedded."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def embed(self, image: Any) -> Any:
        self.begun.set()
        assert self.go_on.wait(60)
        return image.copy()

    def segment(self, embedding: Any, box: Any, points: Any) -> MaskResult:
        return MaskResult(embedding[:, :, 0] > 100, 1.0)

    def close(self) -> None:
        pass


class Failing:
    """Fails a given number of times while the embedding is computed."""

    task = Task()

    def __init__(self, segmenter: BrightPixels) -> None:
        self.segmenter, self.fails = segmenter, 0

    def reason(self, *_: Any) -> Reply:
        if self.fails:
            self.fails -= 1
            assert self.segmenter.begun.wait(60)
            raise RuntimeError('the reasoner failed')
        points = (Point(300, 300), Point(400, 300))
        return Reply(format_answer(Answer(Box(84, 84, 756, 756), points, 'a')))

    def close(self) -> None:
        pass


def test_a_buffer_that_is_reused_after_a_failed_call_gives_the_mask_of_its_new_frame() -> None:
    # A camera's loop: capture.read(buffer) writes each frame into the same memory.
    old, new = np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80, 3), np.uint8)
    old[:, :40], new[:, 40:] = 255, 255
    buffer, segmenter = old.copy(), BrightPixels()
    reasoner = Failing(segmenter)
    with SegZero(reasoner, segmenter) as segzero:
        segmenter.go_on.clear()
        reasoner.fails = 1
        with pytest.raises(RuntimeError):
            segzero(buffer, 'it')  # ends while its embedding is still computed
        buffer[:] = new
        segmenter.go_on.set()
        assert np.array_equal(segzero(buffer, 'it').mask, new[:, :, 0] > 100)
        assert np.array_equal(segzero(old, 'it').mask, old[:, :, 0] > 100)
        (found,) = segzero.answer_all(new, ['it'])
        assert np.array_equal(found.mask, new[:, :, 0] > 100)
