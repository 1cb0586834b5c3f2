# SPDX-License-Identifier: Apache-2.0
"""The paper's tables in miniature: measures the runs of the tiny presets on held-out scenes.

    for ROW in grpo imitation nocot bbox points softacc soft; do
        python training/train.py --config config/training/tiny_$ROW.yaml
    done
    python benchmarks/miniature.py [RUN ...] [--sentences 200]

Each model answers with greedy decoding about new scenes of the kind it was trained on (`test`),
and about unseen colours, shapes and relations. `tiny_sam2` makes the masks. With `--rewards` the
benchmark instead prints each reward of the start model and of the runs, for greedy and for
sampled answers.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from segzero_core.data import Record, read_dataset
from segzero_core.errors import AnswerError
from segzero_core.metrics.masks import image_ious, overlap
from segzero_core.segmenters import load_segmenter
from segzero_core.segmenters.base import Segmenter
from training.config import TrainConfig, load_config
from training.models import load_trainee
from training.trl_rewards import Masks
from training.validation import ScoredAnswer, answer_records

ROWS = ('grpo', 'imitation', 'nocot', 'bbox', 'points', 'softacc', 'soft')
SPLITS = ('test', 'unseen_colours', 'unseen_shapes', 'unseen_relations')


def answers(
    config: TrainConfig, split: str, count: int, temperature: float = 0.0
) -> list[ScoredAnswer]:
    """Load the model ``config.model`` with the task of ``config``."""
    trainee = load_trainee(config)
    torch.manual_seed(0)
    return answer_records(
        trainee.model,
        trainee.processor,
        scenes(split, count),
        trainee.task,
        config.recipe,
        config.max_completion_tokens,
        batch=50,
        temperature=temperature,
    )


@functools.cache
def scenes(split: str, count: int) -> Sequence[Record]:
    """Return the scenes and sentences; each scene is rendered once for all runs."""
    return read_dataset(f'synthetic:{split}?size=256x192&count={count}').records


def mask_iou(masks: Masks, answered: ScoredAnswer) -> float:
    """Return the IoU of the mask from an answer; 0 if the answer cannot be read."""
    record = answered.record
    assert record.load_mask is not None
    try:
        found = masks(answered.text, record)
    except AnswerError:
        return 0.0
    return float(image_ious([overlap(found.mask, record.load_mask())])[0])


def mean(found: list[ScoredAnswer], name: str) -> float:
    """Return the mean of a value over answers."""
    return float(np.mean([answered.values[name] for answered in found]))


def report_table(runs: list[TrainConfig], count: int, segmenter: Segmenter) -> None:
    """Print gIoU and, for answers with a box, the share of right boxes, by run and split."""
    print('| run | ' + ' | '.join(SPLITS) + ' |')
    print('|---' * (len(SPLITS) + 1) + '|')
    for config in runs:
        cells = []
        for split in SPLITS:
            found = answers(config, split, count)
            masks = Masks(config.task, segmenter)
            cell = f'{np.mean([mask_iou(masks, one) for one in found]):.3f}'
            if config.task.box:
                cell += f' ({mean(found, "box_hit"):.1%})'
            cells.append(cell)
        print(f'| {Path(config.output).name} | ' + ' | '.join(cells) + ' |', flush=True)


def report_rewards(runs: list[TrainConfig], count: int) -> None:
    """Print each reward of greedy answers and of sampled ones."""
    for config in runs:
        for temperature in (0.0, 1.0):
            found = answers(config, 'test', count, temperature)
            values = ' '.join(f'{name} {mean(found, name):.3f}' for name in found[0].values)
            way = 'sampled' if temperature else 'likeliest'
            print(f'{Path(config.output).name}, {config.model}, {way}: {values}', flush=True)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('runs', nargs='*', default=[f'runs/tiny_{row}' for row in ROWS])
    parser.add_argument('--sentences', type=int, default=200, help='of each split')
    parser.add_argument('--rewards', action='store_true')
    options = parser.parse_args()
    started = [load_config(Path(run) / 'config.yaml') for run in options.runs]
    trained = [
        dataclasses.replace(config, model=f'{run}/model')
        for config, run in zip(started, options.runs, strict=True)
    ]
    if options.rewards:
        pairs = zip(started, trained, strict=True)
        report_rewards([config for pair in pairs for config in pair], options.sentences)
    else:
        segmenter = load_segmenter('sam2', model='tiny_sam2', device='cpu')
        report_table(trained, options.sentences, segmenter)


if __name__ == '__main__':
    main()
