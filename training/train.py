# SPDX-License-Identifier: Apache-2.0
"""Trains a reasoner: ``python training/train.py --config config/training/NAME.yaml [key=value]``.

The same command started again after an interruption continues from the last checkpoint, with the
results of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == '__main__':  # before the heavy imports, so that signals are handled already
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from segzero_core.runtime.program import run_program

    _INTERRUPTED = 'interrupted; the same command continues from the last checkpoint'
    sys.exit(run_program('train.py', 'training.train:main', interrupted=_INTERRUPTED))

from segzero_core.data import Dataset, Record, Skipped, read_dataset
from segzero_core.errors import ConfigError, DataError, ModelLoadError, SegZeroError
from training.config import TrainConfig, describe, load_config, save_config
from training.files import changed_settings, claimed, explained_os_errors

CONFIG = 'config.yaml'
# Settings that may differ when a run continues, because they do not change the result.
_FREE = {
    'save_steps',
    'keep_checkpoints',
    'sample_steps',
    'samples',
    'eval_data',
    'eval_limit',
    'eval_steps',
    'tensorboard',
    'output',
    'vllm_url',
    'vllm_gpu_memory_utilization',
    'vllm_tensor_parallel',
}
_SHOWN_ROWS = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(
        prog='train.py', description='Train a reasoner with GRPO or supervised fine-tuning.'
    )
    parser.add_argument('--config', type=Path, required=True, help='a file of config/training')
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='settings to change')
    options = parser.parse_args(arguments)
    with explained_os_errors():
        train(load_config(options.config, options.overrides))
    return 0


def train(config: TrainConfig) -> None:
    """Train as ``config`` says, from the start or from the run's last checkpoint.

    Raises:
        SegZeroError: A setting, the data or the model cannot be used, or training cannot continue.
    """
    is_main = int(os.environ.get('RANK', '0')) == 0
    run = Path(config.output)
    check_same_run(config, run)
    with claimed(run) if is_main else contextlib.nullcontext():
        _train(config, run, is_main)


def _train(config: TrainConfig, run: Path, is_main: bool) -> None:
    data = read_records(config.data, config.data_limit, is_main, config)
    held_out = (
        read_records(config.eval_data, config.eval_limit, is_main) if config.eval_data else []
    )
    _import_trl()
    from training.checkpointing import checkpoint_step, newest_checkpoint
    from training.metrics_log import forget_after

    steps = config.max_steps or max(1, int(config.epochs * len(data) / config.batch_size))
    checkpoint = newest_checkpoint(run) if is_main else None
    if is_main:
        start_run(config, run, len(data), steps)
        forget_after(run, checkpoint_step(checkpoint) if checkpoint else 0)
    trainer, trainee = make_trainer(config, data, held_out, steps)
    trainer.accelerator.wait_for_everyone()
    checkpoint = newest_checkpoint(run) if not is_main else checkpoint
    if checkpoint:
        _say(is_main, f'continuing from {checkpoint}')
        if checkpoint_step(checkpoint) > steps:
            raise ConfigError(
                f'{checkpoint} is beyond the {steps} steps asked for: raise max_steps or epochs'
            )
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except SegZeroError:
        print(file=sys.stderr)  # the progress bar is on this line
        raise
    _finish(config, trainer, trainee, run)
    _say(is_main, f'the model is in {run / "model"}')


def start_run(config: TrainConfig, run: Path, rows: int, steps: int) -> None:
    """Write the settings to the run's folder and print them.

    Raises:
        OSError: They cannot be written.
    """
    save_config(config, run / CONFIG)
    print(describe(config))
    processes = os.environ.get('WORLD_SIZE', '1')
    print(f'{rows} rows, {steps} steps, {processes} processes, results in {run}', flush=True)


def check_same_run(config: TrainConfig, run: Path) -> None:
    """Check that the checkpoints in ``run`` were trained with the same settings.

    Raises:
        ConfigError: They were not; the message names every difference.
    """
    if not (run / CONFIG).is_file() or not list(run.glob('checkpoint-*')):
        return
    free = _FREE | ({'max_steps', 'epochs'} if config.schedule == 'constant' else set())
    before, now = (
        {key: value for key, value in dataclasses.asdict(each).items() if key not in free}
        for each in (load_config(run / CONFIG), config)
    )
    if found := changed_settings(before, now):
        raise ConfigError(
            f'{run} holds a run with other settings: {", ".join(found)}. Start it again with '
            'the settings it had, or choose another output=...'
        )


def read_records(source: str, limit: int, say: bool, config: TrainConfig | None = None) -> Any:
    """Return the records of a dataset without those that cannot be used.

    Args:
        source: See ``segzero_core.data.read_dataset``.
        limit: Maximum number of rows; 0 = all.
        say: Whether to print which rows are left out, and why.
        config: The training that will use the rows; None for held-out rows.

    Raises:
        DataError: No row can be used.
    """
    from training.dataset import single_target, unusable

    dataset = read_dataset(source, limit, 'train' if config else 'validation')
    if dataset.skipped or not source.startswith('synthetic:'):
        why_not = functools.partial(unusable, config=config) if config else single_target
        dataset = _leave_out(dataset, why_not)
    if say:
        for row in dataset.skipped[:_SHOWN_ROWS]:
            print(f'row {row.id} left out: {row.reason}', file=sys.stderr)
        more = len(dataset.skipped) - _SHOWN_ROWS
        if more > 0:
            print(f'... and {more} more', file=sys.stderr)
        if dataset.skipped:
            total = len(dataset.records) + len(dataset.skipped)
            print(f'{len(dataset.skipped)} of {total} rows of {source} left out', file=sys.stderr)
    if not dataset.records:
        first = dataset.skipped[0]
        raise DataError(
            f'{source!r} has no row that can be trained on: row {first.id!r} {first.reason}'
        )
    return dataset.records


def _leave_out(dataset: Dataset, why_not: Callable[[Record], str]) -> Dataset:
    kept: list[Record] = []
    skipped = list(dataset.skipped)
    for record in dataset.records:
        reason = why_not(record)
        if reason:
            skipped.append(Skipped(record.id, reason))
        else:
            kept.append(record)
    return Dataset(kept, skipped)


def common_arguments(config: TrainConfig, steps: int) -> dict[str, Any]:
    """Return the arguments of transformers' trainer that all methods share."""
    import torch

    from training.models import use_bf16

    on_cpu = not torch.cuda.is_available()
    # transformers' "constant" ignores the warm-up without a warning.
    rising = config.schedule == 'constant' and config.warmup_steps
    schedule = 'constant_with_warmup' if rising else config.schedule
    return {
        'output_dir': config.output,
        'use_cpu': on_cpu,
        'ddp_backend': 'gloo' if on_cpu and int(os.environ.get('WORLD_SIZE', '1')) > 1 else None,
        'ddp_find_unused_parameters': False,  # every batch has images
        'max_steps': steps,
        'seed': config.seed,
        'learning_rate': config.learning_rate,
        'lr_scheduler_type': schedule,
        'warmup_steps': config.warmup_steps,
        'weight_decay': config.weight_decay,
        'max_grad_norm': config.max_grad_norm,
        'bf16': use_bf16(config),
        'gradient_checkpointing': config.gradient_checkpointing,
        'logging_steps': 1,
        'logging_nan_inf_filter': False,
        'save_strategy': 'steps',
        'save_steps': config.save_steps,
        'report_to': ['tensorboard'] if config.tensorboard else [],
        'disable_tqdm': True,
        'dataloader_pin_memory': not on_cpu,
        'remove_unused_columns': False,
    }


def make_trainer(config: TrainConfig, data: Any, held_out: Any, steps: int) -> tuple[Any, Any]:
    """Return the trainer and the model it trains."""
    import datasets
    from transformers import PrinterCallback
    from transformers.utils import logging

    from training.callbacks import ProgressCallback, ValidationCallback
    from training.dataset import ReasonerDataset
    from training.grpo import make_grpo_trainer
    from training.models import load_trainee
    from training.sft import make_sft_trainer
    from training.trl_rewards import Masks, make_segmenter

    logging.disable_progress_bar()  # of loading and saving weights; ours shows the steps
    trainee = load_trainee(config)
    segmenter = make_segmenter(config)
    examples = ReasonerDataset(data, trainee.task, config.imitate == 'every')
    table = datasets.Dataset.from_dict({'index': range(len(data))})
    callbacks: list[Any] = [ProgressCallback(Path(config.output))]
    validation = None
    if held_out:
        masks = Masks(trainee.task, segmenter) if segmenter else None
        validation = ValidationCallback(config, trainee, held_out, masks)
        callbacks.append(validation)
    rest = {'train_dataset': table, 'callbacks': callbacks}
    arguments = common_arguments(config, steps)
    if config.method == 'grpo':
        trainer: Any = make_grpo_trainer(config, arguments, trainee, examples, segmenter, **rest)
    else:
        trainer = make_sft_trainer(config, arguments, trainee, examples, **rest)
    trainer.remove_callback(PrinterCallback)
    if validation:
        validation.trainer = trainer
    return trainer, trainee


def _finish(config: TrainConfig, trainer: Any, trainee: Any, run: Path) -> None:
    """Write the trained model to ``run/model``, an ordinary checkpoint folder."""
    from segzero_core.runtime.atomic import draft_of, replace_folder
    from training.checkpointing import explained_saving
    from training.models import checkpoint_notes, save_model, save_processor

    notes = checkpoint_notes(trainee.task)
    folder = run / 'model'
    draft = draft_of(folder)
    is_main = trainer.is_world_process_zero()
    with explained_saving('the model', run):
        try:
            if not config.lora_rank:
                trainer.save_model(str(draft))  # by all processes, which may share the weights
            if is_main and config.lora_rank:
                model = trainer.accelerator.unwrap_model(trainer.model)
                save_model(model, trainee.processor, notes, draft)
            elif is_main:
                (draft / 'training_args.bin').unlink(missing_ok=True)  # a pickle: unsafe to read
                save_processor(trainee.processor, notes, draft)
            if is_main:
                replace_folder(draft, folder)
        finally:
            if is_main:
                shutil.rmtree(draft, ignore_errors=True)


def _import_trl() -> None:
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise ModelLoadError(
            f'training needs TRL ({error}): pip install -r requirements/train.txt'
        ) from error


def _say(aloud: bool, words: str) -> None:
    if aloud:
        print(words, flush=True)
