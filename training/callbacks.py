# SPDX-License-Identifier: Apache-2.0
"""Callbacks of the trainer: progress and metrics of each step, validation on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import TrainerCallback
from trl.models import unwrap_model_for_generation

from segzero_core.data import Record
from training.completions import SampledAnswer, save_samples
from training.config import TrainConfig
from training.metrics_log import append_metrics
from training.models import Trainee
from training.trl_rewards import Masks
from training.validation import answer_records

_MOST_TOKENS = 512  # a greedy answer that is longer will not end at all


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


class ValidationCallback(TrainerCallback):
    """Evaluates before the first step, every ``eval_steps`` and after the last."""

    def __init__(
        self,
        config: TrainConfig,
        trainee: Trainee,
        records: Sequence[Record],
        masks: Masks | None,
    ) -> None:
        """Examine on ``records``; ``trainer`` is to be set before training begins."""
        self._config, self._trainee, self._records = config, trainee, records
        self._masks = masks
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate the model training starts from, once."""
        if state.global_step == 0:
            self._examine(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate when it is time. Before the checkpoint, so that no resume forgets it."""
        last = state.global_step == state.max_steps
        if last or state.global_step % self._config.eval_steps == 0:
            self._examine(state.global_step)

    def _examine(self, step: int) -> None:
        accelerator = self.trainer.accelerator
        share = own_share(len(self._records), accelerator.process_index, accelerator.num_processes)
        with unwrap_model_for_generation(self.trainer.model_wrapped, accelerator) as model:
            mine = answer_records(
                model,
                self._trainee.processor,
                [self._records[i] for i in share],
                self._trainee.family,
                self._config.task,
                self._config.recipe,
                min(self._config.max_completion_tokens, _MOST_TOKENS),
            )
        # Records hold images behind functions: only figures travel between processes.
        found = zip(share, (answer.values for answer in mine), strict=True)
        values = list(dict(gather_object(list(found))).values())
        if not accelerator.is_main_process:
            return
        means = {name: sum(v[name] for v in values) / len(values) for name in values[0]}
        run = Path(self.trainer.args.output_dir)
        figures = {f'eval/{name}': value for name, value in means.items()}
        append_metrics(run, {'step': step, **figures})
        shown = ' '.join(f'{name} {value:.3f}' for name, value in means.items())
        print(f'\nstep {step}, {len(values)} held-out records: {shown}', flush=True)
        samples = [SampledAnswer(a.record, a.truth.size, a.text, a.values) for a in mine]
        folder = run / 'eval_samples'
        save_samples(folder, step, samples[: self._config.samples], self._config.task, self._masks)


def own_share(records: int, process: int, processes: int) -> list[int]:
    """Return which records one of several processes answers: as many each, so some come twice.

    Where weights are shared out, writing is work of all processes together: one that has a batch
    less to answer would leave the others waiting for ever.
    """
    last = -(-records // processes) * processes
    return [record % records for record in range(process, last, processes)]
