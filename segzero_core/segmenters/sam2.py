# SPDX-License-Identifier: Apache-2.0
"""SAM 2 and 2.1 of any size through transformers, without torchvision.

The numbers follow Meta's ``SAM2ImagePredictor`` step by step: 8-bit values over 255, stretched to
the model's square bilinearly *with antialiasing* (the default of torchvision's ``Resize``),
normalised with the ImageNet statistics; coordinates scaled by square over side; box corners and
points in one prompt; three masks; upsampled bilinearly, thresholded at 0. Only the order of two
steps differs: the best mask is chosen before upsampling, so two thirds of that work, and a
float copy of three full-size masks to the host, never happen. The result is the same.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from segzero_core.checkpoints import (
    check_checkpoint,
    choose_device,
    find_checkpoint,
    load_weights,
    transformers,
)
from segzero_core.segmenters.base import MaskResult
from segzero_core.types import Box, Image, Point, Size, image_size

# Meta publishes image checkpoints as video ones: the image part of both is the same.
MODEL_TYPES = ('sam2', 'sam2_video')

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sam2Embedding:
    """What the image encoder made of one image.

    Attributes:
        features: Three maps, finest first, each (1, C, h, w), on the model's device.
        size: Of the image itself, in pixels.
    """

    features: list[torch.Tensor]
    size: Size


class Sam2Segmenter:
    """``Sam2Model``: embeds an image once, then decodes any number of prompts on it.

    In bfloat16 autocast on CUDA, in float32 elsewhere.
    """

    def __init__(self, model: str = 'facebook/sam2.1-hiera-large', device: str = '') -> None:
        """Load ``model``, a folder or hub id, onto ``device`` ('' = CUDA when there is one).

        Raises:
            EngineOptionError: The device has no name torch knows.
            ModelLoadError: The model cannot be loaded, or the device is absent.
        """
        self.device = choose_device(device)
        folder = find_checkpoint(model)
        check_checkpoint(folder, MODEL_TYPES)
        self._model: Any = load_weights(
            transformers.AutoModelForMaskGeneration, folder, self.device, dtype=torch.float32
        )
        self._side = int(self._model.config.prompt_encoder_config.image_size)
        self._mean = torch.tensor(_MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD, device=self.device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def embed(self, image: Image) -> Sam2Embedding:
        """Run the image encoder on ``image``, (H, W, 3) uint8 RGB."""
        with self._autocast():
            features = self._model.get_image_embeddings(self._preprocess(image))
        return Sam2Embedding(features, image_size(image))

    @torch.inference_mode()
    def segment(
        self, embedding: Sam2Embedding, box: Box | None, points: Sequence[Point]
    ) -> MaskResult:
        """Return the best of three masks at the image's own size, with its predicted IoU."""
        logits, scores = self._decode(embedding, box, points)
        best = int(scores.argmax())
        size = (embedding.size.height, embedding.size.width)
        mask = _upsample(logits[best : best + 1], size)[0] > 0
        return MaskResult(mask.cpu().numpy(), float(scores[best]))

    def close(self) -> None:
        """Free the model's memory."""
        self._model = None
        gc.collect()
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == 'cuda')

    def _preprocess(self, image: Image) -> torch.Tensor:
        # A copy, because torch takes neither read-only memory (views of a message) nor negative
        # strides (BGR read as RGB). One byte per value travels; the device makes the floats.
        pixels = torch.from_numpy(np.array(image, order='C')).to(self.device)
        pixels = pixels.permute(2, 0, 1)[None].float() / 255
        square = functional.interpolate(
            pixels, (self._side, self._side), mode='bilinear', antialias=True
        )
        return (square - self._mean) / self._std

    def _decode(
        self, embedding: Sam2Embedding, box: Box | None, points: Sequence[Point]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mask logits (3, h, w) at the decoder's resolution and predicted IoUs (3,)."""
        scale = torch.tensor(
            [self._side / embedding.size.width, self._side / embedding.size.height]
        )
        prompt: dict[str, torch.Tensor] = {}
        if box is not None:
            corners = torch.tensor(box).view(2, 2) * scale
            prompt['input_boxes'] = corners.view(1, 1, 4).to(self.device)
        if points:
            positive = (torch.tensor(points) * scale).view(1, 1, -1, 2)
            prompt['input_points'] = positive.to(self.device)
        with self._autocast():
            found = self._model(
                image_embeddings=embedding.features, multimask_output=True, **prompt
            )
        return found.pred_masks[0, 0].float(), found.iou_scores[0, 0].float()


def _upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return (N, h, w) logits at ``size`` = (H, W)."""
    return functional.interpolate(logits[None], size, mode='bilinear', align_corners=False)[0]
