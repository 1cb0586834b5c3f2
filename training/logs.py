# SPDX-License-Identifier: Apache-2.0
"""A progress bar, a line of metrics per step, and sampled answers as pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PilImage
from tqdm.auto import tqdm
from transformers import TrainerCallback

from segzero_core.data import Record
from segzero_core.errors import AnswerError
from segzero_core.geometry import rescale_box, rescale_point
from segzero_core.overlay import draw_overlay
from segzero_core.task import Task
from segzero_core.types import Box, Point, Segmentation, Size
from training.metrics_log import append_metrics
from training.trl_rewards import Masks

_BAR = {  # shown beside the progress bar: name there -> name in the metrics
    'loss': 'loss',
    'reward': 'reward',
    'kl': 'kl',
    'length': 'completions/mean_length',
    'min': 'completions/min_length',
    'max': 'completions/max_length',
    'accuracy': 'mean_token_accuracy',
}


class ProgressCallback(TrainerCallback):
    """Writes every step's metrics and moves the progress bar."""

    def __init__(self, run: Path) -> None:
        """Report to the folder ``run``."""
        self._run = run
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar, on one process."""
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit='step')

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Take in what the trainer reports after a step."""
        if self._bar is None or not logs or 'loss' not in logs:
            return
        # Not transformers' epoch: a run is one epoch to it, however often it passes over the data.
        values = {key: value for key, value in logs.items() if key != 'epoch'}
        append_metrics(self._run, {'step': state.global_step, **values})
        shown = {name: logs[key] for name, key in _BAR.items() if key in logs}
        shown |= {
            key.split('/')[1]: value
            for key, value in logs.items()
            if key.startswith('rewards/') and key.endswith('/mean')
        }
        self._bar.set_postfix({name: f'{value:.3g}' for name, value in shown.items()})
        self._bar.update(state.global_step - self._bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


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
