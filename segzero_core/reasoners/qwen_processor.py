# SPDX-License-Identifier: Apache-2.0
"""Qwen-VL's processor for still images, which works with torchvision and without."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from segzero_core.checkpoints import transformers


class QwenProcessor(transformers.Qwen2_5_VLProcessor):
    """Chat template, tokenizer and image processor of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

    Stands in for the published processors of all three wherever there are no videos: those insist
    on a video processor, and that on torchvision. Calling it, ``apply_chat_template`` and
    ``batch_decode`` give what the published ones give, so a trainer can use it too. Images always
    go through the PIL backend: a model sees the same numbers on every machine.
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

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str], **options: Any) -> QwenProcessor:
        """Load the processor of the checkpoint in ``folder``.

        Args:
            folder: A checkpoint folder.
            **options: For the tokenizer, for instance ``padding_side``.

        Raises:
            OSError: A file is missing.
            ValueError: A file does not hold what it should.
        """
        # Without a vocabulary, transformers makes an empty tokenizer and says nothing.
        if not any(Path(folder, name).is_file() for name in ('tokenizer.json', 'vocab.json')):
            raise FileNotFoundError(f'{folder} has no tokenizer.json')
        images = transformers.AutoImageProcessor.from_pretrained(folder, backend='pil')
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        settings, _ = cls.get_processor_dict(folder)
        template = settings.get('chat_template') or tokenizer.chat_template
        return cls(images, tokenizer, chat_template=template)

    def save_pretrained(self, folder: str | PathLike[str], **options: Any) -> None:
        """Write the files every Qwen-VL checkpoint has, which name no class of this project."""
        self.tokenizer.chat_template = self.chat_template
        self.tokenizer.save_pretrained(folder, **options)
        self.image_processor.save_pretrained(folder, **options)
