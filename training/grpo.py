# SPDX-License-Identifier: Apache-2.0
"""GRPO on TRL's trainer; the defaults are those of the released recipe."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from trl import GRPOConfig, GRPOTrainer

from segzero_core.errors import ConfigError, TrainingError
from segzero_core.segmenters import Segmenter
from training.checkpointing import CheckpointingTrainer
from training.completions import SampledAnswer, save_samples
from training.config import TrainConfig
from training.dataset import ReasonerDataset
from training.models import Trainee
from training.prefix_sharing import PrefixSharing
from training.trl_rewards import Masks, is_readable, reward_functions, text_of

_PATIENCE = 10  # steps in a row without a readable answer before a warning


class GrpoTrainer(CheckpointingTrainer, PrefixSharing, GRPOTrainer):
    """TRL's trainer on records; it saves samples and warns of unreadable answers."""

    def __init__(
        self,
        settings: TrainConfig,
        examples: ReasonerDataset,
        steps: int,
        masks: Masks | None,
        **rest: Any,
    ) -> None:
        """Take the attributes of ``CheckpointingTrainer``; ``rest`` is for TRL's trainer.

        ``masks`` draws the masks of samples; None = pictures without masks.
        """
        self.settings, self.examples, self.steps = settings, examples, steps
        self._masks = masks
        self._unreadable_steps = 0
        super().__init__(**rest)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        # Rows are indices until here, because TRL's data loader asks for all rows of a step once
        # per micro-batch but uses them once. One row serves all answers to its sentence.
        rows: dict[int, dict[str, Any]] = {}
        for item in inputs:
            if item['index'] not in rows:
                rows[item['index']] = self.examples.row(item['index'])
        full = [dict(rows[item['index']]) for item in inputs]
        self._batch_ids = tuple(row['record'].id for row in full)
        try:
            return super()._generate_and_score_completions(full)
        except RuntimeError as error:
            if 'probability tensor' not in str(error):  # torch.multinomial, of NaN
                raise
            raise TrainingError(self._broken("the model's output", math.nan)) from error

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        found = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        texts = [text_of(completion) for completion in completions]
        self._watch(texts, inputs)
        step = self.state.global_step + 1
        every = self.settings.sample_steps
        if every and step % every == 0 and self.accelerator.is_main_process:
            names = [*self.reward_func_names]
            samples = [
                SampledAnswer(
                    row['record'],
                    text,
                    dict(zip(names, found[place].tolist(), strict=True)),
                )
                for place, (row, text) in enumerate(zip(inputs, texts, strict=True))
            ]
            apart = max(1, len(samples) // self.settings.samples)
            chosen = samples[::apart][: self.settings.samples]
            folder = Path(self.args.output_dir) / 'samples'
            save_samples(folder, step, chosen, self.examples.task, self._masks)
        return found

    def _watch(self, texts: list[str], inputs: list[dict[str, Any]]) -> None:
        """Log the share of readable answers; warn if there is none for ``_PATIENCE`` steps."""
        readable = [
            is_readable(text, self.examples.task, row['record'].size)
            for text, row in zip(texts, inputs, strict=True)
        ]
        self._log_metric('parsed', sum(readable) / len(readable))
        self._unreadable_steps = 0 if any(readable) else self._unreadable_steps + 1
        if self._unreadable_steps and self._unreadable_steps % _PATIENCE == 0:
            print(
                f'\nwarning: not one answer of the last {self._unreadable_steps} steps could be '
                f'read; the latest is {texts[0][:200]!r}. The model does not know the format: '
                'start from one that was fine-tuned to it (method: sft), use '
                'answer_format=soft, or raise max_completion_tokens if answers are cut short',
                flush=True,
            )


def make_grpo_trainer(
    config: TrainConfig,
    arguments: dict[str, Any],
    trainee: Trainee,
    examples: ReasonerDataset,
    segmenter: Segmenter | None,
    **rest: Any,
) -> GrpoTrainer:
    """Return the trainer of a run.

    Args:
        config: The run's configuration.
        arguments: Arguments that all methods share, see ``train.common_arguments``.
        trainee: The model to train.
        examples: The training data.
        segmenter: For the mask reward and the pictures of samples, or ``None``.
        **rest: For the trainer: ``train_dataset``, ``callbacks``.

    Raises:
        ConfigError: The batch does not divide into micro-batches, or vLLM is not installed.
    """
    settings = grpo_settings(config, arguments)
    return GrpoTrainer(
        settings=config,
        examples=examples,
        steps=arguments['max_steps'],
        masks=Masks(trainee.task, segmenter) if segmenter else None,
        model=trainee.model,
        reward_funcs=reward_functions(config, trainee.task, segmenter),
        args=settings,
        processing_class=trainee.processor,
        peft_config=trainee.adapters,
        **rest,
    )


def grpo_settings(config: TrainConfig, arguments: dict[str, Any]) -> GRPOConfig:
    """Return TRL's settings for ``config``; raises as ``make_grpo_trainer`` does."""
    _check_rollouts(config)
    answers = config.batch_size * config.num_generations
    settings = GRPOConfig(
        **arguments,
        **accumulation(config, answers),
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_tokens,
        beta=config.beta,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high or None,
        entropy_coef=config.entropy,
        loss_type=config.loss,
        # The released code adds its KL term without TRL's importance correction.
        use_bias_correction_kl=False,
        temperature=config.temperature,
        use_vllm=config.rollouts != 'transformers',
        vllm_mode='server' if config.rollouts == 'vllm_server' else 'colocate',
        vllm_server_base_url=config.vllm_url if config.rollouts == 'vllm_server' else None,
        vllm_gpu_memory_utilization=config.vllm_gpu_memory_utilization,
        vllm_tensor_parallel_size=config.vllm_tensor_parallel,
    )
    if settings.generation_batch_size != answers:
        raise ConfigError(
            f'{settings.world_size} processes run, but the environment variable '
            f'WORLD_SIZE says {os.environ.get("WORLD_SIZE", "1")}: start them with torchrun or '
            'accelerate launch'
        )
    return settings


def accumulation(config: TrainConfig, sequences: int) -> dict[str, int]:
    """Return how the sequences of a step are split into micro-batches and processes.

    Args:
        config: The run's configuration.
        sequences: Sequences per optimiser step, over all processes.

    Raises:
        ConfigError: They cannot be split evenly.
    """
    # The launcher sets WORLD_SIZE. Asking accelerate here would already choose its device.
    processes = int(os.environ.get('WORLD_SIZE', '1'))
    at_once = config.micro_batch * processes
    if sequences % at_once:
        what = f'batch_size ({config.batch_size})'
        if config.method == 'grpo':
            what += f' x num_generations ({config.num_generations})'
        fitting = [n for n in range(1, sequences + 1) if sequences % (n * processes) == 0]
        advice = (
            f'micro_batch can be {", ".join(map(str, fitting))}'
            if fitting
            else ('use a batch_size that the processes divide')
        )
        raise ConfigError(
            f'{what} = {sequences} sequences per step cannot be split into micro-batches of '
            f'{config.micro_batch} on {processes} processes: {advice}'
        )
    return {
        'per_device_train_batch_size': config.micro_batch,
        'gradient_accumulation_steps': sequences // at_once,
    }


def _check_rollouts(config: TrainConfig) -> None:
    if config.rollouts == 'transformers':
        return
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f'rollouts={config.rollouts} needs vLLM, which cannot be imported here ({error}): '
            'install it (requirements/vllm.txt says what it pins) or use rollouts=transformers'
        ) from error
