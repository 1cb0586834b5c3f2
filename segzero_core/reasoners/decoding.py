# SPDX-License-Identifier: Apache-2.0
"""Token by token through a Qwen-VL's language model, without what ``generate`` does around it.

At batch size one ``generate`` and the model's own forward spend most of a small model's time in
Python: masks, position ids and caches are built anew for every token. Here keys and values lie in
buffers of their final size, positions are looked up in a table, and a token costs one pass over
the layers. The buffers also remember: what a new prompt has in common with the last one, an image
and its system turn for instance, is not computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from segzero_core.errors import ModelLoadError

_ROOM = 512  # tokens; buffers grow by multiples of this


class CachedDecoder:
    """Keys and values of one sequence of tokens, and the layers that continue it.

    Gives what the model's own forward gives, but for the rounding of sums in another order.

    Attributes:
        length: Tokens that have been computed and are remembered.
    """

    def __init__(self, model: Any) -> None:
        """Use the weights of ``model``, a Qwen2-VL, Qwen2.5-VL or Qwen3-VL in evaluation mode.

        Raises:
            ModelLoadError: Its attention is limited to a sliding window.
        """
        if getattr(model.model.language_model, 'has_sliding_layers', False):
            raise ModelLoadError(
                'this checkpoint limits attention to a sliding window, which this engine cannot '
                "do: use reasoner 'vllm' or 'openai'"
            )
        self._model = model
        self._text = model.model.language_model
        self._head = model.lm_head
        self.length = 0
        self._shift = 0  # position of a token minus its index: an image takes fewer positions
        self._keys = self._values = torch.empty(0)
        self._turns = (torch.empty(0), torch.empty(0))

    @torch.inference_mode()
    def start(self, inputs: Any, room: int) -> torch.Tensor:
        """Forget everything and compute a prompt with its image.

        Args:
            inputs: What the processor makes of one prompt: ``input_ids`` (1, n), pixels and so on.
            room: Tokens that will be written after it, so that no buffer has to grow.

        Returns:
            (vocabulary,) logits of the next token.
        """
        found = self._model(**inputs, use_cache=True, logits_to_keep=1)
        layers = found.past_key_values.layers
        self.length = int(inputs['input_ids'].shape[1])
        self._shift = int(self._model.model.rope_deltas.item())
        self._reserve(self.length + room, layers[0].keys)
        for index, layer in enumerate(layers):
            self._keys[index, :, : self.length] = layer.keys[0]
            self._values[index, :, : self.length] = layer.values[0]
        return found.logits[0, -1]

    @torch.inference_mode()
    def go_on(self, tokens: Sequence[int]) -> torch.Tensor:
        """Compute text that follows what has been computed.

        Args:
            tokens: (n,) ids, at least one.

        Returns:
            (vocabulary,) logits of the next token.
        """
        first, last = self.length, self.length + len(tokens)
        if last > self._keys.shape[2]:
            self._reserve(last, self._keys)
        ids = torch.tensor(tokens, device=self._keys.device)
        place = slice(first + self._shift, last + self._shift)
        cos, sin = self._turns[0][place], self._turns[1][place]
        mask = None
        if len(tokens) > 1:
            mask = torch.ones(len(tokens), last, dtype=torch.bool, device=ids.device).tril(first)
        hidden = self._text.embed_tokens(ids)
        for index, layer in enumerate(self._text.layers):
            normed = _norm(layer.input_layernorm, hidden)
            keys, values = self._keys[index], self._values[index]
            hidden = hidden + _attend(layer.self_attn, normed, cos, sin, keys, values, first, mask)
            hidden = hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
        self.length = last
        return self._head(_norm(self._text.norm, hidden[-1]))

    def cut(self, length: int) -> None:
        """Forget all tokens from number ``length`` on."""
        self.length = min(self.length, length)

    def _reserve(self, tokens: int, like: torch.Tensor) -> None:
        """Make room for so many tokens; ``like`` (..., heads, n, width) shows the shape."""
        tokens = -(-tokens // _ROOM) * _ROOM
        if self._keys.dim() > 1 and self._keys.shape[2] >= tokens:
            return
        shape = (len(self._text.layers), like.shape[-3], tokens, like.shape[-1])
        old = self._keys, self._values
        self._keys, self._values = like.new_zeros(shape), like.new_zeros(shape)
        if old[0].dim() > 1:
            self._keys[:, :, : self.length] = old[0][:, :, : self.length]
            self._values[:, :, : self.length] = old[1][:, :, : self.length]
        # Text has the same position in time, height and width.
        positions = torch.arange(tokens, device=like.device).view(1, 1, -1)
        cos, sin = self._text.rotary_emb(like, positions)
        self._turns = cos[0], sin[0]


def _attend(
    attention: Any,
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    first: int,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return what attention adds to (n, width) ``hidden``; store its keys and values."""
    count = len(hidden)
    width, last = keys.shape[-1], first + count
    query = attention.q_proj(hidden).view(count, -1, width)
    key = attention.k_proj(hidden).view(count, -1, width)
    if hasattr(attention, 'q_norm'):  # Qwen3-VL
        query, key = _norm(attention.q_norm, query), _norm(attention.k_norm, key)
    keys[:, first:last] = _turn(key, cos, sin).transpose(0, 1)
    values[:, first:last] = attention.v_proj(hidden).view(count, -1, width).transpose(0, 1)
    seen = functional.scaled_dot_product_attention(
        _turn(query, cos, sin).transpose(0, 1)[None],
        keys[None, :, :last],
        values[None, :, :last],
        attn_mask=mask,
        scale=attention.scaling,
        enable_gqa=True,
    )
    return attention.o_proj(seen[0].transpose(0, 1).reshape(count, -1))


def _turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (n, heads, width) by the (n, width) angles of their positions (RoPE)."""
    low, high = heads.chunk(2, dim=-1)
    return heads * cos[:, None] + torch.cat((-high, low), dim=-1) * sin[:, None]


def _norm(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(hidden, layer.weight.shape, layer.weight, layer.variance_epsilon)
