# SPDX-License-Identifier: Apache-2.0
import warnings

import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')

import torch

from segzero_core.reasoners.decode.linear import PackedLinear, fuse_linear

pytestmark = pytest.mark.usefixtures('one_thread')

needs_fbgemm = pytest.mark.skipif(
    PackedLinear.of(torch.zeros(1, 1), None) is None,
    reason='this PyTorch or processor has no FBGEMM',
)


def projections(dtype, bias=True):
    """Two linear layers of 70 inputs whose weights are as small as published ones can be."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(70, outputs, bias).requires_grad_(False) for outputs in (33, 8)]
    for layer in layers:
        layer.weight *= torch.logspace(-9, 0, 70)
        layer.weight.copy_(layer.weight.to(dtype))
    return layers


@needs_fbgemm
@torch.inference_mode()
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_packed_and_multiplied_in_32(dtype, bias):
    layers = projections(dtype, bias)
    exact = [torch.nn.Linear(70, 1).double() for _ in layers]
    for layer, copy in zip(layers, exact, strict=True):
        copy.weight.data = layer.weight.double()
        copy.bias.data = layer.bias.double() if bias else torch.zeros(1).double()
    product = fuse_linear(*layers, pack=True)
    assert isinstance(product, PackedLinear)
    for count in (1, 2, 8, 9, 40):
        hidden = torch.randn(count, 70)
        wanted = torch.cat([copy(hidden.double()) for copy in exact], dim=-1)
        assert (product(hidden) - wanted).abs().max() < 1e-6  # 16 bits would be off by 1e-3
    assert [layer.weight.numel() for layer in layers] == [0, 0]


@torch.inference_mode()
@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize('bias', [True, False])
def test_more_exact_weights_stay_what_they_are(bias, pack):
    layers = projections(torch.float32, bias)
    wanted = [layer(torch.eye(70)) for layer in layers]
    product = fuse_linear(*layers, pack=pack)
    for count in (1, 2, 8, 9, 70):
        found = product(torch.eye(70)[:count])
        assert torch.allclose(found, torch.cat(wanted, dim=-1)[:count], rtol=0, atol=1e-7)
    # The layers still work, with the same memory.
    assert torch.equal(layers[1](torch.eye(70)), wanted[1])
    assert layers[0].weight.untyped_storage().data_ptr() == (
        layers[1].weight.untyped_storage().data_ptr()
    )


@needs_fbgemm
@torch.inference_mode()
def test_too_large_numbers_are_not_packed():
    assert PackedLinear.of(torch.full((2, 2), 65504.0), None)
    assert not PackedLinear.of(torch.full((2, 2), 1e5), None)


@torch.inference_mode()
def test_without_fbgemm_it_goes_on(monkeypatch):
    monkeypatch.delattr(torch, 'fbgemm_linear_fp16_weight_fp32_activation', raising=False)
    layers = projections(torch.float16)
    wanted = torch.cat([layer(torch.eye(70)) for layer in layers], dim=-1)
    product = fuse_linear(*layers, pack=True)
    assert not isinstance(product, PackedLinear)
    assert torch.allclose(product(torch.eye(70)), wanted, rtol=0, atol=1e-7)


@torch.inference_mode()
def test_nobody_is_warned_about_operators_he_did_not_choose():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fuse_linear(*projections(torch.float16), pack=True)(torch.zeros(1, 70))
