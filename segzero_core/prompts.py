# SPDX-License-Identifier: Apache-2.0
"""Question -> conversation, one named family per kind of checkpoint.

A family holds what belongs together and must not be mixed: the wording, the image size and the
space the coordinates are written in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from segzero_core.types import Size

MAX_QUERY_CHARACTERS = 1000


@dataclass(frozen=True)
class PromptFamily:
    """How one kind of checkpoint is asked, and how its answers are to be read.

    Attributes:
        name: The name users write.
        template: The user turn, ``{question}`` standing for the sentence.
        image_size: Side of the square the image is stretched to, in pixels; ``None`` leaves
            the image as it is.
        space: Answers are in pixels of the image the model saw, or in thousandths of its sides.
    """

    name: str
    template: str
    image_size: int | None = 840
    space: Literal['pixels', 'thousandths'] = 'pixels'

    def input_size(self, image: Size) -> Size:
        """Return the size the model sees an image of size ``image`` at."""
        return image if self.image_size is None else Size(self.image_size, self.image_size)

    def answer_size(self, image: Size) -> Size:
        """Return the size of the space answers about an image of size ``image`` are in."""
        return Size(1000, 1000) if self.space == 'thousandths' else self.input_size(image)
