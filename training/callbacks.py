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

_MAX_TOKENS = 512  # a greedy answer that is longer repeats itself
_BAR = {  # name in the progress bar -> name of the metric
    'loss': 'loss',
    'reward': 'reward',
    'kl': 'kl',
    'length': 'completions/mean_length',
    'min': 'completions/min_length',
    'max': 'completions/max_length',
    'accuracy': 'mean_token_accuracy',
}


class ProgressCallback(TrainerCallback):
    """Writes the metrics of every step and shows a progress bar."""

    def __init__(self, run: Path) -> None:
        """Report to the folder ``run``."""
        self._run = run
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar, on the main process."""
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit='step')

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Record the metrics that the trainer reports after a step."""
        if self._bar is None or not logs or 'loss' not in logs:
            return
        # transformers' epoch is meaningless here: it takes the whole run for one epoch.
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
        """Close the bar; its last state stays visible."""
        if self._bar is not None:
            self._bar.close()


class ValidationCallback(TrainerCallback):
    """Evaluates on held-out records before the first step, every ``eval_steps``, after the last.

    Attributes:
        trainer: The trainer; must be set before training starts.
    """

    def __init__(
        self,
        config: TrainConfig,
        trainee: Trainee,
        records: Sequence[Record],
        masks: Masks | None,
    ) -> None:
        """Take the held-out ``records``; ``masks`` draws the masks of their pictures."""
        self._config, self._trainee, self._records = config, trainee, records
        self._masks = masks
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate the model that training starts from."""
        if state.global_step == 0:
            self._evaluate(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate when it is due. This runs before the checkpoint, so no resume skips it."""
        last = state.global_step == state.max_steps
        if last or state.global_step % self._config.eval_steps == 0:
            self._evaluate(state.global_step)

    def _evaluate(self, step: int) -> None:
        accelerator = self.trainer.accelerator
        share = assign_records(
            len(self._records), accelerator.process_index, accelerator.num_processes
        )
        with unwrap_model_for_generation(self.trainer.model_wrapped, accelerator) as model:
            mine = answer_records(
                model,
                self._trainee.processor,
                [self._records[i] for i in share],
                self._trainee.task,
                self._config.recipe,
                min(self._config.max_completion_tokens, _MAX_TOKENS),
            )
        # Records hold functions that load images and cannot be sent; only scores are gathered.
        found = zip(share, (answer.values for answer in mine), strict=True)
        values = list(dict(gather_object(list(found))).values())
        if not accelerator.is_main_process:
            return
        means = {name: sum(v[name] for v in values) / len(values) for name in values[0]}
        run = Path(self.trainer.args.output_dir)
        metrics = {f'eval/{name}': value for name, value in means.items()}
        append_metrics(run, {'step': step, **metrics})
        shown = ' '.join(f'{name} {value:.3f}' for name, value in means.items())
        print(f'\nstep {step}, {len(values)} held-out records: {shown}', flush=True)
        samples = [SampledAnswer(each.record, each.text, each.values) for each in mine]
        samples = samples[: self._config.samples]
        save_samples(run / 'eval_samples', step, samples, self._trainee.task, self._masks)


def assign_records(records: int, process: int, processes: int) -> list[int]:
    """Return the records that one process answers; every process gets the same number.

    If weights are sharded, all processes must generate together: one with fewer batches would
    leave the others waiting. Some records are therefore answered twice.

    Args:
        records: Number of records.
        process: Rank of the process.
        processes: Number of processes.
    """
    last = -(-records // processes) * processes
    return [record % records for record in range(process, last, processes)]
