# SPDX-License-Identifier: Apache-2.0
"""Products of a few tokens with the weights of a language model.

On a CPU they take as long as it takes to read the weights, if they are done well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

Product = Callable[[torch.Tensor], torch.Tensor]

# Tokens. So few are multiplied the other way round on a CPU: with 2 to 4 of them that takes half
# the time, with more than 8 it takes longer (MKL and oneDNN of PyTorch 2.13).
_FEW = 8
_HALF_A_STEP = 2.0**-25  # between the smallest numbers of 16 bits


def joined(*projections: Any, pack: bool = False) -> Product:
    """Return projections of the same input as one: (n, width) -> (n, sum of theirs).

    Args:
        *projections: Linear layers. Their weights become parts of one matrix, so that they take
            no more memory than before. On a CPU they become float32.
        pack: Keep them in 16 bits instead, see ``PackedLinear``, where that can be done. Then the
            projections cannot be used any more: they are left without weights.
    """
    if any(type(each) is not torch.nn.Linear for each in projections):  # quantized, for instance
        return lambda hidden: torch.cat([each(hidden) for each in projections], dim=-1)
    sizes = [each.out_features for each in projections]
    weight = _whole([each.weight.data for each in projections])
    biases = [each.bias.data for each in projections if each.bias is not None]
    bias = _whole(biases) if biases else None
    packed = PackedLinear.of(weight, bias) if pack else None
    parts = weight.split(sizes) if packed is None else [weight.new_empty(0)] * len(sizes)
    for each, part in zip(projections, parts, strict=True):
        each.weight.data = part
    return packed or _Plain(weight, bias)


def _whole(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return tensors behind each other, in the type that is computed in."""
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.float() if whole.device.type == 'cpu' else whole


class PackedLinear:
    """Weights of 16 bits, multiplied and added up in 32 bits by FBGEMM. Any number of tokens.

    Checkpoints are published in 16 bits. What takes half the memory is read in half the time:
    one token takes 0.4 of the time, 4 to 8 take 0.2 to 0.3, and a thousand no longer than with
    PyTorch's own products of 32 bits.
    """

    def __init__(self, packed: torch.Tensor, bias: torch.Tensor) -> None:
        self._packed, self._bias = packed, bias

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear | None:
        """Return them packed.

        Returns:
            ``None`` if they are not on a CPU that FBGEMM knows, or are more exact than 16 bits.
            float16 is kept as it is, bfloat16 to within 3e-8: only numbers below 8e-6 are rounded.
        """
        if weight.device.type != 'cpu' or weight.dtype != torch.float32:
            return None
        if (weight.half().float() - weight).abs().max() > _HALF_A_STEP:
            return None
        if bias is None:
            bias = weight.new_zeros(len(weight))
        try:
            with warnings.catch_warnings():
                # Both operators say once that they will be replaced; what is to replace them,
                # quantized::linear_dynamic_fp16, takes twice as long for a small layer.
                warnings.simplefilter('ignore')
                found = cls(torch.fbgemm_pack_gemm_matrix_fp16(weight), bias)
                found(weight[:1])
        except (AttributeError, RuntimeError):  # another PyTorch, another processor
            return None
        return found

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (n, outputs) of (n, width)."""
        return torch.fbgemm_linear_fp16_weight_fp32_activation(hidden, self._packed, self._bias)


class _Plain:
    """Weights as they are."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias
        self._column = None if bias is None else bias[:, None]

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (n, outputs) of (n, width)."""
        weight = self._weight
        if weight.device.type != 'cpu' or not 1 < len(hidden) <= _FEW:
            return functional.linear(hidden, weight, self._bias)
        # Weights are read from memory about once, instead of once for every token.
        if self._column is None:
            columns = weight @ hidden.T
        else:
            columns = torch.addmm(self._column, weight, hidden.T)
        return columns.T.contiguous()
