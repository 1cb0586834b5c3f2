# SPDX-License-Identifier: Apache-2.0
"""The modules of transformers' Qwen2.5-VL, run on batches of images of one size.

Weights and results are those of the model's own ``forward``. That one loops over images and blocks
in Python, which costs more than the arithmetic for images of a few hundred patches, and it cannot
share one image between sentences.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from training.tiny_recipe.batches import PackedSentences


def see(model: Any, images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return the (B, N, width) image tokens of (B, 3, S, S) images with values 0 to 255.

    Args:
        model: ``Qwen2_5_VLForConditionalGeneration`` whose blocks all attend to the whole image.
        images: Square images; the side is a multiple of patch x merge.
        mean: (3,) mean of the image processor.
        std: (3,) standard deviation of the image processor.
    """
    tower = model.model.visual
    patch, merge = tower.patch_size, tower.spatial_merge_size
    scale = 255.0
    pixels = (images.float() / scale - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    patches = _patches(pixels, patch, merge)
    # A still image is its own second frame, so the two halves of the kernel add up.
    kernel = tower.patch_embed.proj.weight.sum(2).flatten(1)
    hidden = functional.linear(patches, kernel)
    turn = _rotation(tower, images.shape[-1] // patch, merge)
    for block in tower.blocks:
        hidden = hidden + _attend(block.attn, block.norm1(hidden), turn)
        hidden = hidden + block.mlp(block.norm2(hidden))
    batch, count, width = hidden.shape
    merged: torch.Tensor = tower.merger(hidden.reshape(batch * count, width))
    return merged.view(batch, count // merge**2, -1)


class Read(NamedTuple):
    """States of the language model on packed sequences.

    Attributes:
        middle: (B, L, width) hidden states after ``middle`` layers.
        first_gaze: (B, L, N) attention scores of the next layer's first head for the image tokens,
            before softmax.
        gaze: (B, L, N) the same in the layer after that.
        looked: (B, L, width) hidden states after that layer.
        final: (B, L, width) normalised hidden states at the end.
    """

    middle: torch.Tensor
    first_gaze: torch.Tensor
    gaze: torch.Tensor
    looked: torch.Tensor
    final: torch.Tensor


def read(
    model: Any, seen: torch.Tensor, packed: PackedSentences, where: slice, middle: int
) -> Read:
    """Run the language model on packed sequences.

    Args:
        model: The model.
        seen: (B, N, width) image tokens.
        packed: The sequences.
        where: Places of the image tokens.
        middle: Number of layers before ``Read.middle``; at least two more follow.
    """
    layers = model.model.language_model.layers
    hidden, rotary = _begin(model, seen, packed, where)

    def run(hidden: torch.Tensor, part: slice) -> torch.Tensor:
        for layer in layers[part]:
            hidden = layer(hidden, attention_mask=packed.mask, position_embeddings=rotary)
        return hidden

    halfway = run(hidden, slice(middle))
    first_gaze = _gaze(layers[middle], halfway, rotary, where)
    hidden = run(halfway, slice(middle, middle + 1))
    gaze = _gaze(layers[middle + 1], hidden, rotary, where)
    looked = run(hidden, slice(middle + 1, middle + 2))
    final = model.model.language_model.norm(run(looked, slice(middle + 2, None)))
    return Read(halfway, first_gaze, gaze, looked, final)


def read_image(
    model: Any, seen: torch.Tensor, packed: PackedSentences, where: slice, middle: int
) -> torch.Tensor:
    """Return only ``Read.middle`` of the image, (B, N, width): dense losses need no more."""
    hidden, rotary = _begin(model, seen, packed, where)
    for layer in model.model.language_model.layers[:middle]:
        hidden = layer(hidden, attention_mask=packed.mask, position_embeddings=rotary)
    return hidden[:, where]


def _begin(
    model: Any, seen: torch.Tensor, packed: PackedSentences, where: slice
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Return the input of the first layer, and cosines and sines of all positions."""
    language = model.model.language_model
    words = language.embed_tokens(packed.ids)
    hidden = torch.cat([words[:, : where.start], seen, words[:, where.stop :]], dim=1)
    return hidden, language.rotary_emb(hidden, packed.positions)


def _gaze(
    layer: Any, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], where: slice
) -> torch.Tensor:
    """Return the (B, L, N) attention scores of the first head for the image tokens."""
    attention, state = layer.self_attn, layer.input_layernorm(hidden)
    head = slice(attention.head_dim)
    turn = rotary[0], rotary[1]
    query = functional.linear(state, attention.q_proj.weight[head], attention.q_proj.bias[head])
    key = functional.linear(state, attention.k_proj.weight[head], attention.k_proj.bias[head])
    scores = _turn(query, turn) @ _turn(key, turn)[:, where].transpose(1, 2)
    return scores * attention.scaling


def _patches(pixels: torch.Tensor, patch: int, merge: int) -> torch.Tensor:
    """Return (B, n, 3 * patch**2) patches; those of one image token are neighbours."""
    batch, channels, side, _ = pixels.shape
    grid = side // (patch * merge)
    cut = pixels.reshape(batch, channels, grid, merge, patch, grid, merge, patch)
    return cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(batch, (grid * merge) ** 2, -1)


def _rotation(tower: Any, side: int, merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (n, head) cosines and sines of the patches' rotary positions, in their order."""
    grid = side // merge
    index = torch.arange(side * side, device=tower.rotary_pos_emb.inv_freq.device)
    order = index.view(grid, merge, grid, merge).transpose(1, 2).flatten()
    place = torch.stack([order // side, order % side])
    rows, columns = place[..., None] * tower.rotary_pos_emb.inv_freq
    angle = torch.cat([rows, columns, rows, columns], dim=-1)
    return angle.cos(), angle.sin()


def _attend(
    attention: Any, hidden: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    batch, count, width = hidden.shape
    parts = attention.qkv(hidden).view(batch, count, 3, attention.num_heads, -1)
    query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
    # On a CPU the backward pass of the fused kernel is slower than these three steps.
    scores = _turn(query, turn) @ _turn(key, turn).transpose(-1, -2) * query.shape[-1] ** -0.5
    mixed = scores.softmax(-1).to(value.dtype) @ value
    out: torch.Tensor = attention.proj(mixed.transpose(1, 2).reshape(batch, count, width))
    return out


def _turn(vectors: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    first, second = vectors.chunk(2, dim=-1)
    return vectors * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]


@torch.no_grad()
def start_local(model: Any, strength: float = 3.0) -> None:
    """Initialise the first vision blocks so that they work like convolutions.

    Query and key biases make each head attend to a patch itself or to one of its four neighbours.
    A tower with random attention would first have to learn that neighbouring patches belong
    together.

    Args:
        model: A newly initialised model.
        strength: Strength of the biases; 3 gives a kernel about three patches wide.
    """
    neighbours = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
    tower = model.model.visual
    frequencies = tower.rotary_pos_emb.inv_freq
    # Lower frequencies cannot distinguish neighbouring patches.
    fast = strength * (frequencies > 0.2).float().repeat(2)
    heads = [(block.attn, h) for block in tower.blocks[:-1] for h in range(block.attn.num_heads)]
    for number, (attention, head) in enumerate(heads):
        down, right = neighbours[number % len(neighbours)]
        angle = torch.cat([down * frequencies, right * frequencies])
        query, key, _ = attention.qkv.bias.view(3, attention.num_heads, -1)
        query[head] = fast.repeat(2)
        key[head] = torch.cat(
            [fast * (angle.cos() + angle.sin()), fast * (angle.cos() - angle.sin())]
        )


@torch.no_grad()
def start_ordered(model: Any, numbers: list[int]) -> None:
    """Initialise the embeddings of numbers with sines and cosines of their value.

    Neighbouring numbers then have similar embeddings.

    Args:
        model: A newly initialised model.
        numbers: Tokens of 0, 1, 2, ...
    """
    table = model.get_input_embeddings().weight
    table.mul_(3)  # default embeddings of a small model are too similar
    width = table.shape[1]
    value = torch.arange(len(numbers)) / (2 * len(numbers))
    turns = torch.logspace(0, 5, width // 2, base=2.0)
    angle = 2 * torch.pi * value[:, None] * turns
    wave = 0.1 * torch.cat([angle.sin(), angle.cos()], dim=-1)
    table[numbers] = wave + 0.2 * table[numbers]


def parameters(*modules: nn.Module) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups of AdamW: only matrices decay."""
    everything = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [
        {'params': [p for p in everything if p.ndim > 1]},
        {'params': [p for p in everything if p.ndim < 2], 'weight_decay': 0.0},
    ]
