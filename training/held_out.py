# SPDX-License-Identifier: Apache-2.0
"""How good a reasoner is on held-out records: every reward, and whether boxes hit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from segzero_core.data import Record
from segzero_core.errors import AnswerError
from segzero_core.geometry import box_iou
from segzero_core.prompts import PromptFamily
from segzero_core.rewards import hardened as rewards
from segzero_core.rewards.hardened import Recipe, Truth
from segzero_core.task import Task
from training.dataset import make_truth, picture


class Answered(NamedTuple):
    """One record, what the model answered, and what that is worth.

    Attributes:
        record: The question.
        truth: The right answer.
        text: The model's.
        values: Every reward by name; ``parsed`` and, where a box is asked for, ``box_overlap``
            (IoU) and ``box_hit`` (IoU over 0.5).
    """

    record: Record
    truth: Truth
    text: str
    values: dict[str, float]


def answer_records(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    family: PromptFamily,
    task: Task,
    recipe: Recipe,
    max_tokens: int,
    batch: int = 16,
    sampled: bool = False,
) -> list[Answered]:
    """Let ``model`` answer, and judge every answer.

    Args:
        model: On its device; called in evaluation mode, left in the mode it was in.
        processor: Its processor, padding on the left.
        records: The questions.
        family: How they are asked, reduced to the task.
        task: What is asked for.
        recipe: Which rewards count.
        max_tokens: Longest answer.
        batch: Records at once.
        sampled: At temperature 1 instead of the likeliest answers.
    """
    training = model.training
    model.eval()
    found = []
    for start in range(0, len(records), batch):
        part = [records[i] for i in range(start, min(start + batch, len(records)))]
        texts = _generate(model, processor, part, family, max_tokens, sampled)
        for record, text in zip(part, texts, strict=True):
            truth = make_truth(record, family)
            found.append(Answered(record, truth, text, judge(text, truth, task, recipe)))
    model.train(training)
    return found


def judge(text: str, truth: Truth, task: Task, recipe: Recipe) -> dict[str, float]:
    """Return every reward of one answer, their sum, and how it parses and overlaps."""
    values = rewards.score(text, truth, recipe)
    values['reward'] = sum(values.values())
    try:
        answer = task.read(text, truth.size)
    except AnswerError:
        overlap, parsed = 0.0, 0.0
    else:
        parsed = 1.0
        overlap = box_iou(answer.box, truth.box) if answer.box else 0.0
    values['parsed'] = parsed
    if task.box:
        values |= {'box_overlap': overlap, 'box_hit': float(overlap > 0.5)}
    return values


def _generate(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    family: PromptFamily,
    max_tokens: int,
    sampled: bool,
) -> list[str]:
    prompts = [
        processor.apply_chat_template(
            family.conversation(record.query), add_generation_prompt=True
        )
        for record in records
    ]
    images = [picture(record, family) for record in records]
    inputs = processor(text=prompts, images=images, padding=True, return_tensors='pt')
    inputs = inputs.to(model.device)
    ways: dict[str, Any] = {'do_sample': True, 'top_k': 0} if sampled else {'do_sample': False}
    with torch.no_grad():
        written = model.generate(**inputs, **ways, max_new_tokens=max_tokens)
    replies = written[:, inputs['input_ids'].shape[1] :]
    return list(processor.batch_decode(replies, skip_special_tokens=True))
