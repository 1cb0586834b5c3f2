# SPDX-License-Identifier: Apache-2.0
"""What a Qwen-VL's language model is given: a prompt whose image has been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from segzero_core.reasoners.layers import TextLayers


@dataclass(frozen=True)
class Given:
    """The first layer's input, and what later ones add to it.

    Attributes:
        hidden: (n, width) of n tokens.
        turns: Cosines and sines of their positions, (n, 1, head width) each.
        shift: Position of the token that follows, minus n.
        image: (n,) bool, which tokens are the image's.
        deeper: For each of the first layers, (m, width) to be added to the m tokens of the image
            behind it (DeepStack, arXiv 2406.04334); only Qwen3-VL has some.
    """

    hidden: torch.Tensor
    turns: tuple[torch.Tensor, torch.Tensor]
    shift: int = 0
    image: torch.Tensor | None = None
    deeper: Sequence[torch.Tensor] = ()


def read(model: Any, text: TextLayers, inputs: Any, tokens: Sequence[int]) -> Given:
    """Look at the image of a prompt and put it where its tokens are.

    Args:
        model: A Qwen2-VL, Qwen2.5-VL or Qwen3-VL.
        text: Its language model.
        inputs: What the processor makes of one prompt: ``input_ids`` (1, n), pixels and so on.
        tokens: More text, behind the prompt.
    """
    ids, grid = inputs['input_ids'], inputs['image_grid_thw']
    more = torch.tensor([tokens], dtype=ids.dtype, device=ids.device)
    ids = torch.cat((ids, more), dim=1)
    image = ids == model.config.image_token_id
    positions, shift = model.model.get_rope_index(
        ids, image_grid_thw=grid, mm_token_type_ids=image.int()
    )
    seen = model.model.get_image_features(inputs['pixel_values'], grid)
    hidden = text.embed(ids[0])
    hidden[image[0]] = torch.cat(seen.pooler_output).to(hidden.dtype)
    cos, sin = text.turns(positions, hidden)
    deeper = [torch.cat(each) for each in getattr(seen, 'deepstack_features', None) or ()]
    return Given(hidden, (cos[:, None], sin[:, None]), int(shift), image[0], deeper)
