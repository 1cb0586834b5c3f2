# SPDX-License-Identifier: Apache-2.0
"""Token by token through a Qwen-VL's language model, without what ``generate`` does around it.

At batch size one ``generate`` and the model's own forward spend most of a small model's time in
Python: masks, position ids and caches are built anew for every token. Here keys and values lie in
buffers of their final size, positions are looked up in a table, and a token costs one pass over
the layers. The buffers also remember: what a new prompt has in common with the last one, an image
and its system turn for instance, is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        self._layers = [_Layer(layer) for layer in self._text.layers]
        self._norm = _Norm(self._text.norm)
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
        cos, sin = self._turns[0][place, None], self._turns[1][place, None]
        mask = None
        if len(tokens) > 1:
            mask = torch.ones(len(tokens), last, dtype=torch.bool, device=ids.device).tril(first)
        hidden = self._text.embed_tokens(ids)
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            hidden = layer(hidden, cos, sin, keys[:, :last], values[:, :last], mask)
        self.length = last
        return self._head(self._norm(hidden[-1]))

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


class _Norm:
    """Root-mean-square normalisation as one operator."""

    def __init__(self, norm: Any) -> None:
        self._weight, self._epsilon = norm.weight, norm.variance_epsilon

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, self._weight.shape, self._weight, self._epsilon)


class _Layer:
    """One layer of the language model, of as few operators as it can be."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._width, self._scale = attention.head_dim, attention.scaling
        self._qkv = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = attention.o_proj
        self._head_norms = None
        if hasattr(attention, 'q_norm'):  # Qwen3-VL
            self._head_norms = _Norm(attention.q_norm), _Norm(attention.k_norm)
        self._gate_up = _joined(mlp.gate_proj, mlp.up_proj)
        self._down, self._activate = mlp.down_proj, mlp.act_fn
        self._before, self._between = (
            _Norm(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )

    def __call__(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the next layer's (n, width) input.

        Args:
            hidden: (n, width), of the newest tokens.
            cos: (n, 1, head width), of their positions.
            sin: Likewise.
            keys: (heads, m, head width), of all tokens; those of the newest are written here.
            values: Likewise.
            mask: (n, m), which tokens each may look at; ``None`` = all.
        """
        count, spare = len(hidden), len(keys)
        heads = self._qkv(self._before(hidden)).view(count, -1, self._width)
        turned, value = heads[:, :-spare], heads[:, -spare:]
        if self._head_norms is not None:
            of_query, of_key = self._head_norms
            query, key = turned[:, :-spare], turned[:, -spare:]
            turned = torch.cat((of_query(query), of_key(key)), dim=1)
        turned = _turn(turned, cos, sin)
        keys[:, -count:] = turned[:, -spare:].transpose(0, 1)
        values[:, -count:] = value.transpose(0, 1)
        seen = functional.scaled_dot_product_attention(
            turned[:, :-spare].transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=mask,
            scale=self._scale,
            enable_gqa=True,
        )
        hidden = hidden + self._out(seen[0].transpose(0, 1).reshape(count, -1))
        gate, up = self._gate_up(self._between(hidden)).chunk(2, dim=-1)
        return hidden + self._down(self._activate(gate) * up)


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
    return lambda hidden: functional.linear(hidden, weight, bias)


def _turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (n, heads, width) by the angles of their positions (RoPE)."""
    low, high = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-high, low), dim=-1) * sin
