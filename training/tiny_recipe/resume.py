# SPDX-License-Identifier: Apache-2.0
"""Where a training from random weights goes on that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from segzero_core.errors import TrainingError
from segzero_core.runtime.atomic import atomic_file
from training.metrics_log import forget_after


class ResumePoint:
    """The newest state of a run, in one file of its folder.

    Attributes:
        file: Where it is, once there is one.
    """

    def __init__(self, folder: Path, rng: np.random.Generator, **parts: Any) -> None:
        """Note what a run consists of.

        Args:
            folder: Of the run.
            rng: Where its chance comes from.
            **parts: Whatever else it changes, each with a ``state_dict``.
        """
        self.file = folder / 'resume.pt'
        self._folder, self._rng, self._parts = folder, rng, parts

    def load(self) -> int:
        """Put everything back; return the steps it had done, 0 where there is no such state.

        What was measured after them is forgotten: it will be measured again.
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
        """Write the state after ``step`` steps; a kill meanwhile leaves the one before.

        Raises:
            TrainingError: It cannot be written. The one before is kept.
        """
        states = {name: part.state_dict() for name, part in self._parts.items()}
        try:
            with atomic_file(self.file) as draft:
                torch.save({**states, 'rng': self._rng.bit_generator.state, 'step': step}, draft)
        except (OSError, RuntimeError) as error:  # on a full disk torch raises RuntimeError
            raise TrainingError(
                f'cannot save the state after step {step} to {self.file} ({error}): free some '
                'space and start the same command again; it goes on from the state before'
            ) from error

    def remove(self) -> None:
        """Remove the file of a run that has ended."""
        self.file.unlink(missing_ok=True)
