# SPDX-License-Identifier: Apache-2.0
"""Scores of a reasoner on held-out records: every reward, parse rate and box overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from segzero_core.data import Record
from segzero_core.errors import AnswerError
from segzero_core.geometry import box_iou
from segzero_core.rewards import hardened as rewards
from segzero_core.rewards.hardened import Recipe, Truth
from segzero_core.task import Task
from training.dataset import make_truth, picture


class ScoredAnswer(NamedTuple):
    """A record, the model's answer and the scores of that answer.

    Attributes:
        record: The image and the sentence.
        truth: The right answer, in the answer space of the task.
        text: The model's answer.
        values: Every reward by name, ``reward`` (their sum), ``parsed`` and, if the task asks for
            a box, ``box_overlap`` (IoU) and ``box_hit`` (1 if the IoU is over 0.5).
    """

    record: Record
    truth: Truth
    text: str
    values: dict[str, float]


def answer_records(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    task: Task,
    recipe: Recipe,
    max_tokens: int,
    batch: int = 16,
    temperature: float = 0.0,
) -> list[ScoredAnswer]:
    """Generate an answer to every record and score it.

    Args:
        model: The transformers model, on its device. It generates in evaluation mode and is set
            back to its former mode.
        processor: The model's processor; it pads on the left.
        records: The images and sentences.
        task: Task of the model: prompt, image size, coordinate space and form of the answer.
        recipe: The rewards to compute.
        max_tokens: Maximum length of an answer, tokens.
        batch: Records per call of ``generate``.
        temperature: 0 takes the likeliest token each time. Above 0 tokens are sampled from the
            model's own distribution at this temperature, as GRPO does: the sampling settings of
            the checkpoint (``top_p``, ``top_k``, ``repetition_penalty``, ...) do not apply.
    """
    training = model.training
    model.eval()
    try:
        found = []
        for start in range(0, len(records), batch):
            part = [records[i] for i in range(start, min(start + batch, len(records)))]
            texts = _generate(model, processor, part, task, max_tokens, temperature)
            for record, text in zip(part, texts, strict=True):
                truth = make_truth(record, task)
                values = score_answer(text, truth, task, recipe)
                found.append(ScoredAnswer(record, truth, text, values))
    finally:
        model.train(training)
    return found


def score_answer(text: str, truth: Truth, task: Task, recipe: Recipe) -> dict[str, float]:
    """Return the ``values`` of a ``ScoredAnswer``."""
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


def sampling_options(temperature: float) -> dict[str, Any]:
    """Return the options of ``generate`` that make it sample, or not, as asked.

    Every option that shapes the distribution is given, because ``generate`` takes those that are
    missing from the checkpoint: Qwen's say temperature 1e-6, with which sampling is greedy.
    """
    if temperature == 0:
        return {'do_sample': False}
    return {
        'do_sample': True,
        'temperature': temperature,
        'top_k': 0,
        'top_p': 1.0,
        'min_p': None,
        'typical_p': 1.0,
        'epsilon_cutoff': 0.0,
        'eta_cutoff': 0.0,
        'repetition_penalty': 1.0,
        'no_repeat_ngram_size': 0,
    }


def _generate(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    task: Task,
    max_tokens: int,
    temperature: float,
) -> list[str]:
    prompts = [
        processor.apply_chat_template(task.conversation(record.query), add_generation_prompt=True)
        for record in records
    ]
    images = [picture(record, task) for record in records]
    inputs = processor(text=prompts, images=images, padding=True, return_tensors='pt')
    inputs = inputs.to(model.device)
    with torch.no_grad():
        written = model.generate(
            **inputs, **sampling_options(temperature), max_new_tokens=max_tokens
        )
    replies = written[:, inputs['input_ids'].shape[1] :]
    return list(processor.batch_decode(replies, skip_special_tokens=True))
