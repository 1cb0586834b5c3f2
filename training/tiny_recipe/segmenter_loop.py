# SPDX-License-Identifier: Apache-2.0
"""Trains a tiny SAM 2 to segment the object that a box and two points are on."""

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
REPORT_EVERY = 50
_FOCAL_WEIGHT = 20.0  # relative to dice, as for SAM 2 (arXiv 2408.00714, appendix D)


@dataclass(frozen=True)
class SegmenterSettings:
    """All settings of the training of a tiny SAM 2, and the only place of their defaults.

    Attributes:
        output: Folder of the run; ``model`` in it is the trained checkpoint.
        cache: Folder of rendered scenes.
        scenes: Number of scenes.
        first_scene: Seed of the first scene.
        steps: Number of steps.
        batch: Scenes per step.
        prompts: Prompts per scene.
        learning_rate: Peak learning rate.
        jitter: Standard deviation of the sides of a prompt's box, as a share of its width and
            height, over all prompts; it varies from prompt to prompt.
        zoom: Half of the images are crops of scenes, enlarged up to this factor.
        start: A checkpoint to start from: a name, folder or hub id; '' = random weights.
        seed: Seed of weights and batches.
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
    """Train a tiny SAM 2 from ``settings.start``, or continue an interrupted run.

    Args:
        settings: The settings.
        on_report: Called every 50 steps with the step, the learning rate, the speed and the mean
            losses and mask IoU since the last call.

    Returns:
        Folder of the trained model, an ordinary checkpoint.

    Raises:
        ModelLoadError: ``settings.start`` is not a SAM 2.
        TrainingError: A loss is not finite, or the state cannot be saved.
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
    run = SegmenterRun(settings, start, scenes, on_report)
    run.train()
    return run.save(trained)


class SegmenterRun:
    """The state of a training of a tiny SAM 2."""

    def __init__(
        self,
        settings: SegmenterSettings,
        start: Path,
        scenes: Scenes,
        on_report: Callable[[dict[str, float]], None],
    ) -> None:
        """Create model and optimiser, and restore the saved state of ``settings.output``."""
        torch.manual_seed(settings.seed)
        self._settings, self._scenes, self._on_report = settings, scenes, on_report
        # On a CPU bfloat16 is faster only with attention as plain matrix products.
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
        """Run all steps from the current one."""
        began, sums = time.perf_counter(), dict[str, list[float]]()
        while self._step < self._settings.steps:
            rate = self._rate()
            for group in self._optimizer.param_groups:
                group['lr'] = rate
            for name, value in self.update().items():
                sums.setdefault(name, []).append(value)
            self._step += 1
            if self._step % REPORT_EVERY == 0:
                means = {name: float(np.mean(values)) for name, values in sums.items()}
                done = len(sums['iou']) * self._settings.batch
                speed = done / (time.perf_counter() - began)
                self._on_report({'step': self._step, 'rate': rate, 'scenes_per_s': speed, **means})
                began, sums = time.perf_counter(), {}
            if self._step % self._settings.save_every == 0:
                self._point.save(self._step)

    def _rate(self) -> float:
        """Return the learning rate: a rise over 100 steps, then half a cosine."""
        done = self._step / self._settings.steps
        rise = (self._step + 1) / 100
        return self._settings.learning_rate * min(1.0, rise, (1 + math.cos(math.pi * done)) / 2)

    def update(self) -> dict[str, float]:
        """Do one optimiser step; return all losses and the mask IoU.

        Raises:
            TrainingError: The loss is not finite.
        """
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
        """Write the trained checkpoint and remove the resume point."""
        with atomic_folder(folder) as draft:
            self._model.half().save_pretrained(draft)
        self._point.remove()
        return folder


def mask_losses(
    logits: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the losses of all three masks and of their scores, and the IoU of the chosen mask.

    SAM 2 was trained on the best of its three masks alone, so that each can mean another part
    under a single click. A box and two points are not ambiguous, and an untrained mask could still
    be chosen, so all three are trained here.

    Args:
        logits: (B, P, 3, h, w) masks, before the sigmoid.
        scores: (B, P, 3) predicted IoUs.
        truth: (B, P, S, S) bool; S is a multiple of h and w.
    """
    logits, scores = logits.flatten(0, 1), scores.flatten(0, 1)
    size = logits.shape[-2:]
    # The covered share of a coarse pixel is a better target than its centre.
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
