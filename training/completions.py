# SPDX-License-Identifier: Apache-2.0
"""Sampled completions of a run: their text and rewards as JSON lines, and a picture of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PilImage

from segzero_core.data import Record
from segzero_core.errors import AnswerError
from segzero_core.geometry import rescale_box, rescale_point
from segzero_core.overlay import draw_overlay
from segzero_core.task import Task
from segzero_core.types import Box, Point, Segmentation, Size
from training.trl_rewards import Masks


class SampledAnswer(NamedTuple):
    """One answer to look at.

    Attributes:
        record: What was asked.
        space: The space the answer's coordinates are in.
        text: The answer.
        rewards: What it earned, by name.
    """

    record: Record
    space: Size
    text: str
    rewards: dict[str, float]


def save_samples(
    folder: Path, step: int, samples: Sequence[SampledAnswer], task: Task, masks: Masks | None
) -> None:
    """Write answers as JSON lines and, where they can be read, as pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, sample in enumerate(samples):
        name = f'step_{step:06d}_{number}'
        lines.append(
            {
                'id': sample.record.id,
                'query': sample.record.query,
                'text': sample.text,
                'rewards': sample.rewards,
            }
        )
        picture = _picture(sample, task, masks)
        PilImage.fromarray(picture).save(folder / f'{name}.png')
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / f'step_{step:06d}.jsonl').write_text(text, encoding='utf-8')


def _picture(sample: SampledAnswer, task: Task, masks: Masks | None) -> Any:
    record = sample.record
    image = record.load_image()
    try:
        answer = task.read(sample.text, sample.space)
    except AnswerError as error:
        return _plain(image, record, f'({error.kind}) {sample.text}')
    box = rescale_box(answer.box, sample.space, record.size) if answer.box else None
    points = [rescale_point(point, sample.space, record.size) for point in answer.points]
    found = masks(sample.text, record, sample.space) if masks else None
    mask = np.zeros(image.shape[:2], bool) if found is None else found.mask
    return draw_overlay(image, _shown(mask, box, points, answer.reasoning), record.query)


def _plain(image: Any, record: Record, words: str) -> Any:
    nothing = np.zeros(image.shape[:2], bool)
    return draw_overlay(image, _shown(nothing, None, [], words), record.query)


def _shown(mask: Any, box: Box | None, points: Sequence[Point], words: str) -> Segmentation:
    outside = Point(-1000.0, -1000.0)  # what is not there is drawn where nobody sees it
    pair = (points[0], points[1]) if len(points) == 2 else (outside, outside)
    return Segmentation(
        mask=mask,
        score=0.0,
        box=box or Box(*outside, *outside),
        points=pair,
        reasoning=words,
        text=words,
    )
