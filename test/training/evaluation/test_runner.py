# SPDX-License-Identifier: Apache-2.0
"""Samples with known answers: queries, prompts and counts, exact to the pixel."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from segzero_core.data.samples import Sample, SampleRow, Samples
from segzero_core.errors import AnswerError, DataError, ImageError, OutOfMemoryError, ServerError
from segzero_core.prompts import get_family
from segzero_core.reasoners import Reply
from segzero_core.segmenters import MaskResult
from segzero_core.task import Task
from segzero_core.types import Box, Image, Point, Size
from training.evaluation.prefetch import load_batches
from training.evaluation.prompts import AnswerReader
from training.evaluation.runner import EvaluationRunner
from training.evaluation.summary import RunningScore, dropped_by_release, summarise

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/evaluate.txt')

from segzero_core.data.rle import encode_mask

SIZE = Size(84, 84)  # a tenth of what the model sees
LEFT = '{"bbox": [0, 0, 400, 830], "points_1": [100, 100], "points_2": [700, 100]}'


def answer(found: str = LEFT, thinking: str = '<think>why</think>') -> str:
    return f'{thinking}<answer>{found}</answer>'


class Scripted:
    """Answers each sentence with itself."""

    def __init__(self) -> None:
        self.task = Task(family=get_family('seg_zero'))

    def reason(self, image: Image, query: str, *_: Any) -> Reply:
        return Reply(query)

    def close(self) -> None:
        pass


class InBatches(Scripted):
    """Remembers how many it was asked at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
        assert all(image[0, 0, 0] == 7 for image in images)
        self.sizes.append(len(queries))
        return [Reply(query) for query in queries]


class Filler:
    """Fills the box, or five pixels in a row from each point; counts the images it is shown."""

    def __init__(self) -> None:
        self.embedded = 0
        self.prompts: list[tuple[Box | None, tuple[Point, ...]]] = []

    def embed(self, image: Image) -> Any:
        self.embedded += 1
        return image.shape[:2]

    def segment(self, embedding: Any, box: Box | None, points: Any) -> MaskResult:
        self.prompts.append((box, tuple(points)))
        mask = np.zeros(embedding, bool)
        if box:
            x1, y1, x2, y2 = (round(value) for value in box)
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
        for point in () if box else points:
            mask[round(point.y), round(point.x) : round(point.x) + 5] = True
        return MaskResult(mask, 0.5)

    def close(self) -> None:
        pass


def half(left: bool = True) -> np.ndarray:
    mask = np.zeros((84, 84), bool)
    mask[:, : 41 if left else 84] = True
    return mask


def sample(text: str, truth: np.ndarray | None, image: str = 'one', **more: Any) -> Sample:
    rle = None if truth is None else encode_mask(truth)
    box = (rle.box,) if rle and rle.box else ()
    return Sample(
        id=f'{image}/{text[:30]}/{more.get("group", "")}',
        query=text,
        image_id=image,
        size=SIZE,
        load_image=lambda: np.full((84, 84, 3), 7, np.uint8),
        truth=rle,
        boxes=box,
        **more,
    )


def dataset(*samples: Sample) -> Samples:
    rows = [
        SampleRow(f'{i}', one.image_id, lambda one=one: one)  # type: ignore[misc]
        for i, one in enumerate(samples)
    ]
    return Samples('tests', 'test', 'expression', rows)


def examined(
    *samples: Sample,
    task: Task | None = None,
    use: Any = 'box_points',
    protocol: Any = 'standard',
    family: str = 'seg_zero',
    reasoner: Any = None,
    segmenter: Any = None,
    size: int = 4,
    words: str = '',
) -> list[dict[str, Any]]:
    reader = AnswerReader((task or Task()).with_family(get_family(family)), use, protocol)
    runner = EvaluationRunner(reasoner or Scripted(), segmenter or Filler(), reader, words)
    return examined_rows(dataset(*samples), runner, size)


def examined_rows(
    data: Samples, runner: EvaluationRunner | None = None, size: int = 4
) -> list[dict[str, Any]]:
    reader = AnswerReader(Task(), 'box_points', 'standard')
    runner = runner or EvaluationRunner(Scripted(), Filler(), reader)
    try:
        batches = load_batches(data, range(len(data)), size)
        return [row for results in runner.run(batches) for row in results]
    finally:
        runner.close()


# --- how it is asked and prompted -------------------------------------------------------------


@pytest.mark.parametrize('size', [1, 3, 4, 100])
def test_an_image_is_embedded_once_however_the_batches_fall(size: int) -> None:
    segmenter = Filler()
    samples = [sample(answer(), half(), image) for image in 'aaaaabbbbbbbc']
    rows = examined(*samples, segmenter=segmenter, size=size)
    assert segmenter.embedded == 3
    assert [row['image'] for row in rows] == list('aaaaabbbbbbbc')
    assert len(segmenter.prompts) == 13


def test_batches_go_to_a_reasoner_that_takes_them() -> None:
    reasoner = InBatches()
    rows = examined(*[sample(answer(), half(), str(i)) for i in range(7)], reasoner=reasoner)
    assert reasoner.sizes == [4, 3]
    assert [row['intersection'] for row in rows] == [41 * 84] * 7


def test_a_batch_that_does_not_fit_is_asked_in_halves() -> None:
    class Small(InBatches):
        room = 3

        def reason(self, image: Image, query: str, *_: Any) -> Reply:
            return self.reason_batch([image], [query])[0]

        def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
            if len(queries) > self.room:
                raise RuntimeError('CUDA error: out of memory')
            return super().reason_batch(images, queries)

    reasoner = Small()
    samples = [sample(answer(), half(), str(i)) for i in range(14)]
    rows = examined(*samples, reasoner=reasoner, size=7)
    assert reasoner.sizes == [3, 2, 2, 2, 2, 2, 1]  # it is not tried again
    assert [row['intersection'] for row in rows] == [41 * 84] * 14
    reasoner.room = 0
    with pytest.raises(OutOfMemoryError, match='too small for the reasoner and one image'):
        examined(*samples, reasoner=reasoner, size=7)


def test_masks_are_made_while_the_reasoner_answers_the_next_batch() -> None:
    asked_again = threading.Event()

    class Noticing(InBatches):
        def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
            if self.sizes:
                asked_again.set()
            return super().reason_batch(images, queries)

    class Waiting(Filler):
        def segment(self, *prompt: Any) -> MaskResult:
            assert asked_again.wait(30)
            return super().segment(*prompt)

    samples = [sample(answer(), half(), str(i)) for i in range(6)]
    rows = examined(*samples, reasoner=Noticing(), segmenter=Waiting(), size=2)
    assert [row['intersection'] for row in rows] == [41 * 84] * 6


def test_a_batch_is_finished_although_the_next_one_fails() -> None:
    class Failing(InBatches):
        def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
            if self.sizes:
                raise ServerError('server_unreachable', 'gone')
            return super().reason_batch(images, queries)

    samples = [sample(answer(), half(), str(i)) for i in range(4)]
    reader = AnswerReader(Task(), 'box_points', 'standard')
    runner = EvaluationRunner(Failing(), Filler(), reader)
    results = runner.run(load_batches(dataset(*samples), range(4), 2))
    assert [row['row'] for row in next(results)] == [0, 1]
    with pytest.raises(ServerError, match='gone'):
        next(results)
    runner.close()


def test_the_masks_of_an_image_are_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Together(Filler):
        def segment_all(self, embedding: Any, prompts: Any) -> list[MaskResult]:
            sizes.append(len(prompts))
            return [self.segment(embedding, box, points) for box, points in prompts]

    sizes: list[int] = []
    samples = [sample(answer() if i != 3 else '?', half(), 'aaaaabb'[i]) for i in range(7)]
    rows = examined(*samples, segmenter=Together(), size=7)
    assert sizes == [4, 2]
    assert [row['intersection'] for row in rows] == [41 * 84] * 3 + [0] + [41 * 84] * 3
    monkeypatch.setattr('training.evaluation.runner.MAX_VALUES', 3 * 84 * 84 * 3)
    assert [row['mask'] for row in examined(*samples, segmenter=Together(), size=7)] == [
        row['mask'] for row in rows
    ]
    assert sizes == [4, 2, 3, 1, 2]


def test_huge_images_make_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('training.evaluation.prefetch.MAX_PIXELS', 3 * 84 * 84)
    data = dataset(*[sample(answer(), half(), image) for image in 'aabcdefgh'])
    sizes = [len(batch) for batch in load_batches(data, range(len(data)), 100)]
    assert sizes == [5, 4]


@pytest.mark.parametrize(
    ('use', 'box', 'points'),
    [
        ('box_points', True, True),
        ('box', True, False),
        ('points', False, True),
    ],
)
def test_the_segmenter_gets_what_is_to_be_used(use: str, box: bool, points: bool) -> None:
    segmenter = Filler()
    (row,) = examined(sample(answer(), half()), use=use, segmenter=segmenter)
    assert segmenter.prompts == [
        (
            Box(0, 0, 40, 83) if box else None,
            (Point(10, 10), Point(70, 10)) if points else (),
        )
    ]
    assert row['intersection'] == (41 * 84 if box else 5)
    assert (row['box'] is None, row['points'] == []) == (not box, not points)
    summary = summarise([row])
    assert ('box_accuracy' in summary, 'point_accuracy' in summary) == (box, points)


def test_a_model_of_points_alone_is_asked_and_read_for_points_alone() -> None:
    text = answer('{"points_1": [100, 100], "points_2": [700, 100]}')
    (row,) = examined(sample(text, half()), task=Task('points'), use='points')
    assert (row['status'], row['box'], row['predicted']) == ('ok', None, 10)


@pytest.mark.parametrize('protocol', ['standard', 'released'])
def test_the_own_words_of_a_base_model_are_no_repair(protocol: str) -> None:
    found = '[\n\t{"bbox_2d": [0, 0, 40, 83], "label": "it"}, {"bbox_2d": [9, 9, 20, 20]}\n]'
    text = f'```json\n{found}\n```'
    task = Task('box', False)
    options: dict[str, Any] = {'use': 'box', 'family': 'grounding', 'protocol': protocol}
    (row,) = examined(sample(text, half()), task=task, **options)
    assert row['box'] == [0, 0, 40, 83]
    assert row['repairs'] == ['one of 2 objects was used']
    assert row['union'] == 41 * 84


# --- what is counted --------------------------------------------------------------------------


def test_box_and_points_are_measured_against_the_truth() -> None:
    (row,) = examined(sample(answer(), half()))
    assert row['status'] == 'ok'
    assert row['box_iou'] == 1.0
    assert row['points_on'] == 0.5
    assert row['reasoning'] == 'why'


def test_failures_count_as_zero_and_nothing_is_left_out() -> None:
    rows = examined(
        sample(answer(), half()),
        sample(answer(LEFT.replace('"', "'")), half()),
        sample('I see a cup.', half()),
        sample(answer('[]'), half()),
        sample(answer('[]'), half() & False),
        sample('I see a cup.', half() & False),
        sample(answer(), half() & False),
    )
    assert [row['status'] for row in rows] == [
        'ok', 'repaired', 'failed', 'nothing_found', 'nothing_found', 'failed', 'ok',
    ]  # fmt: skip
    summary = summarise(rows)
    assert summary['rows'] == 7
    # Two hits, and one right rejection; a text that cannot be read rejects nothing.
    assert summary['standard']['giou']['value'] == pytest.approx(3 / 7)
    assert summary['standard']['ciou']['value'] == pytest.approx(2 / 5)
    assert summary['standard']['precision_0.5']['value'] == pytest.approx(2 / 4)  # of the targets
    assert summary['no_target_accuracy']['value'] == pytest.approx(1 / 3)
    assert summary['target_accuracy']['value'] == pytest.approx(2 / 4)
    assert summary['box_accuracy']['value'] == pytest.approx(2 / 4)
    assert summary['counts']['parse_failure_rate'] == pytest.approx(2 / 7)
    assert summary['counts']['repair_rate'] == pytest.approx(1 / 7)
    assert summary['counts']['kinds'] == {'no_json': 2, 'nothing_found': 2}
    running = RunningScore('standard')
    for row in rows:
        running.add(row)
    assert str(running) == 'gIoU 42.9  cIoU 40.0'


def test_a_refusal_points_at_nothing_and_ends_no_batch() -> None:
    class Refusing(InBatches):
        def reason(self, image: Image, query: str, *_: Any) -> Reply:
            if query.startswith('car'):
                raise AnswerError('unknown_word', "the engine does not know 'car'", query)
            return Reply(query, 'stop', 7)

        def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
            return [self.reason(images[0], query) for query in queries]

    rows = examined(
        sample(answer(), half()),
        sample('car', half() & False),
        sample('car, again', half()),
        reasoner=Refusing(),
    )
    assert [row['status'] for row in rows] == ['ok', 'nothing_found', 'nothing_found']
    assert [(row['finish_reason'], row['tokens']) for row in rows] == [('stop', 7), *[('', 0)] * 2]
    summary = summarise(rows)
    assert summary['counts']['kinds'] == {'unknown_word': 2}
    assert summary['standard']['giou']['value'] == pytest.approx(2 / 3)


def test_replies_that_were_cut_off_are_counted_apart() -> None:
    class CutOff(Scripted):
        def reason(self, image: Image, query: str, *_: Any) -> Reply:
            return Reply(query, 'stop' if query.startswith('end') else 'length', 9)

    whole = answer()
    cuts = [whole[:20], whole[:-20], whole, 'end' + whole[:20]]
    rows = examined(*(sample(text, half()) for text in cuts), reasoner=CutOff())
    assert [row['status'] for row in rows] == ['failed', 'failed', 'ok', 'failed']
    assert [row['error'] and row['error']['kind'] for row in rows[:3]] == [
        *['token_limit'] * 2,
        None,
    ]
    assert [each['kind'] for each in rows[2]['warnings']] == ['token_limit']
    counts = summarise(rows)['counts']
    assert (counts['cut_off'], counts['cut_off_failed'], counts['failed']) == (3, 2, 3)


def test_data_that_cannot_be_used_counts_as_zero_in_every_figure() -> None:
    def broken() -> Image:
        raise ImageError('the image of row 2 cannot be decoded')

    def unreadable() -> Sample:
        raise DataError('the annotation is cut off')

    good, empty = sample(answer(), half()), sample(answer('[]'), half() & False)
    rows = [
        SampleRow('0', 'a', lambda: good),
        SampleRow('1', 'b', lambda: empty),
        SampleRow('2', 'c', lambda: dataclasses.replace(good, load_image=broken)),
        SampleRow('3', 'd', lambda: dataclasses.replace(empty, load_image=broken)),
        SampleRow('4', 'e', unreadable),
    ]
    found = examined_rows(Samples('tests', 'test', 'expression', rows))
    assert [row['status'] for row in found] == ['ok', 'nothing_found', 'error', 'error', 'error']
    summary = summarise(found)
    assert summary['standard']['giou']['value'] == pytest.approx(2 / 5)
    assert summary['no_target_accuracy']['value'] == pytest.approx(1 / 2)
    for figure in ('box_accuracy', 'target_accuracy'):
        assert summary[figure]['value'] == pytest.approx(1 / 3)
    assert summary['standard']['precision_0.5']['value'] == pytest.approx(1 / 3)


def test_what_is_to_be_ignored_counts_for_nothing_or_for_the_truth() -> None:
    ignore = np.zeros((84, 84), bool)
    ignore[:, 31:61] = True
    truth = half() & ~ignore
    (row,) = examined(sample(answer(), truth, ignore=encode_mask(ignore)))
    assert (row['intersection'], row['union']) == (31 * 84, 31 * 84)
    assert row['released'] == [41 * 84, 41 * 84, 61 * 84]
    summary = summarise([row])
    assert summary['standard']['giou']['value'] == 1
    assert summary['released']['giou']['value'] == pytest.approx(41 / 61)


def test_the_released_protocol_reads_and_drops_as_the_released_code() -> None:
    empty = answer('{"bbox": [4, 4, 4, 4], "points_1": [9, 9], "points_2": [9, 9]}')

    class Nothing(Filler):
        def segment(self, embedding: Any, box: Box | None, points: Any) -> MaskResult:
            found = super().segment(embedding, box, points)
            small = box is not None and box.x1 == box.x2
            return MaskResult(found.mask & (not small), 0.5)

    rows = examined(
        sample(answer(), half()),
        sample(answer(LEFT.replace('"', "'")), half()),  # lost
        sample(answer(LEFT, ''), half()),  # no thinking: lost
        sample(empty, half() & False),  # nothing on nothing: dropped
        sample('?', half() & False),  # a text it cannot read is kept
        protocol='released',
        segmenter=Nothing(),
    )
    assert [row['status'] for row in rows] == ['ok', 'failed', 'failed', 'ok', 'failed']
    assert [dropped_by_release(row) for row in rows] == [False, False, False, True, False]
    released = summarise(rows)['released']
    assert released['dropped'] == 1
    assert released['giou']['value'] == pytest.approx(1 / 4)
    assert released['ciou']['value'] == pytest.approx(1 / 3)


def test_a_truth_of_another_size_is_an_error_and_dropped_as_the_released_code_does() -> None:
    rows = examined(sample(answer(), half()), sample(answer(), half()[:50]))
    assert [row['status'] for row in rows] == ['ok', 'error']
    assert '84 x 84 and 84 x 50' in rows[1]['error']['message']
    summary = summarise(rows)
    assert summary['standard']['giou']['value'] == 0.5
    assert summary['released']['giou']['value'] == 1
    assert summary['released']['dropped'] == 1


def test_parts_of_a_dataset_have_figures_of_their_own() -> None:
    rows = examined(
        sample(answer(), half(), group='short'),
        sample('?', half(), group='long'),
        sample(answer(), half(), group='long'),
    )
    groups = summarise(rows)['groups']
    assert groups['short']['standard']['giou']['value'] == 1
    assert groups['long']['standard']['giou']['value'] == 0.5


@pytest.mark.parametrize(
    ('name', 'answers', 'accuracy'),
    [('chartqa', ('43',), 1), ('textvqa', ('42', '42', '41', '40'), 0.5)],
)
def test_words_are_compared_as_their_dataset_does(
    name: str, answers: tuple[str, ...], accuracy: float
) -> None:
    segmenter = Filler()
    rows = examined(
        sample('<answer>42</answer>', None, answers=answers), words=name, segmenter=segmenter
    )
    assert rows[0]['answer'] == '42'
    assert summarise(rows)['accuracy']['value'] == pytest.approx(accuracy)
    assert not segmenter.embedded
    running = RunningScore('standard')
    running.add(rows[0])
    assert str(running) == f'accuracy {100 * accuracy:.1f}'
