# SPDX-License-Identifier: Apache-2.0
"""Prefix sharing for GRPO: the model reads a prompt once for all answers to it.

TRL computes prompt and answer again for each answer; with an image the prompt is the larger part.
Here all answers to a prompt follow it in one sequence, and the attention mask separates them. The
log probabilities are the same for a fraction of the work.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from trl.trainer.utils import (
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

_IGNORED = -100  # labels without a score
_NEEDED = {'pixel_values', 'image_grid_thw', 'mm_token_type_ids'}


class PrefixSharing:
    """Mixin that precedes TRL's GRPO trainer, for sdpa attention and Qwen-VL models."""

    def _prepare_inputs(self: Any, generation_batch: Any) -> Any:
        # As in TRL, but without shuffling, so that the answers to one prompt stay neighbours.
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)  # type: ignore[misc]
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            scored = self._generate_and_score_completions(generation_batch)
            batches = split_tensor_dict(split_pixel_values_by_grid(scored), parts)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(batch) for batch in batches]
        return self._buffered_inputs[self._step % parts]

    def _generate_single_turn(
        self: Any, prompt_ids: Any, images: Any, fields: Any, copies: int, *rest: Any
    ) -> Any:
        generate = super()._generate_single_turn  # type: ignore[misc]
        if self.use_vllm or len(prompt_ids) % copies or 'image_grid_thw' not in fields:
            return generate(prompt_ids, images, fields, copies, *rest)
        # transformers runs the vision tower before it repeats the prompts, so once per prompt.
        self.generation_config.num_return_sequences = copies
        try:
            every = slice(None, None, copies)
            return generate(prompt_ids[every], images, _take(fields, every), copies, *rest)
        finally:
            self.generation_config.num_return_sequences = 1

    def _get_per_token_logps_and_entropies(
        self: Any,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **rest: Any,
    ) -> Any:
        fields = {key: rest[key] for key in _NEEDED if rest.get(key) is not None}
        at_once, copies = batch_size or len(input_ids), 1
        if fields.keys() == _NEEDED and _bare(self.model).config._attn_implementation == 'sdpa':
            copies = count_copies(input_ids[:, :-logits_to_keep], fields)
        if at_once % copies or copies == 1:
            return super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                **rest,
            )
        found = []
        for start in range(0, len(input_ids), at_once):
            rows = slice(start, start + at_once)
            packed = pack(input_ids[rows], attention_mask[rows], logits_to_keep, copies)
            first = _take(fields, slice(start, start + at_once, copies))
            found.append(self._score_packed(model, packed, first, logits_to_keep))
        logps, entropies = (torch.cat(parts) for parts in zip(*found, strict=True))
        return logps, entropies if compute_entropy else None, None

    def _score_packed(
        self: Any, model: Any, packed: PackedAnswers, first: Any, answer: int
    ) -> Any:
        """Return (B, answer) log probabilities and entropies (0 if the model computes none)."""
        positions, _ = _bare(self.accelerator.unwrap_model(model)).model.get_rope_index(
            packed.first,
            mm_token_type_ids=first['mm_token_type_ids'],
            image_grid_thw=first['image_grid_thw'],
            attention_mask=packed.first_mask,
        )
        with self.accelerator.autocast():
            out = model(
                input_ids=packed.ids,
                attention_mask=packed.mask,
                position_ids=positions[:, :, packed.source],
                pixel_values=first['pixel_values'],
                image_grid_thw=first['image_grid_thw'],
                shift_labels=packed.labels,
                fused_lm_head=True,
            )
        prefix = packed.first.shape[1] - answer - 1
        entropy = torch.zeros_like(out.log_probs) if out.entropy is None else out.entropy
        return tuple(each[:, prefix:].reshape(-1, answer) for each in (out.log_probs, entropy))


class PackedAnswers(NamedTuple):
    """G prompts, each followed by its answers.

    Example: the prompt ``a b`` with the answers ``c d`` and ``e f`` becomes ``a | b c | b e``: the
    last token of the prompt precedes every answer, because it predicts the answer's first token.

    Attributes:
        ids: (G, L) int64 tokens: the prompt without its last token; then, for every answer, that
            last token and the answer without its own last token.
        labels: (G, L) int64 token to predict at each place; -100 in the prompt and in padding.
        mask: (G, 1, L, L) bool: the places that each place attends to.
        source: (L,) int64 column of ``first`` whose position each place has.
        first: (G, P + answer) int64 prompt and first answer.
        first_mask: (G, P + answer) 0 in the prompt's padding, else 1.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    source: torch.Tensor
    first: torch.Tensor
    first_mask: torch.Tensor


def pack(ids: torch.Tensor, mask: torch.Tensor, answer: int, copies: int) -> PackedAnswers:
    """Pack the answers to each prompt behind it.

    Args:
        ids: (G * copies, P + answer) prompts padded on the left, answers padded on the right.
        mask: The same shape; 1 for tokens, 0 for padding.
        answer: Length of the longest answer, tokens.
        copies: Answers per prompt; those of one prompt are neighbours.
    """
    groups, prefix = len(ids) // copies, ids.shape[1] - answer - 1
    # An answer's token is predicted by the prompt's last token and the answer's tokens before.
    labels = ids[:, -answer:].masked_fill(mask[:, -answer:] == 0, _IGNORED)

    def line_up(start: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
        return torch.cat([start[::copies], spans.reshape(groups, -1)], dim=1)

    packed = line_up(ids[:, :prefix], ids[:, prefix:-1])
    labels = line_up(torch.full_like(ids[:, :prefix], _IGNORED), labels)
    real = line_up(mask[:, :prefix], mask[:, prefix:-1]).bool()
    place = torch.arange(packed.shape[1], device=ids.device)
    owner = torch.div(place - prefix, answer, rounding_mode='floor').clamp(min=-1)
    mine = (owner[:, None] == owner) | (owner == -1)
    causal = (place[:, None] >= place) & mine
    # Padding attends to itself, because attention to nothing is not a number.
    seen = (causal & real[:, None, :]) | torch.eye(len(place), dtype=torch.bool, device=ids.device)
    source = torch.where(owner < 0, place, prefix + (place - prefix) % answer)
    first_mask = mask[::copies].clone()
    first_mask[:, -answer:] = 1
    return PackedAnswers(packed, labels, seen[:, None], source, ids[::copies], first_mask)


def count_copies(prompts: torch.Tensor, fields: Mapping[str, Any]) -> int:
    """Return the size of the groups of neighbouring rows that share prompt and image.

    Groups of different sizes give their greatest common divisor.

    Args:
        prompts: (B, P) tokens.
        fields: ``pixel_values`` and ``image_grid_thw`` of B images.
    """
    images = _images(fields)
    if len(images) != len(prompts):
        return 1
    starts = [0]
    for row in range(1, len(prompts)):
        same = torch.equal(prompts[row], prompts[row - 1])
        if not same or not torch.equal(images[row], images[row - 1]):
            starts.append(row)
    return math.gcd(*(b - a for a, b in itertools.pairwise([*starts, len(prompts)])))


def _take(fields: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Return a slice of the processor's output, which has one image per row."""
    images = _images(fields)[rows]
    return {
        key: torch.cat(images) if key == 'pixel_values' else value[rows]
        for key, value in fields.items()
    }


def _images(fields: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    grids, pixels = (torch.as_tensor(fields[key]) for key in ('image_grid_thw', 'pixel_values'))
    return torch.split(pixels, grids.prod(-1).tolist())


def _bare(model: Any) -> Any:
    """Return the transformers model under adapters."""
    return model.get_base_model() if hasattr(model, 'get_base_model') else model
