# SPDX-License-Identifier: Apache-2.0
"""A Qwen-VL's language model of as few operators as it can be.

The model's own forward makes masks, position ids and caches anew for every token, and a small
model spends most of its time on that. Here there are only the layers; keys and values are kept
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from segzero_core.errors import ModelLoadError

# Tokens. So few are multiplied the other way round on a CPU: with 2 to 4 of them that takes half
# the time, with more than 8 it takes longer (MKL and oneDNN of PyTorch 2.13).
_FEW = 8


class TextLayers:
    """Embedding, layers and head of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL in evaluation mode.

    Gives what the model's own forward gives, but for the rounding of sums in another order.

    Attributes:
        layers: From the first to the last.
        device: Where they are.
        kept: What is kept of a token's keys, and of its values: (layers, heads, head width).
    """

    def __init__(self, model: Any) -> None:
        """Use the weights of ``model``.

        Raises:
            ModelLoadError: Its attention is limited to a sliding window.
        """
        text = model.model.language_model
        if getattr(text, 'has_sliding_layers', False):
            raise ModelLoadError(
                'this checkpoint limits attention to a sliding window, which this engine cannot '
                "do: use reasoner 'vllm' or 'openai'"
            )
        self.layers = [Layer(layer) for layer in text.layers]
        self.kept = (len(self.layers), *self.layers[0].kept)
        self.device = text.embed_tokens.weight.device
        self._embed, self._rotary = text.embed_tokens, text.rotary_emb
        self._norm, self._head = _Norm(text.norm), _joined(model.lm_head)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the first layer's input (n, width) of (n,) ids."""
        return self._embed(tokens)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (..., vocabulary) of what the last layer made, (..., width)."""
        return self._head(self._norm(hidden))

    def text_turns(self, count: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``turns`` of text at the first ``count`` positions."""
        # Text has the same position in time, height and width.
        return self.turns(torch.arange(count, device=like.device).view(1, 1, -1), like)

    def turns(
        self, positions: torch.Tensor, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines of (3 or 1, 1, n) positions, (n, head width) each.

        ``like`` has their type and device.
        """
        cos, sin = self._rotary(like, positions)
        low, high = sin[0].chunk(2, dim=-1)
        return cos[0], torch.cat((-low, high), dim=-1)


class Layer:
    """One layer, in two halves: attention to whatever keys and values there are lies between.

    Attributes:
        kept: How many heads keys and values have, and how wide these are.
    """

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._width, self._scale = attention.head_dim, attention.scaling
        # How many heads there are for queries, and for keys and values.
        self._heads, self._spare = (
            projection.out_features // self._width
            for projection in (attention.q_proj, attention.k_proj)
        )
        self.kept = (self._spare, self._width)
        self._qkv = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = _joined(attention.o_proj)
        self._head_norms = None
        if hasattr(attention, 'q_norm'):  # Qwen3-VL
            self._head_norms = _Norm(attention.q_norm), _Norm(attention.k_norm)
        self._gate_up = _joined(mlp.gate_proj, mlp.up_proj)
        self._down, self._activate = _joined(mlp.down_proj), mlp.act_fn
        self._before, self._between = (
            _Norm(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )

    def heads(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries (n, query heads, head width), keys and values (n, heads, head width).

        Args:
            hidden: (n, width), of n tokens.
            cos: (n, 1, head width), of their positions.
            sin: Likewise.
        """
        heads = self._qkv(self._before(hidden)).view(len(hidden), -1, self._width)
        turned, value = heads.split((self._heads + self._spare, self._spare), dim=1)
        if self._head_norms is not None:
            of_query, of_key = self._head_norms
            query, key = turned.split((self._heads, self._spare), dim=1)
            turned = torch.cat((of_query(query), of_key(key)), dim=1)
        query, key = _turn(turned, cos, sin).split((self._heads, self._spare), dim=1)
        return query, key, value

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        causal: bool = False,
    ) -> torch.Tensor:
        """Return what (rows, query heads, n, head width) see of (rows, heads, m, head width).

        ``mask``, that can be broadcast to (rows, query heads, n, m), says what each may look at,
        or ``causal`` that it is at no later one.
        """
        return functional.scaled_dot_product_attention(
            query, keys, values, mask, is_causal=causal, scale=self._scale, enable_gqa=True
        )

    def finish(self, hidden: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the next layer's input (n, width) of this one's and of what was seen (n, ...)."""
        hidden = hidden + self._out(seen.reshape(len(hidden), -1))
        gate, up = self._gate_up(self._between(hidden)).chunk(2, dim=-1)
        return hidden + self._down(self._activate(gate) * up)


class _Norm:
    """Root-mean-square normalisation as one operator."""

    def __init__(self, norm: Any) -> None:
        self._weight, self._epsilon = norm.weight, norm.variance_epsilon

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, self._weight.shape, self._weight, self._epsilon)


def _joined(*projections: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return projections of the same input as one, their results side by side.

    Their weights become parts of one matrix, so that they take no more memory than before.
    """
    if any(type(each) is not torch.nn.Linear for each in projections):  # quantized, for instance
        return lambda hidden: torch.cat([each(hidden) for each in projections], dim=-1)
    sizes = [each.out_features for each in projections]
    weight = torch.cat([each.weight.data for each in projections])
    for each, part in zip(projections, weight.split(sizes), strict=True):
        each.weight.data = part
    biases = [each.bias for each in projections if each.bias is not None]
    bias = torch.cat([each.data for each in biases]) if biases else None

    def product(hidden: torch.Tensor) -> torch.Tensor:
        if weight.device.type != 'cpu' or not 1 < len(hidden) <= _FEW:
            return functional.linear(hidden, weight, bias)
        # Weights are read from memory about once, instead of once for every token.
        columns = weight @ hidden.T if bias is None else torch.addmm(column, weight, hidden.T)
        return columns.T.contiguous()

    column = None if bias is None else bias[:, None]
    return product


def _turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (n, heads, width) by the angles of their positions (RoPE)."""
    low, high = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat((high, low), dim=-1), sin)
