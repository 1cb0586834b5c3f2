# SPDX-License-Identifier: Apache-2.0
"""SAM 2 and 2.1 of any size through transformers, without torchvision.

The computation follows Meta's ``SAM2ImagePredictor`` step by step:

1. 8-bit values are divided by 255, resized bilinearly *with antialiasing* to the model's square
   (the default of torchvision's ``Resize``), and normalised with the ImageNet statistics.
2. Coordinates are scaled by the side of the square over the side of the image. Box corners and
   points form one prompt.
3. The decoder returns three masks, which are upsampled bilinearly and thresholded at 0.

Only the order of two steps differs: the best mask is chosen before upsampling. This saves two
thirds of the upsampling, and copies one bool per pixel to the host instead of three full-size
float masks. The result is the same.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from segzero_core.runtime.checkpoint_metadata import synthetic_only
from segzero_core.runtime.checkpoints import (
    check_checkpoint,
    choose_device,
    find_checkpoint,
    load_weights,
    transformers,
)
from segzero_core.runtime.torch_compile import go_on_without
from segzero_core.runtime.torchscript import TracedFunction
from segzero_core.segmenters.base import MaskResult
from segzero_core.types import Box, Image, Point, Size, image_size

# Meta publishes its checkpoints as video models; their image part is the image model.
MODEL_TYPES = ('sam2', 'sam2_video')

COMPILER = 'inductor'
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sam2Embedding:
    """The image encoder's output for one image.

    Attributes:
        features: Three maps, finest first, each (1, C, h, w), on the model's device.
        size: Of the image itself, in pixels.
    """

    features: tuple[torch.Tensor, ...]
    size: Size


class Sam2Segmenter:
    """``Sam2Model``: embeds an image once, then decodes any number of prompts on it.

    The model runs in bfloat16 autocast on CUDA, and in float32 elsewhere.

    Attributes:
        device: Device of the model.
        model: The transformers model; ``None`` once closed.
        side: Side in pixels of the square the model sees.
        encode: ``features``, recorded or compiled.
        decode: ``logits``, recorded.
        compiled: Whether the image encoder is compiled.
    """

    needs_warm_up = True

    def __init__(
        self,
        model: str = 'facebook/sam2.1-hiera-large',
        device: str = '',
        torch_compile: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: A folder or hub id.
            device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ...; '' = CUDA if there is a GPU.
            torch_compile: Compile the image encoder at the first image. If compiling fails, the
                encoder runs uncompiled.

        Raises:
            EngineOptionError: torch has no device of that name.
            ModelLoadError: The model cannot be loaded, or the device is absent.
        """
        self.device = choose_device(device)
        folder = find_checkpoint(model)
        check_checkpoint(folder, MODEL_TYPES)
        self.synthetic_only = synthetic_only(folder)
        self.model: Any = load_weights(
            transformers.AutoModelForMaskGeneration, folder, self.device, dtype=torch.float32
        )
        self.encode: Any = TracedFunction(self.features, 'image encoder')
        self.decode: Any = TracedFunction(self.logits, 'mask decoder')
        self.compiled = torch_compile
        if torch_compile:
            self.encode = self.features
            self.model.vision_encoder.compile(backend=COMPILER, dynamic=False)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == 'cuda' else None
        self.side = int(self.model.config.prompt_encoder_config.image_size)
        self._mean = torch.tensor(_MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD, device=self.device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def embed(self, image: Image) -> Sam2Embedding:
        """Run the image encoder on ``image``, (H, W, 3) uint8 RGB."""
        with self._own_stream(), self.autocast():
            square = self.preprocess(image)
            try:
                features = self.encode(square)
            except RuntimeError as error:
                if not self.compiled:
                    raise
                go_on_without('segmenter', error)
                self.compiled = False
                self.model.vision_encoder._compiled_call_impl = None
                features = self.encode(square)
        return Sam2Embedding(features, image_size(image))

    def segment(
        self, embedding: Sam2Embedding, box: Box | None, points: Sequence[Point]
    ) -> MaskResult:
        """Return the best of three masks at the image's own size, with its predicted IoU."""
        return self.segment_all(embedding, [(box, points)])[0]

    @torch.inference_mode()
    def segment_all(
        self,
        embedding: Sam2Embedding,
        prompts: Sequence[tuple[Box | None, Sequence[Point]]],
    ) -> list[MaskResult]:
        """Return the best of three masks for each prompt; see ``BatchSegmenter``.

        Prompts of the same form are decoded together: all with a box or all without, and with the
        same number of points.
        """
        found: dict[int, MaskResult] = {}
        forms: dict[tuple[bool, int], list[int]] = {}
        for index, (box, points) in enumerate(prompts):
            forms.setdefault((box is not None, len(points)), []).append(index)
        with self._own_stream():
            for indices in forms.values():
                masks = self._masks(embedding, [prompts[index] for index in indices])
                found.update(zip(indices, masks, strict=True))
        return [found[index] for index in range(len(prompts))]

    def _masks(
        self,
        embedding: Sam2Embedding,
        prompts: Sequence[tuple[Box | None, Sequence[Point]]],
    ) -> list[MaskResult]:
        boxes, points = self.prompt_tensors(embedding.size, prompts)
        with self.autocast():
            logits, scores = self.decode(boxes, points, *embedding.features)
        rows = torch.arange(len(prompts), device=logits.device)
        best = scores.argmax(dim=1)
        size = (embedding.size.height, embedding.size.width)
        masks = (upsample(logits[rows, best], size) > 0).cpu().numpy()
        kept = scores[rows, best].tolist()
        return [MaskResult(mask, score) for mask, score in zip(masks, kept, strict=True)]

    def close(self) -> None:
        """Free the model's memory."""
        if self.model is not None:
            # The class keeps its last result on the device until the next call. A small call
            # replaces that result.
            encode = self.model.vision_encoder.neck.position_encoding
            encode((1, 1, 1, 1), torch.device('cpu'), torch.float32)
        self.model = self.encode = self.decode = None
        gc.collect()
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Use a separate CUDA stream, so that the GPU can run the reasoner at the same time."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()

    def autocast(self) -> torch.autocast:
        """Return a context in which the model computes in bfloat16 on CUDA."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == 'cuda')

    def preprocess(self, image: Image) -> torch.Tensor:
        """Convert (H, W, 3) uint8 RGB to the model's input, (1, 3, side, side) float32."""
        # A copy, because torch accepts neither read-only memory (views of a message) nor negative
        # strides (BGR read as RGB). uint8 is copied to the device, which converts it to float.
        pixels = torch.from_numpy(np.array(image, order='C')).to(self.device)
        pixels = pixels.permute(2, 0, 1)[None].float().div_(255)  # in place: it may be huge
        square = functional.interpolate(
            pixels, (self.side, self.side), mode='bilinear', antialias=True
        )
        return (square - self._mean) / self._std

    def features(self, square: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the feature maps of a (1, 3, side, side) float32 image; see ``Sam2Embedding``."""
        return tuple(self.model.get_image_embeddings(square))

    def prompt_tensors(
        self, size: Size, prompts: Sequence[tuple[Box | None, Sequence[Point]]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return boxes (1, N, 4) and points (1, N, n, 2) of N prompts of one form, float32.

        The coordinates are pixels of the model's square, for an image of ``size``. A tensor is
        empty if the prompts have no box or no points.
        """
        scale = torch.tensor([self.side / size.width, self.side / size.height])
        corners = torch.tensor([[box[:2], box[2:]] if box else [] for box, _ in prompts])
        places = torch.tensor([list(points) for _, points in prompts])
        boxes, points = (
            each.view(1, len(prompts), -1 if each.numel() else 0, 2) * scale
            for each in (corners, places)
        )
        return boxes.flatten(2).to(self.device), points.to(self.device)

    def logits(
        self, boxes: torch.Tensor, points: torch.Tensor, *features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mask logits (N, 3, h, w) at the decoder's resolution and predicted IoUs (N, 3).

        ``boxes`` and ``points`` are those of ``prompt_tensors``.
        """
        found = self.model(
            image_embeddings=list(features),
            input_boxes=boxes if boxes.numel() else None,
            input_points=points if points.numel() else None,
            multimask_output=True,
        )
        return found.pred_masks[0].float(), found.iou_scores[0].float()


def upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return (N, h, w) logits at ``size`` = (H, W)."""
    return functional.interpolate(logits[None], size, mode='bilinear', align_corners=False)[0]
