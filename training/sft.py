# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning on TRL's trainer."""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTConfig, SFTTrainer

from training.checkpointing import CheckpointingTrainer
from training.config import TrainConfig
from training.dataset import ReasonerDataset
from training.grpo import accumulation
from training.models import Trainee

_IGNORED = -100  # labels that do not count in the loss


class Collator:
    """Turns indices of records into a batch; only the tokens of the answers have labels."""

    def __init__(self, examples: ReasonerDataset, processor: Any) -> None:
        """Take the data and the processor of the model."""
        self._examples, self._processor = examples, processor

    def __call__(self, items: list[dict[str, int]]) -> dict[str, Any]:
        """Return the model's input, padded on the right, and ``rows``, the ids of the records.

        Args:
            items: The ``index`` of a record each.
        """
        rows = [self._examples.row(item['index']) for item in items]
        prompts = [
            self._processor.apply_chat_template(row['prompt'], add_generation_prompt=True)
            for row in rows
        ]
        end = self._processor.tokenizer.eos_token
        replies = [self._examples.reply(item['index']) + end for item in items]
        texts = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
        images = [row['image'] for row in rows]
        batch = self._processor(
            text=texts, images=images, padding=True, padding_side='right', return_tensors='pt'
        )
        lengths = self._reply_lengths(replies)
        ends = batch['attention_mask'].sum(dim=1)
        places = torch.arange(batch['input_ids'].shape[1])
        written = (places >= (ends - lengths)[:, None]) & (places < ends[:, None])
        labels = torch.where(written, batch['input_ids'], _IGNORED)
        return {**batch, 'labels': labels, 'rows': [row['record'].id for row in rows]}

    def _reply_lengths(self, replies: list[str]) -> torch.Tensor:
        tokens = self._processor.tokenizer(replies, add_special_tokens=False)['input_ids']
        return torch.tensor([len(ids) for ids in tokens])


class SftTrainer(CheckpointingTrainer, SFTTrainer):
    """TRL's trainer on records."""

    def __init__(
        self, settings: TrainConfig, examples: ReasonerDataset, steps: int, **rest: Any
    ) -> None:
        """Take the attributes of ``CheckpointingTrainer``; ``rest`` is for TRL's trainer."""
        self.settings, self.examples, self.steps = settings, examples, steps
        super().__init__(**rest)

    def _load_callback_state(self) -> None:
        # Called on resume, after the state is loaded. TRL would count tokens from 0 again.
        super()._load_callback_state()
        counted = [line['num_tokens'] for line in self.state.log_history if 'num_tokens' in line]
        self._total_train_tokens = counted[-1] if counted else 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Record the ids of the batch; see ``CheckpointingTrainer.training_step``."""
        self._batch_ids = tuple(inputs.pop('rows'))
        return super().training_step(model, inputs, num_items_in_batch)


def make_sft_trainer(
    config: TrainConfig,
    arguments: dict[str, Any],
    trainee: Trainee,
    examples: ReasonerDataset,
    **rest: Any,
) -> SftTrainer:
    """Return the trainer of a run; arguments as in ``grpo.make_grpo_trainer``."""
    settings = SFTConfig(
        **arguments,
        **accumulation(config, config.batch_size),
        max_length=None,
        dataset_kwargs={'skip_prepare_dataset': True},
    )
    return SftTrainer(
        settings=config,
        examples=examples,
        steps=arguments['max_steps'],
        model=trainee.model,
        args=settings,
        data_collator=Collator(examples, trainee.processor),
        processing_class=trainee.processor,
        peft_config=trainee.adapters,
        **rest,
    )
