# SPDX-License-Identifier: Apache-2.0
"""Linear layers of a language model: fused, and on a CPU with weights of 16 bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

Linear = Callable[[torch.Tensor], torch.Tensor]

_HALF_A_STEP = 2.0**-25  # half the distance between the smallest float16 numbers
# These operators announce their end; their successor, quantized::linear_dynamic_fp16, takes twice
# as long for a small layer.
_DEPRECATED = r'fbgemm_(pack_gemm_matrix_fp16|linear_fp16_weight_fp32_activation) is deprecated'


def fuse_linear(*projections: Any, pack: bool = False) -> Linear:
    """Return linear layers of the same input as one: (n, width) -> (n, sum of their outputs).

    Args:
        *projections: ``torch.nn.Linear`` layers. Their weights become views of one matrix, so that
            they take no more memory than before; on a CPU they become float32. Other layers, such
            as quantized ones, are called one by one.
        pack: Keep the weights in 16 bits where possible, see ``PackedLinear``. The projections are
            then left without weights and cannot be called any more.
    """
    if any(type(each) is not torch.nn.Linear for each in projections):
        return lambda hidden: torch.cat([each(hidden) for each in projections], dim=-1)
    sizes = [each.out_features for each in projections]
    weight = _concatenate([each.weight.data for each in projections])
    biases = [each.bias.data for each in projections if each.bias is not None]
    bias = _concatenate(biases) if biases else None
    packed = PackedLinear.of(weight, bias) if pack else None
    parts = weight.split(sizes) if packed is None else [weight.new_empty(0)] * len(sizes)
    for each, part in zip(projections, parts, strict=True):
        each.weight.data = part
    return packed or (lambda hidden: functional.linear(hidden, weight, bias))


def _concatenate(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return tensors one after the other, in the dtype that is computed in."""
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.float() if whole.device.type == 'cpu' else whole


class PackedLinear:
    """A linear layer with float16 weights and float32 arithmetic (FBGEMM), for CPUs.

    A CPU computes a few tokens in the time it takes to read the weights, and half the bytes are
    read in half the time. The module's README has the measurements.
    """

    def __init__(self, packed: torch.Tensor, bias: torch.Tensor) -> None:
        """Use weights as ``torch.fbgemm_pack_gemm_matrix_fp16`` returns them.

        Args:
            packed: (outputs, inputs), opaque.
            bias: (outputs,) float32.
        """
        self._packed, self._bias = packed, bias

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear | None:
        """Return the layer, or ``None`` where it would lose precision or cannot be computed.

        Args:
            weight: (outputs, inputs) float32.
            bias: (outputs,) float32.

        Returns:
            ``None`` if the weights are not on a CPU that FBGEMM supports, or need more than 16
            bits. float16 weights are kept exactly, bfloat16 ones to within 3e-8: only magnitudes
            below 8e-6 are rounded.
        """
        if weight.device.type != 'cpu' or weight.dtype != torch.float32:
            return None
        if (weight.half().float() - weight).abs().max() > _HALF_A_STEP:
            return None
        if bias is None:
            bias = weight.new_zeros(len(weight))
        warnings.filterwarnings('ignore', _DEPRECATED, UserWarning)
        try:
            found = cls(torch.fbgemm_pack_gemm_matrix_fp16(weight), bias)
            found(weight[:1])
        except (AttributeError, RuntimeError):  # another PyTorch, another processor
            return None
        return found

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (n, outputs) of (n, inputs), float32."""
        return torch.fbgemm_linear_fp16_weight_fp32_activation(hidden, self._packed, self._bias)
