# SPDX-License-Identifier: Apache-2.0
"""The two phases: look (dense losses alone), then answer (replies, with the dense losses)."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segzero_core.checkpoints import transformers
from segzero_core.prompts import get_family
from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.tiny import ReasonerSizes, build_tiny_reasoner
from training.grounding.batches import NO_LABEL, Batcher
from training.grounding.losses import DenseHeads, Numbers, dense_losses, reply_losses
from training.grounding.network import parameters, read, see, start_local, start_ordered
from training.grounding.scenes import Scenes, load_scenes
from training.grounding.texts import corpus, whole_tokens

log = logging.getLogger(__name__)

FAMILY = 'tiny'
_CORPUS_SCENES = 1000


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own learning-rate schedule (warm-up, then cosine).

    Attributes:
        steps: How many.
        scenes: Per step.
        sentences: Per scene; 0 trains the dense readings alone.
        learning_rate: At its highest.
    """

    steps: int
    scenes: int
    sentences: int
    learning_rate: float


@dataclass(frozen=True)
class Settings:
    """Everything that decides what comes out.

    Attributes:
        output: Checkpoint folder to write.
        cache: Folder for rendered scenes.
        scenes: How many, from seed 0.
        look: First phase.
        answer: Second phase.
        dense_weight: Of the dense losses in the second phase.
        middle: Layers of the language model before its dense readings.
        seed: Of the weights and the batches.
        save_every: Steps between resume points.
    """

    output: Path
    cache: Path
    scenes: int = 16_000
    look: Phase = field(default=Phase(500, 48, 0, 2e-3))
    answer: Phase = field(default=Phase(2000, 24, 6, 1.5e-3))
    dense_weight: float = 0.6
    middle: int = 2
    seed: int = 0
    save_every: int = 250


def warm_up(settings: Settings) -> Path:
    """Train a tiny reasoner from random weights, or go on where a killed run stopped.

    Returns:
        ``settings.output``, an ordinary checkpoint folder.

    Raises:
        FloatingPointError: A loss is not a number.
    """
    side = get_family(FAMILY).image_size
    assert side is not None
    scenes = load_scenes(settings.cache, 0, settings.scenes, side)
    if not (settings.output / 'config.json').is_file():
        create(settings.output, scenes, settings.seed)
    run = _Run(settings, scenes)
    run.resume()
    run.train()
    run.save()
    return settings.output


def create(folder: Path, scenes: Scenes, seed: int) -> None:
    """Write the untrained model, with its tokenizer and image processor."""
    some = slice(0, _CORPUS_SCENES)
    words = Scenes(
        scenes.images[some], scenes.instances[some], scenes.items[some], scenes.queries[some]
    )
    sizes = ReasonerSizes(
        vocabulary=900,
        patch=8,
        vision_width=96,
        vision_layers=3,
        vision_heads=3,
        vision_mlp=192,
        text_layers=4,
        text_heads=2,
        text_kv_heads=2,
        text_mlp=384,
        min_pixels=scenes.side**2,
        max_pixels=scenes.side**2,
        whole_image=True,
    )
    build_tiny_reasoner(
        folder,
        seed,
        sizes,
        corpus=corpus(words),
        family=FAMILY,
        whole_tokens=whole_tokens(scenes.side),
    )
    model = _load(folder)
    tokenizer = QwenProcessor.from_pretrained(folder).tokenizer
    start_local(model)
    start_ordered(model, _number_tokens(tokenizer, scenes.side))
    model.save_pretrained(folder)


class _Run:
    """What a training carries from step to step."""

    def __init__(self, settings: Settings, scenes: Scenes) -> None:
        torch.manual_seed(settings.seed)
        self._settings = settings
        self._model = _load(settings.output).train()
        processor = QwenProcessor.from_pretrained(settings.output)
        tower = self._model.model.visual
        self._batcher = Batcher(
            scenes,
            processor.tokenizer,
            get_family(FAMILY),
            tower.patch_size,
            tower.spatial_merge_size,
        )
        self._cell = tower.patch_size * tower.spatial_merge_size
        self._mean = torch.tensor(processor.image_processor.image_mean)
        self._std = torch.tensor(processor.image_processor.image_std)
        width = self._model.config.text_config.hidden_size
        self._heads = DenseHeads(width, self._batcher.grid)
        self._numbers = Numbers.of(_number_tokens(processor.tokenizer, scenes.side))
        self._optimizer = torch.optim.AdamW(
            parameters(self._model, self._heads), betas=(0.9, 0.95), weight_decay=0.05, fused=True
        )
        self._rng = np.random.Generator(np.random.PCG64(settings.seed))
        self._step = 0
        self._file = settings.output / 'resume.pt'

    def train(self) -> None:
        """Run both phases from the step it stands at."""
        start = 0
        for phase in (self._settings.look, self._settings.answer):
            began, sums = time.perf_counter(), {}
            while self._step < start + phase.steps:
                rate = _rate(phase, self._step - start)
                for group in self._optimizer.param_groups:
                    group['lr'] = rate
                for name, value in self._update(phase).items():
                    sums.setdefault(name, []).append(value)
                self._step += 1
                if self._step % 50 == 0:
                    self._report(rate, sums, 50 * phase.scenes / (time.perf_counter() - began))
                    began, sums = time.perf_counter(), {}
                if self._step % self._settings.save_every == 0:
                    self._checkpoint()
            start += phase.steps

    def _update(self, phase: Phase) -> dict[str, float]:
        images, dense, packed = self._batcher.draw(phase.scenes, phase.sentences, self._rng)
        images = _vary_light(images, self._rng)
        seen = see(self._model, images, self._mean, self._std)
        middle, final = read(
            self._model, seen, packed, self._batcher.tokens, self._settings.middle
        )
        words = self._model.get_input_embeddings().weight
        losses = dense_losses(self._heads, seen, middle, dense, self._numbers, words, self._cell)
        weight = self._settings.dense_weight if phase.sentences else 1.0
        total = weight * sum(
            loss for name, loss in losses.items() if '/' in name and name[:3] != 'hit'
        )
        if phase.sentences:
            replies = packed.labels != NO_LABEL
            scores = self._model.lm_head(final[replies])
            answers = reply_losses(scores, packed.labels[replies], self._numbers)
            total = total + answers['words'] + answers['numbers']
            losses |= answers
        if not torch.isfinite(total):
            raise FloatingPointError(
                f'the loss at step {self._step} is {float(total)}: lower the learning rate. '
                f'The last good state is in {self._file}'
            )
        self._optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_([*self._model.parameters(), *self._heads.parameters()], 1.0)
        self._optimizer.step()
        return {name: float(value) for name, value in losses.items()}

    def resume(self) -> None:
        """Go back to the newest resume point, if there is one."""
        if not self._file.is_file():
            return
        state = torch.load(self._file, weights_only=True)
        self._model.load_state_dict(state['model'])
        self._heads.load_state_dict(state['heads'])
        self._optimizer.load_state_dict(state['optimizer'])
        self._rng.bit_generator.state = state['rng']
        self._step = state['step']
        log.info('going on from step %d', self._step)

    def _checkpoint(self) -> None:
        part = self._file.with_suffix('.tmp')
        torch.save(
            {
                'model': self._model.state_dict(),
                'heads': self._heads.state_dict(),
                'optimizer': self._optimizer.state_dict(),
                'rng': self._rng.bit_generator.state,
                'step': self._step,
            },
            part,
        )
        part.replace(self._file)

    def save(self) -> None:
        """Write the trained weights and remove what only a resume needs."""
        self._model.save_pretrained(self._settings.output)
        self._file.unlink(missing_ok=True)

    def _report(self, rate: float, sums: dict[str, list[float]], speed: float) -> None:
        means = {name: float(np.mean(values)) for name, values in sums.items()}
        line = {'step': self._step, 'rate': rate, 'scenes_per_second': speed, **means}
        with (self._settings.output.parent / 'metrics.jsonl').open('a') as file:
            file.write(json.dumps(line) + '\n')
        log.info(' '.join(f'{name} {value:.4g}' for name, value in line.items()))


def _load(folder: Path) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation='sdpa'
    )


def _number_tokens(tokenizer: Any, count: int) -> list[int]:
    ids: list[int] = tokenizer.convert_tokens_to_ids([str(number) for number in range(count)])
    return ids


def _vary_light(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return (B, 3, S, S) images, each a tenth brighter or darker, harder or softer."""
    gain, contrast = torch.from_numpy(0.9 + 0.2 * rng.random((2, len(images), 1, 1, 1))).float()
    return ((images.float() - 128) * contrast + 128) * gain


def _rate(phase: Phase, step: int) -> float:
    warm = min(1.0, (step + 1) / min(100, max(1, phase.steps // 5)))
    fall = 0.5 * (1 + math.cos(math.pi * step / phase.steps))
    return phase.learning_rate * warm * (0.05 + 0.95 * fall)
