# SPDX-License-Identifier: Apache-2.0
"""Qwen-VL's text decoder with fused projections: fewer operators per token.

The forward of transformers makes masks, position ids and caches for every token, which takes most
of a small model's time. Here are the layers alone; keys and values are kept by ``KVCache``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from segzero_core.errors import ModelLoadError
from segzero_core.reasoners.decode.linear import fuse_linear


class TextModel:
    """Embedding, layers and head of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL in evaluation mode.

    Its output is that of the model's own forward except for the rounding of sums in another order;
    on a CPU, that of the model in float32, whatever the dtype of its weights.

    Attributes:
        layers: The decoder layers, first to last.
        device: Device of the weights.
        kv_shape: Of the keys of one token, and of its values: (layers, heads, head width).
    """

    def __init__(self, model: Any, pack: bool = False) -> None:
        """Use the weights of ``model``.

        Args:
            model: A transformers model. With ``pack`` it cannot be called any more.
            pack: Keep weights as ``PackedLinear`` where possible.

        Raises:
            ModelLoadError: Its attention is limited to a sliding window.
        """
        text = model.model.language_model
        if getattr(text, 'has_sliding_layers', False):
            raise ModelLoadError(
                'this checkpoint limits attention to a sliding window, which this engine cannot '
                "do: use reasoner 'vllm' or 'openai'"
            )
        self._table = text.embed_tokens.weight.data  # may be the head's weights, too
        self.device = self._table.device
        self._dtype = torch.float32 if self.device.type == 'cpu' else self._table.dtype
        self.layers = [DecoderLayer(layer, pack) for layer in text.layers]
        self.kv_shape = (len(self.layers), *self.layers[0].kv_shape)
        self._rotary = text.rotary_emb
        self._norm, self._head = RmsNorm(text.norm), fuse_linear(model.lm_head, pack=pack)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the first layer's input (n, width) for (n,) int64 token ids."""
        return functional.embedding(tokens, self._table).to(self._dtype)

    def step(
        self,
        tokens: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        places: torch.Tensor,
        wanted: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the next tokens of several sequences, the same number in each.

        Args:
            tokens: (rows * n,) int64 ids.
            cos: (rows * n, 1, head width), of the tokens' positions; see ``rotary``.
            sin: Likewise.
            places: (rows * n,) int64, where in ``keys`` and ``values`` theirs are written.
            wanted: (k,) int64, indices of the tokens whose logits are returned.
            keys: (layers, heads, rows * capacity, head width), row after row; written to.
            values: Likewise.
            mask: (rows, 1, n, m) of the dtype of ``keys``: 0 where a token may attend to one of
                the first m of its row, else minus infinity. ``None`` = there is one row, and its
                tokens may attend to all of it.

        Returns:
            (k, vocabulary) logits.
        """
        hidden = self.embed(tokens)
        rows = 1 if mask is None else mask.shape[0]
        for layer, layer_keys, layer_values in zip(self.layers, keys, values, strict=True):
            query, key, value = layer.project(hidden, cos, sin)
            layer_keys.index_copy_(1, places, key.transpose(0, 1))
            layer_values.index_copy_(1, places, value.transpose(0, 1))
            query = query.unflatten(0, (rows, -1)).transpose(1, 2)
            seen = layer.attend(
                query, _by_row(layer_keys, mask), _by_row(layer_values, mask), mask
            )
            seen = seen.transpose(1, 2).flatten(0, 1)
            if layer is self.layers[-1]:  # no later layer attends to the other tokens
                seen, hidden = seen[wanted], hidden[wanted]
            hidden = layer.finish(hidden, seen)
        return self.logits(hidden)

    def rotary(
        self, positions: torch.Tensor, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and signed sines of (3 or 1, 1, n) positions, (n, head width) each.

        ``like`` has the wanted dtype and device.
        """
        cos, sin = self._rotary(like, positions)
        low, high = sin[0].chunk(2, dim=-1)
        return cos[0], torch.cat((-low, high), dim=-1)

    def text_rotary(self, count: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``rotary`` of text at the first ``count`` positions."""
        # Text has the same position in time, height and width.
        return self.rotary(torch.arange(count, device=like.device).view(1, 1, -1), like)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (..., vocabulary) for the last layer's output (..., width)."""
        return self._head(self._norm(hidden))


class DecoderLayer:
    """One layer in two halves, ``project`` and ``finish``; ``attend`` comes between them.

    Attributes:
        kv_shape: Number of key and value heads, and their width.
    """

    def __init__(self, layer: Any, pack: bool) -> None:
        """Use the weights of ``layer``; for ``pack`` see ``TextModel``."""
        attention, mlp = layer.self_attn, layer.mlp
        self._width, self._scale = attention.head_dim, attention.scaling
        self._query_heads, self._kv_heads = (
            projection.out_features // self._width
            for projection in (attention.q_proj, attention.k_proj)
        )
        self.kv_shape = (self._kv_heads, self._width)
        self._head_norms = None
        if hasattr(attention, 'q_norm'):  # Qwen3-VL
            self._head_norms = RmsNorm(attention.q_norm), RmsNorm(attention.k_norm)
        self._activation = mlp.act_fn
        self._qkv, self._out, self._gate_up, self._down = (
            fuse_linear(attention.q_proj, attention.k_proj, attention.v_proj, pack=pack),
            fuse_linear(attention.o_proj, pack=pack),
            fuse_linear(mlp.gate_proj, mlp.up_proj, pack=pack),
            fuse_linear(mlp.down_proj, pack=pack),
        )
        self._input_norm, self._mlp_norm = (
            RmsNorm(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )

    def project(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries (n, query heads, head width), keys and values (n, heads, head width).

        Args:
            hidden: (n, width) of n tokens.
            cos: (n, 1, head width) of their positions; see ``TextModel.rotary``.
            sin: Likewise.
        """
        heads = self._qkv(self._input_norm(hidden)).unflatten(-1, (-1, self._width))
        rotated, value = heads.split((self._query_heads + self._kv_heads, self._kv_heads), dim=1)
        if self._head_norms is not None:
            query_norm, key_norm = self._head_norms
            query, key = rotated.split((self._query_heads, self._kv_heads), dim=1)
            rotated = torch.cat((query_norm(query), key_norm(key)), dim=1)
        rotated = _rotate(rotated, cos, sin)
        query, key = rotated.split((self._query_heads, self._kv_heads), dim=1)
        return query, key, value

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        causal: bool = False,
    ) -> torch.Tensor:
        """Return the attention (rows, query heads, n, head width) to m keys and values.

        Args:
            query: (rows, query heads, n, head width).
            keys: (rows, heads, m, head width).
            values: Likewise.
            mask: Broadcastable to (rows, query heads, n, m), added to the scores; or ``None``.
            causal: Whether no token attends to a later one; then ``mask`` is ``None``.
        """
        return functional.scaled_dot_product_attention(
            query, keys, values, mask, is_causal=causal, scale=self._scale, enable_gqa=True
        )

    def finish(self, hidden: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the next layer's input (n, width).

        Args:
            hidden: This layer's input, (n, width).
            seen: Its attention, (n, query heads, head width).
        """
        hidden = hidden + self._out(seen.flatten(1))
        gate, up = self._gate_up(self._mlp_norm(hidden)).chunk(2, dim=-1)
        return hidden + self._down(self._activation(gate) * up)


class RmsNorm:
    """Root-mean-square normalisation of (..., width)."""

    def __init__(self, norm: Any) -> None:
        """Use the weights of ``norm``, one of transformers' RMSNorm modules."""
        self._weight, self._epsilon = norm.weight, norm.variance_epsilon
        if self._weight.device.type == 'cpu':
            self._weight = self._weight.float()
        # PyTorch has a kernel on CUDA, but takes eight operators on a CPU. There, the root of the
        # mean of squares is taken as the vector's length over the root of its width: three.
        self._by_length = self._weight.device.type == 'cpu'
        width = len(self._weight)
        self._scaled_weight = self._weight * width**0.5
        self._least_length = torch.tensor((self._epsilon * width) ** 0.5)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (..., width), of the dtype of ``hidden``."""
        if not self._by_length:
            return functional.rms_norm(hidden, self._weight.shape, self._weight, self._epsilon)
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return hidden * (self._scaled_weight / torch.hypot(length, self._least_length))


def _by_row(kept: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return (rows, heads, m, head width), the first m of each row of ``kept``."""
    if mask is None:
        return kept[None]
    return kept.unflatten(1, (mask.shape[0], -1)).transpose(0, 1)[:, :, : mask.shape[-1]]


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (n, heads, width) by the angles of their positions (RoPE)."""
    low, high = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat((high, low), dim=-1), sin)
