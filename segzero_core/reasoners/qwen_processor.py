# SPDX-License-Identifier: Apache-2.0
"""Qwen-VL's processor for still images, which works with and without torchvision."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image as PilImage

from segzero_core.reasoners.qwen_checks import check_files, check_processor
from segzero_core.runtime.checkpoints import transformers
from segzero_core.runtime.text_files import without_marks

_published = transformers.models.qwen2_vl.image_processing_pil_qwen2_vl


class Qwen2VLImageProcessorPil(transformers.Qwen2VLImageProcessorPil):
    """The published image processor, with the same output bit for bit, 2 to 4 times as fast.

    It has the name of its parent because a checkpoint names the class of its image processor.
    """

    def _preprocess(self, images: list[np.ndarray], **options: Any) -> Any:
        """Return the patches of (3, H, W) images; the parent takes all but uint8 RGB."""
        if any(image.dtype != np.uint8 or len(image) != 3 for image in images):
            return super()._preprocess(images, **options)
        side, merged, frames = (
            options[f'{name}_size'] for name in ('patch', 'merge', 'temporal_patch')
        )
        if options['do_resize']:
            size, resample = options['size'], options['resample']
            images = [self._resized(image, size, resample, side * merged) for image in images]
        grids = np.array([(1, *(edge // side for edge in image.shape[1:])) for image in images])
        ends = np.cumsum(grids.prod(axis=1))
        patches = np.empty((ends[-1], 3, frames, side * side), dtype=np.float32)
        table = self._table(**options)
        for image, part in zip(images, np.split(patches, ends[:-1]), strict=True):
            values = _cut(image, side, merged)
            for channel in range(3):
                cv2.LUT(values[:, channel], table[channel], part[:, channel, 0])
        patches[:, :, 1:] = patches[:, :, :1]  # a still image is the same frame twice
        data = {'pixel_values': patches.reshape(len(patches), -1), 'image_grid_thw': grids}
        return transformers.BatchFeature(data, tensor_type=options['return_tensors'])

    def _resized(self, image: np.ndarray, size: Any, resample: Any, factor: int) -> np.ndarray:
        if size.shortest_edge and size.longest_edge:
            wanted = _published.smart_resize(
                *image.shape[1:], factor, size.shortest_edge, size.longest_edge
            )
            if wanted == image.shape[1:]:  # the parent would copy it several times
                return image
        return self.resize(image, size, resample, factor)

    def _table(
        self,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float],
        image_std: float | list[float],
        **_: Any,
    ) -> np.ndarray:
        """Return (3, 256, 1) float32: the parent's output for each uint8 value of R, G and B."""
        values = np.tile(np.arange(256, dtype=np.float32)[:, None], (3, 1, 1))
        if do_rescale:
            values = self.rescale(values, rescale_factor)
        return self.normalize(values, image_mean, image_std) if do_normalize else values


def _cut(image: np.ndarray, side: int, merged: int) -> np.ndarray:
    """Return the patches (n, 3, side * side) of (3, H, W) uint8; patches to be merged follow."""
    _, height, width = image.shape
    high, wide = height // side // merged, width // side // merged
    blocks = image.reshape(3, high, merged, side, wide, merged, side)
    return blocks.transpose(1, 4, 2, 5, 0, 3, 6).reshape(-1, 3, side * side)


class QwenProcessor(transformers.Qwen2_5_VLProcessor):
    """Chat template, tokenizer and image processor of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

    This class replaces the published processors of all three models for still images. The
    published processors need a video processor, which needs torchvision. A call,
    ``apply_chat_template`` and ``batch_decode`` return the same results, so a trainer can use the
    class, too. Images always use the PIL backend, so that the model's input is the same on every
    machine.
    """

    def __init__(
        self, image_processor: Any, tokenizer: Any, chat_template: str | None = None
    ) -> None:
        self.image_token, self.video_token = '<|image_pad|>', '<|video_pad|>'
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # Not super().__init__, which is the one that asks for a video processor.
        transformers.ProcessorMixin.__init__(
            self, image_processor, tokenizer, chat_template=chat_template
        )

    def encode_still(self, prompt: str, picture: PilImage.Image) -> Any:
        """Return the model's inputs for a prompt with one image token and a still image.

        Different from a call of the processor, ``pixel_values`` holds each patch once: it is
        (patches, 3 * side * side) float32, not (patches, 3 * frames * side * side).
        """
        inputs = self.image_processor(picture, temporal_patch_size=1, return_tensors='pt')
        count = len(inputs['pixel_values']) // self.image_processor.merge_size**2
        ids = torch.tensor([tokens_with_image(self.tokenizer, prompt, count, self.image_token_id)])
        inputs.update(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == self.image_token_id).long(),
        )
        return inputs

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str], **options: Any) -> QwenProcessor:
        """Load the processor of the checkpoint in ``folder``.

        Args:
            folder: A checkpoint folder.
            **options: For the tokenizer, for instance ``padding_side``.

        Raises:
            ModelLoadError: A piece is missing or does not belong to the model; see
                ``check_processor``.
            OSError: A file cannot be read.
            ValueError: A file does not hold what it should.
        """
        check_files(Path(folder))
        with without_marks(Path(folder)) as plain:
            images = Qwen2VLImageProcessorPil.from_pretrained(plain)
            tokenizer = transformers.AutoTokenizer.from_pretrained(plain, **options)
            settings, _ = cls.get_processor_dict(plain)
        template = settings.get('chat_template') or tokenizer.chat_template
        if isinstance(template, dict):  # several, by name
            template = template.get('default')
        processor = cls(images, tokenizer, chat_template=template)
        check_processor(Path(folder), processor)
        return processor

    def save_pretrained(self, folder: str | PathLike[str], **options: Any) -> None:
        """Write the files of a published checkpoint, which name no class of this project."""
        self.tokenizer.chat_template = self.chat_template
        self.tokenizer.save_pretrained(folder, **options)
        self.image_processor.save_pretrained(folder, **options)


def tokens_with_image(tokenizer: Any, prompt: str, count: int, image_token: int) -> list[int]:
    """Return the token ids of a prompt, with each image token repeated ``count`` times.

    Repeating ids is much faster than tokenizing a prompt with hundreds of image tokens.
    """
    tokens = []
    for token in tokenizer(prompt).input_ids:
        tokens += [token] * (count if token == image_token else 1)
    return tokens
