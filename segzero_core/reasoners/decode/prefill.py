# SPDX-License-Identifier: Apache-2.0
"""What a Qwen-VL's language model is given: a prompt whose image has been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from segzero_core.reasoners.decode.text_model import TextModel
from segzero_core.runtime.torchscript import Traced


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


class Prefill:
    """Looks at the images of prompts and puts them where their tokens are."""

    def __init__(self, model: Any, text: TextModel) -> None:
        """Use the vision tower of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL.

        Args:
            model: The whole of it.
            text: Its language model.
        """
        self._model, self._text = model, text
        self._look = Traced(self._features, 'vision tower')

    def read(self, inputs: Any, tokens: Sequence[int]) -> Given:
        """Return a prompt with its image, and more text behind it.

        Args:
            inputs: What the processor makes of one prompt: ``input_ids`` (1, n), pixels and so on.
            tokens: (m,) ids of the text.
        """
        ids, grid = inputs['input_ids'], inputs['image_grid_thw']
        more = torch.tensor([tokens], dtype=ids.dtype, device=ids.device)
        ids = torch.cat((ids, more), dim=1)
        image = ids == self._model.config.image_token_id
        positions, shift = self._model.model.get_rope_index(
            ids, image_grid_thw=grid, mm_token_type_ids=image.int()
        )
        seen, *deeper = self._look(inputs['pixel_values'], grid, key=tuple(grid[0].tolist()))
        hidden = self._text.embed(ids[0])
        hidden[image[0]] = seen.to(hidden.dtype)
        cos, sin = self._text.turns(positions, hidden)
        return Given(hidden, (cos[:, None], sin[:, None]), int(shift), image[0], deeper)

    def _features(self, pixels: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (m, width) of the m tokens of an image, and what is added to them deeper."""
        seen = self._model.model.get_image_features(pixels, grid)
        deeper = getattr(seen, 'deepstack_features', None) or ()
        return seen.pooler_output[0], *(each[0] for each in deeper)
