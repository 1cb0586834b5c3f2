# SPDX-License-Identifier: Apache-2.0
"""A Qwen-VL's language model of as few operators as it can be.

The model's own forward makes masks, position ids and caches anew for every token, and a small
model spends most of its time on that. Here there are only the layers; keys and values are kept
elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from segzero_core.errors import ModelLoadError
from segzero_core.reasoners.decode.linear import PackedLinear, joined


class TextModel:
    """Embedding, layers and head of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL in evaluation mode.

    Gives what the model's own forward gives, but for the rounding of sums in another order. On a
    CPU that is what it gives in float32, whatever its weights are.

    Attributes:
        layers: From the first to the last.
        device: Where they are.
        kept: What is kept of a token's keys, and of its values: (layers, heads, head width).
        packed: Whether all weights are.
    """

    def __init__(self, model: Any, pack: bool = False) -> None:
        """Use the weights of ``model``.

        Args:
            model: With ``pack`` it cannot be called any more.
            pack: Keep weights as ``PackedLinear`` where that can be done.

        Raises:
            ModelLoadError: Its attention is limited to a sliding window.
        """
        text = model.model.language_model
        if getattr(text, 'has_sliding_layers', False):
            raise ModelLoadError(
                'this checkpoint limits attention to a sliding window, which this engine cannot '
                "do: use reasoner 'vllm' or 'openai'"
            )
        self._table = text.embed_tokens.weight.data  # can be the head's weights, too
        self.device = self._table.device
        self._dtype = torch.float32 if self.device.type == 'cpu' else self._table.dtype
        self.layers = [DecoderLayer(layer, pack) for layer in text.layers]
        self.kept = (len(self.layers), *self.layers[0].kept)
        self._rotary = text.rotary_emb
        self._norm, self._head = _Norm(text.norm), joined(model.lm_head, pack=pack)
        self.packed = all(
            isinstance(product, PackedLinear)
            for product in (
                self._head,
                *(each for layer in self.layers for each in layer.products),
            )
        )

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the first layer's input (n, width) of (n,) ids."""
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
        """Compute the next tokens of some sequences, as many in each, however many these are.

        Args:
            tokens: (rows * n,) ids.
            cos: (rows * n, 1, head width), of their positions; see ``turns``.
            sin: Likewise.
            places: (rows * n,) where in ``keys`` and ``values`` theirs are put.
            wanted: (k,) of which of them something is to be returned.
            keys: (layers, heads, rows * room, head width), those of each row in succession.
            values: Likewise.
            mask: (rows, 1, n, m) of the type of ``keys``: 0 where a token may look at one of the
                first m of its row, else minus infinity; ``None`` = there is one row, and its
                tokens may look at everything.

        Returns:
            (k, vocabulary) logits of what follows each.
        """
        hidden = self.embed(tokens)
        rows = 1 if mask is None else mask.shape[0]
        for layer, of_keys, of_values in zip(self.layers, keys, values, strict=True):
            query, key, value = layer.heads(hidden, cos, sin)
            of_keys.index_copy_(1, places, key.transpose(0, 1))
            of_values.index_copy_(1, places, value.transpose(0, 1))
            query = query.unflatten(0, (rows, -1)).transpose(1, 2)
            seen = layer.attend(query, _begun(of_keys, mask), _begun(of_values, mask), mask)
            seen = seen.transpose(1, 2).flatten(0, 1)
            if layer is self.layers[-1]:  # nothing looks at the others any more
                seen, hidden = seen[wanted], hidden[wanted]
            hidden = layer.finish(hidden, seen)
        return self.logits(hidden)

    def turns(
        self, positions: torch.Tensor, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines of (3 or 1, 1, n) positions, (n, head width) each.

        ``like`` has their type and device.
        """
        cos, sin = self._rotary(like, positions)
        low, high = sin[0].chunk(2, dim=-1)
        return cos[0], torch.cat((-low, high), dim=-1)

    def text_turns(self, count: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``turns`` of text at the first ``count`` positions."""
        # Text has the same position in time, height and width.
        return self.turns(torch.arange(count, device=like.device).view(1, 1, -1), like)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (..., vocabulary) of what the last layer made, (..., width)."""
        return self._head(self._norm(hidden))


class DecoderLayer:
    """One layer, in two halves: attention to whatever keys and values there are lies between.

    Attributes:
        kept: How many heads keys and values have, and how wide these are.
        products: With all of its weights.
    """

    def __init__(self, layer: Any, pack: bool) -> None:
        """Use the weights of ``layer``, and see ``TextModel`` for ``pack``."""
        attention, mlp = layer.self_attn, layer.mlp
        self._width, self._scale = attention.head_dim, attention.scaling
        # How many heads there are for queries, and for keys and values.
        self._heads, self._spare = (
            projection.out_features // self._width
            for projection in (attention.q_proj, attention.k_proj)
        )
        self.kept = (self._spare, self._width)
        self._head_norms = None
        if hasattr(attention, 'q_norm'):  # Qwen3-VL
            self._head_norms = _Norm(attention.q_norm), _Norm(attention.k_norm)
        self._activate = mlp.act_fn
        self.products = self._qkv, self._out, self._gate_up, self._down = (
            joined(attention.q_proj, attention.k_proj, attention.v_proj, pack=pack),
            joined(attention.o_proj, pack=pack),
            joined(mlp.gate_proj, mlp.up_proj, pack=pack),
            joined(mlp.down_proj, pack=pack),
        )
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
        heads = self._qkv(self._before(hidden)).unflatten(-1, (-1, self._width))
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

        ``mask``, that can be broadcast to (rows, query heads, n, m), is added to the scores, or
        ``causal`` says that each looks at no later one.
        """
        return functional.scaled_dot_product_attention(
            query, keys, values, mask, is_causal=causal, scale=self._scale, enable_gqa=True
        )

    def finish(self, hidden: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the next layer's input (n, width) of this one's and of what was seen (n, ...)."""
        hidden = hidden + self._out(seen.flatten(1))
        gate, up = self._gate_up(self._between(hidden)).chunk(2, dim=-1)
        return hidden + self._down(self._activate(gate) * up)


class _Norm:
    """Root-mean-square normalisation of (..., width)."""

    def __init__(self, norm: Any) -> None:
        self._weight, self._epsilon = norm.weight, norm.variance_epsilon
        if self._weight.device.type == 'cpu':
            self._weight = self._weight.float()
        # The mean of squares is the length's square through the width. On a CPU only, where
        # PyTorch has no kernel for it, but takes eight operators.
        self._by_length = self._weight.device.type == 'cpu'
        width = len(self._weight)
        self._longer = self._weight * width**0.5
        self._least = torch.tensor((self._epsilon * width) ** 0.5)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self._by_length:
            return functional.rms_norm(hidden, self._weight.shape, self._weight, self._epsilon)
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return hidden * (self._longer / torch.hypot(length, self._least))


def _begun(kept: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return what may be looked at, (rows, heads, m, head width), of (heads, rows * room, ...)."""
    if mask is None:
        return kept[None]
    return kept.unflatten(1, (mask.shape[0], -1)).transpose(0, 1)[:, :, : mask.shape[-1]]


def _turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (n, heads, width) by the angles of their positions (RoPE)."""
    low, high = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat((high, low), dim=-1), sin)
