# SPDX-License-Identifier: Apache-2.0
"""Records -> input of the trainers: truths in the right space, labels only on the answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segzero_core.data import Annotation, Record, read_dataset
from segzero_core.prompts import get_family
from segzero_core.segmenters.base import MaskResult
from segzero_core.task import Task
from segzero_core.types import Box, Point, Size

pytest.importorskip('torch', reason='needs torch: requirements/models.txt')

RECORD = Record(
    id='r',
    query='the mug',
    size=Size(640, 480),
    targets=(Annotation(Box(64, 48, 320, 240), (Point(101, 101), Point(639, 479))),),
    load_image=lambda: np.zeros((480, 640, 3), np.uint8),
    load_mask=lambda: np.pad(np.ones((240, 320), bool), ((0, 240), (0, 320))),
    reasoning='It is the one with a handle.',
)


def test_truth_is_in_the_space_answers_are_in() -> None:
    from training.dataset import make_truth

    pixels = make_truth(RECORD, Task())
    # int(v * 840 / W + 0.5), as the released data was prepared.
    assert pixels.box == Box(84, 84, 420, 420)
    assert pixels.points == (Point(133, 177), Point(839, 838))
    assert pixels.size == Size(840, 840)
    thousandths = make_truth(RECORD, Task(family=get_family('thousandths')))
    assert thousandths.box == Box(100, 100, 500, 500)


def test_picture_is_stretched_to_what_the_model_sees() -> None:
    from training.dataset import picture

    assert picture(RECORD, Task(family=get_family('thousandths'))).size == (896, 896)


@pytest.mark.parametrize('think', [True, False])
def test_labels_are_the_answer_and_its_end(
    trl: None, tiny_reasoner_dir: Path, think: bool
) -> None:
    from segzero_core.reasoners.qwen_processor import QwenProcessor
    from training.dataset import ReasonerDataset
    from training.sft import Collator

    processor = QwenProcessor.from_pretrained(tiny_reasoner_dir, padding_side='left')
    records = read_dataset('synthetic:train?size=64&count=3').records
    examples = ReasonerDataset(records, Task(think=think, family=get_family('tiny')))
    batch = Collator(examples, processor)([{'index': i} for i in (2, 0)])
    assert batch['rows'] == ['train/2', 'train/0']
    for row, index in enumerate((2, 0)):
        labels, ids = batch['labels'][row], batch['input_ids'][row]
        kept = labels[labels != -100]
        assert processor.tokenizer.decode(kept) == examples.reply(index) + '<|im_end|>'
        assert (ids[labels != -100] == kept).all()
        assert records[index].query in processor.tokenizer.decode(ids)
        assert ('<think>' in examples.reply(index)) == think


def test_every_form_of_answer_is_shown_in_turn() -> None:
    from segzero_core.rewards.hardened import score
    from training.dataset import ReasonerDataset, make_truth

    task = Task(family=get_family('tiny'))
    inside = Annotation(Box(64, 48, 320, 240), (Point(101, 101), Point(200, 200)))
    records = [dataclasses.replace(RECORD, targets=(inside,))] * 24
    examples = ReasonerDataset(records, task, every_form=True)
    replies = [examples.reply(index) for index in range(24)]
    assert replies[:12] == replies[12:]
    assert len(set(replies)) == 12
    truth = make_truth(records[0], task)
    full = [reply for reply in replies[:12] if sum(score(reply, truth).values()) == 5]
    assert full == [ReasonerDataset(records, task).reply(0)]


class CountingSegmenter:
    """Fills the box it is given, and counts the images it is shown."""

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, image: Any) -> Any:
        self.embedded += 1
        return image.shape[:2]

    def segment(self, embedding: Any, box: Box, points: Any) -> MaskResult:
        mask = np.zeros(embedding, bool)
        x1, y1, x2, y2 = (round(value) for value in box)
        mask[y1:y2, x1:x2] = True
        return MaskResult(mask, 1.0)

    def close(self) -> None:
        pass


def test_mask_reward_has_tiers_and_embeds_an_image_once(trl: None) -> None:
    from training.config import TrainConfig
    from training.dataset import make_truth
    from training.trl_rewards import reward_functions

    segmenter = CountingSegmenter()
    config = TrainConfig(extra_rewards=('mask_iou',), segmenter='sam2')
    reward = reward_functions(config, Task(), segmenter)[-1]
    answers = {  # of the true mask, the left upper quarter
        '[0, 0, 420, 420]': 4.0,
        '[0, 0, 420, 315]': 3.0,
        '[0, 0, 420, 231]': 2.0,
        '[0, 0, 420, 100]': 0.0,
        'nothing': 0.0,
    }
    points = '"points_1": [9, 9], "points_2": [9, 9]'
    texts = [f'<answer>{{"bbox": {box}, {points}}}</answer>' for box in answers]
    found = reward(
        completions=[[{'role': 'assistant', 'content': text}] for text in texts],
        truth=[make_truth(RECORD, Task())] * len(texts),
        record=[RECORD] * len(texts),
    )
    assert found == list(answers.values())
    assert segmenter.embedded == 1
