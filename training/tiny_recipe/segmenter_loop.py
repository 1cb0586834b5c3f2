# SPDX-License-Identifier: Apache-2.0
"""Teaches a tiny SAM 2 to cut out what a box and two points are on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from segzero_core.errors import TrainingError
from segzero_core.runtime.atomic import atomic_folder
from segzero_core.runtime.checkpoints import check_checkpoint, find_checkpoint, transformers
from segzero_core.runtime.tiny_checkpoints import build_tiny_segmenter
from segzero_core.types import Size
from training.tiny_recipe.mask_batches import draw
from training.tiny_recipe.network import parameters
from training.tiny_recipe.resume import ResumePoint
from training.tiny_recipe.scene_cache import Scenes, load_scenes

RENDERED = Size(640, 480)
_REPORT_EVERY = 50
_FOCAL_WEIGHT = 20.0  # to dice, as SAM 2 was trained (arXiv 2408.00714, appendix D)


@dataclass(frozen=True)
class SegmenterSettings:
    """Everything that decides what comes out.

    Attributes:
        output: Folder of the run; the trained checkpoint is its ``model``.
        cache: Folder for rendered scenes.
        scenes: How many.
        first_scene: Seed of the first.
        steps: Of training.
        batch: Scenes per step.
        prompts: Per scene.
        learning_rate: At its highest.
        jitter: Standard deviation of a prompt's box sides, as a share of its width and height.
            Some prompts are nearly exact, others nearly twice as far off.
        zoom: Half of the images are parts of scenes, enlarged up to this many times.
        start: A checkpoint to go on from: a name, folder or hub id; '' = random weights.
        seed: Of the weights and the batches.
        save_every: Steps between resume points.
    """

    output: Path
    cache: Path
    scenes: int = 4000
    first_scene: int = 20_000
    steps: int = 17_000
    batch: int = 4
    prompts: int = 4
    learning_rate: float = 1e-3
    jitter: float = 0.08
    zoom: float = 1.6
    start: str = ''
    seed: int = 0
    save_every: int = 250


def train_segmenter(
    settings: SegmenterSettings, on_report: Callable[[dict[str, float]], None] = lambda _: None
) -> Path:
    """Train a tiny SAM 2 from ``settings.start``, or go on where a killed run stopped.

    Args:
        settings: What to do.
        on_report: Called every 50 steps with the step, the learning rate, the speed and the mean
            losses and mask IoU since the last call.

    Returns:
        The trained model, an ordinary checkpoint folder.

    Raises:
        ModelLoadError: ``settings.start`` is no SAM 2.
        TrainingError: A loss is not a number.
    """
    trained, start = settings.output / 'model', settings.output / 'start'
    if trained.is_dir():
        return trained
    if settings.start:
        start = find_checkpoint(settings.start)
        check_checkpoint(start, ('sam2',))
    elif not start.is_dir():
        with atomic_folder(start) as draft:
            build_tiny_segmenter(draft, settings.seed)
    side = transformers.AutoConfig.from_pretrained(start).prompt_encoder_config.image_size
    scenes = load_scenes(settings.cache, settings.first_scene, settings.scenes, side, RENDERED)
    run = _SegmenterRun(settings, start, scenes, on_report)
    run.train()
    return run.save(trained)


class _SegmenterRun:
    """What a training carries from step to step."""

    def __init__(
        self,
        settings: SegmenterSettings,
        start: Path,
        scenes: Scenes,
        on_report: Callable[[dict[str, float]], None],
    ) -> None:
        torch.manual_seed(settings.seed)
        self._settings, self._scenes, self._on_report = settings, scenes, on_report
        # bfloat16 pays on a CPU only with attention as plain matrix products.
        self._model = transformers.Sam2Model.from_pretrained(
            start, dtype=torch.float32, attn_implementation='eager'
        )
        self._model.train()
        self._optimizer = torch.optim.AdamW(
            parameters(self._model), betas=(0.9, 0.95), weight_decay=0.01, fused=True
        )
        self._rng = np.random.Generator(np.random.PCG64(settings.seed))
        self._point = ResumePoint(
            settings.output, self._rng, model=self._model, optimizer=self._optimizer
        )
        self._step = self._point.load()

    def train(self) -> None:
        """Run all steps from the one it stands at."""
        began, sums = time.perf_counter(), dict[str, list[float]]()
        while self._step < self._settings.steps:
            rate = self._rate()
            for group in self._optimizer.param_groups:
                group['lr'] = rate
            for name, value in self._update().items():
                sums.setdefault(name, []).append(value)
            self._step += 1
            if self._step % _REPORT_EVERY == 0:
                means = {name: float(np.mean(values)) for name, values in sums.items()}
                done = len(sums['iou']) * self._settings.batch
                speed = done / (time.perf_counter() - began)
                self._on_report({'step': self._step, 'rate': rate, 'scenes_per_s': speed, **means})
                began, sums = time.perf_counter(), {}
            if self._step % self._settings.save_every == 0:
                self._point.save(self._step)

    def _rate(self) -> float:
        """Return the learning rate: up for 100 steps, then down on a half cosine."""
        done = self._step / self._settings.steps
        rise = (self._step + 1) / 100
        return self._settings.learning_rate * min(1.0, rise, (1 + math.cos(math.pi * done)) / 2)

    def _update(self) -> dict[str, float]:
        batch = draw(self._scenes, self._settings, self._rng)
        with torch.autocast('cpu', torch.bfloat16):
            found = self._model(
                pixel_values=batch.images,
                input_boxes=batch.boxes,
                input_points=batch.points,
                multimask_output=True,
            )
        losses = mask_losses(found.pred_masks.float(), found.iou_scores.float(), batch.masks)
        total = _FOCAL_WEIGHT * losses['focal'] + losses['dice'] + losses['score']
        if not torch.isfinite(total):
            raise TrainingError(
                f'the loss at step {self._step} is {total.item()}: lower the learning rate. '
                f'The last good state is in {self._point.file}'
            )
        self._optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def save(self, folder: Path) -> Path:
        """Write the trained checkpoint and remove what only a resume needs."""
        with atomic_folder(folder) as draft:
            self._model.half().save_pretrained(draft)
        self._point.remove()
        return folder


def mask_losses(
    logits: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the losses of all three masks and of their scores, and the chosen mask's IoU.

    SAM 2 learns by the best of the three alone, so that each may mean another part of what a
    single click is on. A box and two points leave nothing open, and what is not trained may still
    be chosen.

    Args:
        logits: (B, P, 3, h, w).
        scores: (B, P, 3) predicted IoUs.
        truth: (B, P, S, S) bool, S a multiple of h and w.
    """
    logits, scores = logits.flatten(0, 1), scores.flatten(0, 1)
    size = logits.shape[-2:]
    # The share of a coarse pixel that is covered says more than whether its middle is.
    aim = functional.adaptive_avg_pool2d(truth.flatten(0, 1).float(), size)[:, None]
    aim = aim.expand_as(logits)
    chance = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, aim, reduction='none')
    focal = (entropy * (chance - aim).abs() ** 2).mean((-1, -2))
    both = (chance * aim).sum((-1, -2))
    dice = 1 - (2 * both + 1) / (chance.sum((-1, -2)) + aim.sum((-1, -2)) + 1)
    with torch.no_grad():
        inside, wanted = logits > 0, aim > 0.5
        common = (inside & wanted).sum((-1, -2))
        iou = common / (inside | wanted).sum((-1, -2)).clamp(min=1)
    return {
        'focal': focal.mean(),
        'dice': dice.mean(),
        'score': functional.l1_loss(scores, iou),
        'iou': iou.gather(1, scores.argmax(-1, keepdim=True)).mean(),
    }
