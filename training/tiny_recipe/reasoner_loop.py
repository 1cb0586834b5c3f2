# SPDX-License-Identifier: Apache-2.0
"""Trains the tiny reasoner: a phase with dense losses alone, then phases that also answer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segzero_core.errors import TrainingError
from segzero_core.prompts import get_family
from segzero_core.reasoners.qwen_processor import QwenProcessor
from segzero_core.runtime.atomic import atomic_folder
from segzero_core.runtime.checkpoints import transformers
from segzero_core.runtime.tiny_checkpoints import ReasonerSizes, build_tiny_reasoner
from segzero_core.synthetic import KINDS
from training.tiny_recipe.batches import NO_LABEL, Batcher, Dense, PackedSentences
from training.tiny_recipe.losses import (
    DenseHeads,
    Vocabulary,
    copy_losses,
    dense_losses,
    gaze_losses,
    recall_loss,
    reply_losses,
)
from training.tiny_recipe.network import (
    parameters,
    read,
    read_image,
    see,
    start_local,
    start_ordered,
)
from training.tiny_recipe.resume import ResumePoint
from training.tiny_recipe.scene_cache import Scenes, load_scenes
from training.tiny_recipe.texts import corpus, whole_tokens

FAMILY = 'tiny'
_CORPUS_SCENES = 1000
REPORT_EVERY = 50
# Weights of the losses of replies. Most words are the same in all replies; the few others count.
_WEIGHTS = {
    'words': 4.0,
    'numbers': 1.0,
    'recall': 1.0,
    'named': 1.0,
    'find': 2.0,
    'gaze': 1.0,
    'copy': 1.0,
}

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Phase:
    """A part of the training with its own learning-rate schedule.

    Attributes:
        steps: Number of steps.
        scenes: Scenes per step.
        sentences: Sentences per scene; 0 trains the dense read-outs alone.
        learning_rate: Peak learning rate.
        kinds: Kinds of sentences; a kind is drawn as often as it is listed.
    """

    steps: int
    scenes: int
    sentences: int
    learning_rate: float
    kinds: tuple[str, ...] = KINDS


@dataclass(frozen=True)
class ReasonerSettings:
    """All settings of the training of a tiny reasoner, and the only place of their defaults.

    Attributes:
        output: Folder of the run; ``model`` in it is the trained checkpoint.
        cache: Folder of rendered scenes.
        scenes: Number of scenes.
        first_scene: Seed of the first scene.
        phases: Phases in order; the learning rate falls at the end of the last one.
        dense_weight: Weight of the dense losses in phases with sentences.
        middle: Layers of the language model before its dense read-outs.
        seed: Seed of weights and batches.
        save_every: Steps between resume points.
    """

    output: Path
    cache: Path
    scenes: int = 12_000
    first_scene: int = 20_000
    phases: tuple[Phase, ...] = (
        Phase(600, 24, 0, 2e-3),
        Phase(5000, 8, 4, 8e-4, ('attribute', *KINDS)),
    )
    dense_weight: float = 0.4
    middle: int = 2
    seed: int = 0
    save_every: int = 250


def train_reasoner(settings: ReasonerSettings, on_report: Report = lambda _: None) -> Path:
    """Train a tiny reasoner from random weights, or continue an interrupted run.

    Args:
        settings: The settings.
        on_report: Called every 50 steps with the step, the learning rate, the speed and the means
            of all losses and accuracies (``hit/...``) since the last call.

    Returns:
        Folder of the trained model, an ordinary checkpoint.

    Raises:
        TrainingError: A loss is not finite, or the state cannot be saved.
    """
    trained, start = settings.output / 'model', settings.output / 'start'
    if trained.is_dir():
        return trained
    side = get_family(FAMILY).image_size
    assert side is not None
    scenes = load_scenes(settings.cache, settings.first_scene, settings.scenes, side)
    if not start.is_dir():
        create(start, scenes, settings.seed)
    run = ReasonerRun(settings, start, scenes, on_report)
    run.train()
    run.save(trained)
    return trained


def create(folder: Path, scenes: Scenes, seed: int) -> None:
    """Write the untrained model with tokenizer and image processor to a new folder."""
    some = slice(0, _CORPUS_SCENES)
    words = Scenes(
        scenes.images[some], scenes.instances[some], scenes.items[some], scenes.queries[some]
    )
    sizes = ReasonerSizes(
        vocabulary=900,
        patch=8,
        vision_width=128,
        vision_layers=3,
        vision_heads=4,
        vision_mlp=256,
        text_layers=6,
        text_heads=3,
        text_kv_heads=3,
        text_mlp=512,
        min_pixels=scenes.side**2,
        max_pixels=scenes.side**2,
        whole_image=True,
    )
    with atomic_folder(folder) as draft:
        build_tiny_reasoner(
            draft,
            seed,
            sizes,
            corpus=corpus(words),
            family=FAMILY,
            whole_tokens=whole_tokens(scenes.side),
        )
        model = _load(draft)
        tokenizer = QwenProcessor.from_pretrained(draft).tokenizer
        start_local(model)
        start_ordered(model, Vocabulary.of(tokenizer, scenes.side).numbers.tolist())
        model.save_pretrained(draft)


class ReasonerRun:
    """The state of a training of a tiny reasoner."""

    def __init__(
        self, settings: ReasonerSettings, start: Path, scenes: Scenes, on_report: Report
    ) -> None:
        """Create model and optimiser, and restore the saved state of ``settings.output``."""
        torch.manual_seed(settings.seed)
        self._settings, self._start, self._on_report = settings, start, on_report
        self._model = _load(start).train()
        processor = QwenProcessor.from_pretrained(start)
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
        self._vocabulary = Vocabulary.of(processor.tokenizer, scenes.side)
        self._optimizer = torch.optim.AdamW(
            parameters(self._model, self._heads), betas=(0.9, 0.95), weight_decay=0.05, fused=True
        )
        self._rng = np.random.Generator(np.random.PCG64(settings.seed))
        self._point = ResumePoint(
            settings.output,
            self._rng,
            model=self._model,
            heads=self._heads,
            optimizer=self._optimizer,
        )
        self._step = self._point.load()

    def train(self) -> None:
        """Run all phases from the current step."""
        start = 0
        for phase in self._settings.phases:
            began = time.perf_counter()
            sums: dict[str, list[float]] = {}
            while self._step < start + phase.steps:
                rate = _rate(phase, self._step - start, phase is self._settings.phases[-1])
                for group in self._optimizer.param_groups:
                    group['lr'] = rate
                for name, value in self.update(phase).items():
                    sums.setdefault(name, []).append(value)
                self._step += 1
                if self._step % REPORT_EVERY == 0:
                    done = REPORT_EVERY * phase.scenes
                    self._report(rate, sums, done / (time.perf_counter() - began))
                    began, sums = time.perf_counter(), {}
                if self._step % self._settings.save_every == 0:
                    self._point.save(self._step)
            start += phase.steps

    def update(self, phase: Phase) -> dict[str, float]:
        """Do one optimiser step; return all losses and accuracies.

        Raises:
            TrainingError: The loss is not finite.
        """
        images, dense, packed = self._batcher.draw(
            phase.scenes, phase.sentences, self._rng, phase.kinds
        )
        with torch.autocast('cpu', torch.bfloat16):
            losses = self._losses(_vary_light(images, self._rng), dense, packed)
        dense_weight = self._settings.dense_weight if phase.sentences else 1.0
        total = torch.stack(
            [
                _WEIGHTS.get(name, dense_weight) * loss
                for name, loss in losses.items()
                if not name.startswith('hit')
            ]
        ).sum()
        if not torch.isfinite(total):
            raise TrainingError(
                f'the loss at step {self._step} is {total.item()}: lower the learning rate. '
                f'The last good state is in {self._point.file}'
            )
        self._optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_([*self._model.parameters(), *self._heads.parameters()], 1.0)
        self._optimizer.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def _losses(
        self, images: torch.Tensor, dense: Dense, packed: PackedSentences
    ) -> dict[str, Any]:
        middle, where, words = self._settings.middle, self._batcher.tokens, self._vocabulary
        table = self._model.get_input_embeddings().weight
        seen = see(self._model, images, self._mean, self._std)
        if packed.ids.shape[1] == where.stop:
            state = read_image(self._model, seen, packed, where, middle)
            return dense_losses(self._heads, seen, state, dense, words, table, self._cell)
        reading = read(self._model, seen, packed, where, middle)
        state = reading.middle[:, where]
        losses = dense_losses(self._heads, seen, state, dense, words, table, self._cell)
        replies = packed.labels != NO_LABEL
        labels = packed.labels[replies]
        losses |= reply_losses(self._model.lm_head(reading.final[replies]), labels, words)
        losses |= copy_losses(self._heads, reading.looked[replies], labels, words, table)
        heard = packed.heard >= 0
        texts = packed.texts[packed.heard[heard]]
        losses['recall'] = recall_loss(self._heads, reading.middle[heard], texts, table)
        # Finding the meant item during the thinking is harder than attending to it afterwards.
        told = packed.targets >= 0
        thinks = told & (packed.heard % 2 == 0)
        for name, places, gaze, items in (
            ('find', thinks, reading.gaze, packed.targets),
            ('gaze', told & ~thinks, reading.gaze, packed.targets),
            ('named', packed.named >= 0, reading.first_gaze, packed.named),
        ):
            owner = dense.owner[places.nonzero()[:, 0]]
            losses[name], losses[f'hit/{name}'] = gaze_losses(gaze[places], items[places], owner)
        return losses

    def save(self, folder: Path) -> None:
        """Write the trained checkpoint and remove the resume point."""
        with atomic_folder(folder) as draft:
            shutil.copytree(self._start, draft, dirs_exist_ok=True)
            self._model.save_pretrained(draft)
        self._point.remove()

    def _report(self, rate: float, sums: dict[str, list[float]], speed: float) -> None:
        means = {name: float(np.mean(values)) for name, values in sums.items()}
        self._on_report({'step': self._step, 'rate': rate, 'scenes_per_s': speed, **means})


def _load(folder: Path) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation='eager'
    )


def _vary_light(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return (B, 3, S, S) images with brightness and contrast changed by up to 10 %."""
    gain, contrast = torch.from_numpy(0.9 + 0.2 * rng.random((2, len(images), 1, 1, 1))).float()
    return ((images.float() - 128) * contrast + 128) * gain


def _rate(phase: Phase, step: int, last: bool) -> float:
    """Return the learning rate: a rise over 100 steps, a plateau, a fall in the last phase."""
    rise = (step + 1) / min(100, max(1, phase.steps // 5))
    fall = (phase.steps - step) / (0.6 * phase.steps) if last else 1.0
    return phase.learning_rate * min(1.0, rise, fall)
