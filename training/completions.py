# SPDX-License-Identifier: Apache-2.0
"""Sampled completions of a run: their text and rewards as JSON lines, and a picture of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PilImage

from segzero_core.data import Record
from segzero_core.errors import AnswerError
from segzero_core.overlay import draw_overlay
from segzero_core.runtime.atomic import atomic_file, atomic_text
from segzero_core.task import Task
from segzero_core.types import Segmentation
from training.trl_rewards import Masks


class SampledAnswer(NamedTuple):
    """An answer to look at.

    Attributes:
        record: Image and sentence.
        text: The answer.
        rewards: Its rewards, by name.
    """

    record: Record
    text: str
    rewards: dict[str, float]


def save_samples(
    folder: Path, step: int, samples: Sequence[SampledAnswer], task: Task, masks: Masks | None
) -> None:
    """Write answers to ``step_N.jsonl``, and a picture of each to ``step_N_i.png``.

    Args:
        folder: Where to write; created if it does not exist.
        step: The optimiser step.
        samples: The answers.
        task: How they are read.
        masks: Segments them; None = pictures without masks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, sample in enumerate(samples):
        record = sample.record
        lines.append(
            {
                'id': record.id,
                'query': record.query,
                'text': sample.text,
                'rewards': sample.rewards,
            }
        )
        picture = draw_overlay(record.load_image(), _drawn(sample, task, masks), record.query)
        with atomic_file(folder / f'step_{step:06d}_{number}.png') as draft:
            PilImage.fromarray(picture).save(draft, 'png')
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    atomic_text(folder / f'step_{step:06d}.jsonl', text)


def _drawn(sample: SampledAnswer, task: Task, masks: Masks | None) -> Segmentation:
    """Return the answer as the overlay draws it; an unreadable one has only its text."""
    record = sample.record
    mask = np.zeros((record.size.height, record.size.width), bool)
    try:
        answer = task.read(sample.text, task.answer_size(record.size))
    except AnswerError as error:
        words = f'({error.kind}) {sample.text}'
        return Segmentation(mask, 0.0, None, (), reasoning=words, text=sample.text)
    prompt = task.mask_prompt(answer, record.size)
    if masks:
        mask = masks(sample.text, record).mask
    return Segmentation(
        mask, 0.0, prompt.box, prompt.points, reasoning=answer.reasoning, text=sample.text
    )
