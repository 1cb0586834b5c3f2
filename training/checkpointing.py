# SPDX-License-Identifier: Apache-2.0
"""Additions to transformers' trainer: exact resume, atomic checkpoints, a stop at NaN.

A checkpoint is written under another name and renamed when it is complete. A folder called
``checkpoint-N`` can therefore always be resumed from, whenever the process was killed.
"""

from __future__ import annotations

import contextlib
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from segzero_core.errors import TrainingError
from segzero_core.runtime.atomic import replace_folder
from training.config import TrainConfig
from training.dataset import ReasonerDataset, StepSampler
from training.models import checkpoint_notes, load_model, save_processor

PARTIAL = 'checkpoint.partial'
_NAME = re.compile('checkpoint-[0-9]+')


def newest_checkpoint(run: Path) -> Path | None:
    """Return the last complete checkpoint of a run; an incomplete one is removed."""
    shutil.rmtree(run / PARTIAL, ignore_errors=True)
    found = _checkpoints(run)
    return found[-1] if found else None


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was written."""
    return int(checkpoint.name.rpartition('-')[2])


def _checkpoints(run: Path) -> list[Path]:
    found = run.glob(
        'checkpoint-*'
    )  # users keep copies under other names, such as checkpoint-50.bak
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=checkpoint_step)


@contextlib.contextmanager
def explained_saving(what: str, run: Path) -> Iterator[None]:
    """Turn a failed write into an error that names the last good checkpoint.

    Args:
        what: Name of the saved object, for the message.
        run: Folder of the run.

    Raises:
        TrainingError: Something could not be written.
    """
    try:
        yield
    # On a full disk torch raises RuntimeError and safetensors SafetensorError.
    except (OSError, SafetensorError, RuntimeError) as error:
        last = newest_checkpoint(run)
        free = shutil.disk_usage(run).free / 2**20
        raise TrainingError(
            f'cannot save {what} to {run} ({error}); {free:.0f} MiB are free there. The last good '
            f'checkpoint is {last}. Free some space and start the same command again'
        ) from error


class CheckpointingTrainer:
    """Mixin that precedes a transformers ``Trainer``.

    Attributes:
        settings: The run's configuration.
        examples: The training data.
        steps: Optimiser steps of the whole run.
    """

    settings: TrainConfig
    examples: ReasonerDataset
    steps: int
    _batch_ids: tuple[str, ...] = ()
    _saving = False

    def _get_train_sampler(self: Any, dataset: Any = None) -> StepSampler:
        grpo = self.settings.method == 'grpo'
        return StepSampler(
            rows=len(self.examples.records),
            steps=self.steps,
            sentences=self.settings.batch_size,
            seed=self.settings.seed,
            copies=self.settings.num_generations if grpo else 1,
            repeats=self.args.steps_per_generation if grpo else 1,
        )

    def training_step(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Do one forward and backward pass.

        Raises:
            TrainingError: The loss is not finite.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        if not torch.isfinite(loss).all():
            raise TrainingError(self._broken('the loss', float(loss)))
        return loss

    def _clip_grad_norm(self: Any, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]
        if norm is not None and not math.isfinite(float(norm)):
            raise TrainingError(self._broken('the gradient', float(norm)))
        return norm

    def _broken(self: Any, what: str, value: float) -> str:
        last = newest_checkpoint(Path(self.args.output_dir))
        good = f'{last} is good' if last else 'there is no checkpoint yet'
        return (
            f'{what} became {value} at step {self.state.global_step + 1}, in the batch of rows '
            f'{", ".join(dict.fromkeys(self._batch_ids))}. {good}. Lower learning_rate or '
            'max_grad_norm, look at those rows, or use precision=fp32'
        )

    def _get_output_dir(self: Any, trial: Any) -> str:
        run = super()._get_output_dir(trial)  # type: ignore[misc]
        return str(Path(run) / PARTIAL) if self._saving else run

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        run = Path(self.args.output_dir)
        name = f'checkpoint-{self.state.global_step}'
        self._saving = True
        try:
            with explained_saving(f'the checkpoint of step {self.state.global_step}', run):
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
                if self.is_world_process_zero():
                    notes = checkpoint_notes(self.examples.task)
                    save_processor(self.processing_class, notes, run / PARTIAL / name)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            with explained_saving(f'the checkpoint of step {self.state.global_step}', run):
                replace_folder(run / PARTIAL / name, run / name)
            shutil.rmtree(run / PARTIAL)
            for old in _checkpoints(run)[: -self.settings.keep_checkpoints]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load all weights of a checkpoint, or fail.

        ``Trainer`` loads tensors by name with ``strict=False``. Qwen-VL checkpoints use other
        names than the modules, so it would load nothing, and training would silently continue
        from the weights it once started from.
        """
        if self.settings.lora_rank or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        target = self.model if model is None else model
        saved = load_model(Path(resume_from_checkpoint), target.dtype)
        target.load_state_dict(saved.state_dict(), strict=True)
