# SPDX-License-Identifier: Apache-2.0
"""The role of a segmenter: it turns a box and points into a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from segzero_core.types import Box, Image, Mask, Point


class MaskResult(NamedTuple):
    """A mask at the image's own size and the segmenter's estimate of its quality.

    Attributes:
        mask: (H, W) bool.
        score: 0 to 1.
    """

    mask: Mask
    score: float


class Segmenter(Protocol):
    """Promptable segmentation in two steps; the first one can run while the reasoner generates.

    An engine whose first step takes almost no time sets the attribute ``embeds_at_once``. The
    pipeline then calls ``embed`` in its own thread and does not keep the embedding. An engine that
    knows only synthetic scenes sets ``synthetic_only = True``; its results carry a warning of
    that kind.
    """

    def embed(self, image: Image) -> Any:
        """Compute everything that depends on the image alone.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            The engine's own embedding, for ``segment``. It stays valid when another image is
            embedded, and when the embedding of another image fails.
        """
        ...

    def segment(self, embedding: Any, box: Box | None, points: Sequence[Point]) -> MaskResult:
        """Segment the object that ``box`` and the positive ``points`` mark; one may be missing.

        Args:
            embedding: Returned by ``embed``; it can be used any number of times.
            box: In pixels of the embedded image; ``None`` if only points are known.
            points: On the object, in pixels of the embedded image; may be empty with a box.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. The segmenter cannot be used afterwards."""
        ...


@runtime_checkable
class BatchSegmenter(Segmenter, Protocol):
    """A segmenter that makes several masks of one image faster than one by one."""

    def segment_all(
        self, embedding: Any, prompts: Sequence[tuple[Box | None, Sequence[Point]]]
    ) -> list[MaskResult]:
        """Segment the object of each prompt.

        Args:
            embedding: Returned by ``embed``.
            prompts: Box and points each, as for ``segment``.

        Returns:
            For each prompt the result that ``segment`` would have returned.
        """
        ...
