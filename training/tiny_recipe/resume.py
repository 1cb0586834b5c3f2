# SPDX-License-Identifier: Apache-2.0
"""The resume point of a training of a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from segzero_core.errors import TrainingError
from segzero_core.runtime.atomic import atomic_file
from training.metrics_log import forget_after


class ResumePoint:
    """The last saved state of a run, one file in its folder.

    Attributes:
        file: Path of the file, which exists once a state was saved.
    """

    def __init__(self, folder: Path, rng: np.random.Generator, **parts: Any) -> None:
        """Take the objects whose state is saved.

        Args:
            folder: Folder of the run.
            rng: Its random generator.
            **parts: Models and optimisers, each with a ``state_dict``.
        """
        self.file = folder / 'resume.pt'
        self._folder, self._rng, self._parts = folder, rng, parts

    def load(self) -> int:
        """Restore the saved state and return its step; 0 if there is no saved state.

        Metrics of later steps are removed, because the steps will be repeated.
        """
        step = 0
        if self.file.is_file():
            state = torch.load(self.file, weights_only=True)
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self._rng.bit_generator.state = state['rng']
            step = state['step']
        forget_after(self._folder, step)
        return step

    def save(self, step: int) -> None:
        """Save the state after ``step`` steps.

        Raises:
            TrainingError: It cannot be written. The former state is kept.
        """
        states = {name: part.state_dict() for name, part in self._parts.items()}
        try:
            with atomic_file(self.file) as draft:
                torch.save({**states, 'rng': self._rng.bit_generator.state, 'step': step}, draft)
        except (OSError, RuntimeError) as error:  # on a full disk torch raises RuntimeError
            raise TrainingError(
                f'cannot save the state after step {step} to {self.file} ({error}): free some '
                'space and start the same command again; it continues from the former state'
            ) from error

    def remove(self) -> None:
        """Remove the file at the end of a run."""
        self.file.unlink(missing_ok=True)
