# SPDX-License-Identifier: Apache-2.0
"""Reading a prompt once for all answers to it changes the cost and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')

DATA = 'data=synthetic:train?kinds=attribute,relation&count=2&size=56&objects=3'


def make_trainer(short_grpo: Path, output: Path, *settings: str) -> Any:
    from training.config import load_config
    from training.train import make_trainer, read_records

    config = load_config(short_grpo, [f'output={output}', 'sample_steps=0', DATA, *settings])
    return make_trainer(config, read_records(config.data, 0, say=False), [], steps=1)[0]


def roll_out(trainer: Any) -> dict[str, Any]:
    """Return four answers to each of two sentences, of different lengths."""
    trainer.model.train()
    copies = trainer.num_generations
    torch.manual_seed(0)
    batch: dict[str, Any] = trainer._generate_and_score_completions(
        [{'index': index} for index in (0, 1) for _ in range(copies)]
    )
    batch['completion_mask'][0, 3:] = 0
    batch['completion_mask'][6, 5:] = 0
    return batch


def score(trainer: Any, batch: dict[str, Any], cls: Any, batch_size: int | None) -> list[Any]:
    """Return log probabilities and entropies of real tokens, and the gradient of a loss."""
    ids = torch.cat([batch['prompt_ids'], batch['completion_ids']], dim=1)
    mask = torch.cat([batch['prompt_mask'], batch['completion_mask']], dim=1)
    rest = {
        key: batch[key]
        for key in ('pixel_values', 'image_grid_thw', 'mm_token_type_ids', 'num_images')
    }
    trainer.model.zero_grad()
    logps, entropies, _ = cls._get_per_token_logps_and_entropies(
        trainer,
        trainer.model,
        ids,
        mask,
        batch['completion_ids'].shape[1],
        batch_size=batch_size,
        compute_entropy=True,
        **rest,
    )
    real = batch['completion_mask']
    (logps * real * torch.linspace(-1, 1, len(ids))[:, None]).sum().backward()
    weights = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return [logps.detach() * real, entropies.detach() * real, torch.cat(weights)]


@pytest.fixture(params=['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl', 'adapters'])
def trainer(request: pytest.FixtureRequest, short_grpo: Path, tmp_path: Path, trl: None) -> Any:
    from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner

    adapters = request.param == 'adapters'
    model = build_tiny_reasoner(
        tmp_path / 'model', model_type='qwen2_5_vl' if adapters else request.param
    )
    rank = 4 if adapters else 0
    return make_trainer(short_grpo, tmp_path / 'run', f'model={model}', f'lora_rank={rank}')


def test_the_same_log_probabilities_and_gradients_as_trl(trainer: Any) -> None:
    from trl import GRPOTrainer

    from training.grpo import GrpoTrainer

    batch = roll_out(trainer)
    assert not batch['prompt_mask'].all()  # the sentences differ in length
    expected = score(trainer, batch, GRPOTrainer, None)
    for batch_size in (None, 4):
        found = score(trainer, batch, GrpoTrainer, batch_size)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert expected[2].abs().max() > 0.1


def test_each_image_is_looked_at_once(short_grpo: Path, tmp_path: Path, trl: None) -> None:
    from training.grpo import GrpoTrainer

    trainer = make_trainer(short_grpo, tmp_path / 'run', 'beta=0')
    seen: list[int] = []
    trainer.model.model.visual.register_forward_pre_hook(
        lambda module, inputs, named: seen.append(len((inputs or named.values())[0])),
        with_kwargs=True,
    )
    batch = roll_out(trainer)
    patches = batch['image_grid_thw'].prod(-1)
    assert len(patches) == 8
    both = int(patches[0] + patches[-1])
    assert seen == [both]
    score(trainer, batch, GrpoTrainer, None)
    assert seen == [both, both]


def test_one_sentence_about_two_images_is_two_prompts(trl: None) -> None:
    from training.prefix_sharing import count_copies

    def count(prompts: list[int], images: list[int]) -> int:
        pixels = torch.tensor(images).repeat_interleave(4)[:, None].float()
        grids = torch.tensor([[1, 2, 2]] * len(images))
        fields = {'pixel_values': pixels, 'image_grid_thw': grids}
        return count_copies(torch.tensor(prompts)[:, None], fields)

    assert count([5, 5, 5, 5], [0, 0, 0, 0]) == 4
    assert count([5, 5, 5, 5], [0, 0, 1, 1]) == 2
    assert count([5, 5, 7, 7], [0, 0, 0, 0]) == 2
    assert count([5, 5, 5, 7, 7, 7], [0, 0, 1, 1, 1, 1]) == 1
    assert count([5, 5, 5, 5, 7, 7], [0, 0, 0, 0, 0, 0]) == 2
