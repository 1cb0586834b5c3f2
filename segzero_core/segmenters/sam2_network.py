# SPDX-License-Identifier: Apache-2.0
"""The layers of SAM 2, and nothing computed that no mask is made of.

What transformers' own ``forward`` computes besides, for every image: weights of an attention that
are not used, and encodings of positions that only videos need or that are always the same. For
every prompt: a fourth mask, two masks that are not the best one, and whether there is an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from segzero_core.checkpoints import transformers

_published = transformers.models.sam2.modeling_sam2


class Sam2Network:
    """Image -> feature maps -> masks, with the weights of a ``Sam2Model``."""

    @torch.inference_mode()
    def __init__(self, model: Any) -> None:
        """Use the layers of ``model``, which keeps them."""
        self._backbone, self._neck = model.vision_encoder.backbone, model.vision_encoder.neck
        self._prompts, self._decoder = model.prompt_encoder, model.mask_decoder
        self._no_memory = model.no_memory_embedding
        stride = self._backbone.patch_embed.projection.stride
        self._places = self._backbone._get_pos_embed(
            tuple(self._prompts.input_image_size // step for step in stride)
        )
        self._positions = model.get_image_wide_positional_embeddings()

    def encode(self, square: torch.Tensor) -> list[torch.Tensor]:
        """Return three maps, finest first, each (1, C, h, w), of a (1, 3, side, side) image."""
        hidden = (self._backbone.patch_embed(square) + self._places).contiguous()
        stages = []
        for number, block in enumerate(self._backbone.blocks):
            hidden = _through(block, hidden)
            if number in self._backbone.stage_ends:
                stages.append(hidden)
        maps: list[torch.Tensor] = []
        levels = reversed(range(len(stages)))  # coarsest first, as the convolutions are
        for level, convolution in zip(levels, self._neck.convs, strict=True):
            found = _pointwise(convolution, stages[level])
            if maps and level in self._neck.fpn_top_down_levels:
                found = found + _doubled(maps[-1])
            maps.append(found)
        coarse, middle, fine = maps[-3:]
        fine = _pointwise(self._decoder.conv_s0, fine)
        middle = _pointwise(self._decoder.conv_s1, middle)
        return [each.permute(0, 3, 1, 2) for each in (fine, middle, coarse + self._no_memory)]

    def decode(
        self, features: Sequence[torch.Tensor], **prompts: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is found on an image for each of N prompts of one form.

        Args:
            features: What ``encode`` returned.
            **prompts: ``input_boxes`` (1, N, 4), ``input_points`` (1, N, n, 2) on the object,
                or both, in pixels of the model's square.

        Returns:
            Logits (N, h, w), at the resolution of the finest map, of the mask with the highest
            predicted IoU, and that IoU, (N,).
        """
        points, boxes = prompts.get('input_points'), prompts.get('input_boxes')
        labels = None if points is None else torch.ones_like(points[..., 0], dtype=torch.int)
        asked, no_mask = self._prompts(points, labels, boxes, None)
        count, decoder = asked.shape[1], self._decoder
        own = torch.cat(
            [each.weight for each in (decoder.obj_score_token, decoder.iou_token)]
            + [decoder.mask_tokens.weight]
        )
        fine, middle, coarse = features
        tokens, image = decoder.transformer(
            torch.cat((own.expand(1, count, -1, -1), asked), dim=2),
            (coarse + no_mask).expand(count, -1, -1, -1),
            self._positions,
            attention_similarity=None,
        )
        # Of the tokens, the first tells of an object at all, the third belongs to a fourth mask.
        scores = decoder.iou_prediction_head(tokens[0, :, 1])[:, 1:]
        rows, best = torch.arange(count, device=scores.device), scores.argmax(dim=1)
        layers = decoder.output_hypernetworks_mlps[1:]
        masks = torch.stack(
            [layer(tokens[0, :, 3 + index]) for index, layer in enumerate(layers)], dim=1
        )[rows, best]
        image = image.transpose(2, 3).view(count, *coarse.shape[1:])
        image = decoder.upscale_layer_norm(decoder.upscale_conv1(image) + middle)
        image = decoder.upscale_conv2(decoder.activation(image)) + fine
        logits = torch.bmm(masks[:, None], decoder.activation(image).flatten(2))
        return logits.view(count, *fine.shape[2:]), scores[rows, best]


def _through(block: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return (1, h, w, C) after a block, which may halve h and w."""
    rest, window = hidden, block.window_size
    hidden = block.layer_norm1(hidden)
    if block.dim != block.dim_out:
        rest = _published.do_pool(block.proj(hidden), block.query_stride)
    if window:
        hidden, padded = _published.window_partition(hidden, window)
    hidden = _attend(block.attn, hidden)
    if window:
        if block.query_stride:
            window //= block.query_stride[0]
            padded = tuple(-(-side // window) * window for side in rest.shape[1:3])
        hidden = _published.window_unpartition(hidden, window, padded, rest.shape[1:3])
    hidden = rest + hidden
    return hidden + block.mlp(block.layer_norm2(hidden))


def _attend(attention: Any, windows: torch.Tensor) -> torch.Tensor:
    """Return what each pixel of (n, h, w, C) sees of its window, pooled where that is due."""
    count, height, width, _ = windows.shape
    heads = attention.num_attention_heads
    query, key, value = attention.qkv(windows).view(count, height * width, 3, heads, -1).unbind(2)
    if attention.query_stride:
        query = query.reshape(count, height, width, -1)
        query = _published.do_pool(query, attention.query_stride)
        height, width = query.shape[1:3]
        query = query.reshape(count, height * width, heads, -1)
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    seen = functional.scaled_dot_product_attention(query, key, value, scale=attention.scale)
    return attention.proj(seen.transpose(1, 2).reshape(count, height, width, -1))


def _pointwise(convolution: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Apply a convolution of 1 x 1 to (1, h, w, C): on a CPU far faster as a product."""
    return functional.linear(pixels, convolution.weight.flatten(1), convolution.bias)


def _doubled(pixels: torch.Tensor) -> torch.Tensor:
    """Return (1, h, w, C) at twice the size, each pixel four times."""
    return pixels.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
