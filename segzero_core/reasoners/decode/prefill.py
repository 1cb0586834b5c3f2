# SPDX-License-Identifier: Apache-2.0
"""A prompt with an image as the first layer of a Qwen-VL's language model takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from segzero_core.reasoners.decode.text_model import TextModel
from segzero_core.runtime.torchscript import TracedFunction


@dataclass(frozen=True)
class PromptEmbedding:
    """The first layer's input, and what later layers add to it.

    Attributes:
        hidden: (n, width) of n tokens.
        rotary: Cosines and sines of their positions, (n, 1, head width) each.
        shift: Position of the token that follows, minus n.
        image: (n,) bool, which tokens are the image's.
        deepstack: For each of the first layers, (m, width) to add to the m image tokens after it
            (DeepStack, arXiv 2406.04334); only Qwen3-VL has them.
    """

    hidden: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor]
    shift: int
    image: torch.Tensor
    deepstack: Sequence[torch.Tensor] = ()


class PromptEmbedder:
    """Runs the vision tower and puts its features where the image tokens are.

    Attributes:
        features: The vision tower, recorded.
    """

    def __init__(self, model: Any, text: TextModel) -> None:
        """Use the vision tower of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL.

        Args:
            model: The whole model.
            text: Its language model.
        """
        self._model, self._text = model, text
        self._image_id = int(model.config.image_token_id)
        self.features = TracedFunction(self._image_features, 'vision tower')

    def image_end(self, tokens: Sequence[int]) -> int:
        """Return the number of tokens up to the end of the prompt's image."""
        return len(tokens) - tokens[::-1].index(self._image_id)

    def __call__(self, inputs: Any, tokens: Sequence[int]) -> PromptEmbedding:
        """Return a prompt with its image, and more text behind it.

        Args:
            inputs: The processor's output for one prompt: ``input_ids`` (1, n), pixels and so on.
            tokens: (m,) ids of the text.
        """
        ids, grid = inputs['input_ids'], inputs['image_grid_thw']
        more = torch.tensor([tokens], dtype=ids.dtype, device=ids.device)
        ids = torch.cat((ids, more), dim=1)
        image = ids == self._image_id
        positions, shift = self._model.model.get_rope_index(
            ids, image_grid_thw=grid, mm_token_type_ids=image.int()
        )
        features, *deepstack = self.features(
            inputs['pixel_values'], grid, key=tuple(grid[0].tolist())
        )
        hidden = self._text.embed(ids[0])
        hidden[image[0]] = features.to(hidden.dtype)
        cos, sin = self._text.rotary(positions, hidden)
        rotary = (cos[:, None], sin[:, None])
        return PromptEmbedding(hidden, rotary, int(shift), image[0], deepstack)

    def _image_features(
        self, pixels: torch.Tensor, grid: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return (m, width) of the m tokens of an image, and the DeepStack features.

        Args:
            pixels: (patches, 3 * side * side) float32.
            grid: (1, 3) int64: frames, rows and columns of patches.
        """
        found = self._model.model.get_image_features(pixels, grid)
        deepstack = getattr(found, 'deepstack_features', None) or ()
        return found.pooler_output[0], *(each[0] for each in deepstack)
