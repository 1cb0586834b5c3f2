# SPDX-License-Identifier: Apache-2.0
"""The types every part of segzero shares.

Conventions everywhere: images are RGB, uint8, (H, W, 3); masks are bool, (H, W); coordinates are
pixels with x to the right and y down, the centre of the top-left pixel at (0, 0); sizes are
(width, height); times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from segzero_core.errors import ImageError

Image: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.bool_]


class Size(NamedTuple):
    """Width and height in pixels (or in thousandths, see ``prompts.PromptFamily``)."""

    width: int
    height: int


class Point(NamedTuple):
    """A position: x to the right, y down."""

    x: float
    y: float


class Box(NamedTuple):
    """An axis-aligned box; both corners belong to it (``x1 <= x2``, ``y1 <= y2``)."""

    x1: float
    y1: float
    x2: float
    y2: float


class Intrinsics(NamedTuple):
    """A pinhole camera without distortion, in pixels: ``u = fx * x / z + cx``."""

    fx: float
    fy: float
    cx: float
    cy: float


class MaskPrompt(NamedTuple):
    """The prompt of the segmenter, in pixels of the original image; one of the two may be absent.

    Attributes:
        box: ``None`` where the checkpoint answers with points alone.
        points: On the object; empty where the checkpoint answers with a box alone.
    """

    box: Box | None
    points: tuple[Point, ...]


WARNING_KINDS = {
    'stale_frame': 'the frame is older than it should be',
    'clock_offset': "the frame's stamp is far from the node's clock",
    'frame_id_mismatch': 'image, depth and camera_info name different frames',
    'cut_at_border': "the object is cut off at the image's border",
    'little_depth': 'little of the object has depth',
    'coordinates_repaired': 'coordinates of the answer had to be repaired',
    'token_limit': 'the reply was cut off by the token limit',
    'synthetic_only': 'the engine knows synthetic scenes only',
    'duplicate_node': 'another node has the same name',
    'prompt_example': "the answer equals the prompt's own example",
}


class ResultWarning(NamedTuple):
    """Something a user should know about a result that is not an error.

    Attributes:
        kind: One of ``WARNING_KINDS``; stable, for programs.
        message: One sentence for people.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class Segmentation:
    """The answer to one sentence about one image.

    Attributes:
        mask: (H, W) bool, at the resolution of the image that was asked about.
        score: The segmenter's own estimate of the mask's quality, 0 to 1.
        box: Box the reasoner named, in pixels of the original image; ``None`` where the
            checkpoint answers with points alone.
        points: The two points the reasoner named, in pixels of the original image; empty where
            the checkpoint answers with a box alone.
        reasoning: The chain of thought, without its tags.
        text: Everything the reasoner wrote, unchanged.
        repairs: Names of the repairs that the answer needed; empty for a clean one.
        warnings: Warnings about a result that is not an error.
        timings: Seconds per stage: ``reason``, ``embed``, ``decode``, ``total``. ``reason`` and
            ``embed`` run side by side, so they do not add up to ``total``.
    """

    mask: Mask
    score: float
    box: Box | None
    points: tuple[Point, ...]
    reasoning: str
    text: str
    repairs: tuple[str, ...] = ()
    warnings: tuple[ResultWarning, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)


def image_size(image: Image) -> Size:
    """Return the (width, height) of an (H, W, 3) image or an (H, W) mask."""
    return Size(int(image.shape[1]), int(image.shape[0]))


def check_image(image: Image) -> Image:
    """Return ``image`` if it is a usable RGB image.

    Raises:
        ImageError: It is not a non-empty (H, W, 3) uint8 array.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
        shape = getattr(image, 'shape', type(image).__name__)
        raise ImageError(f'expected an RGB image of shape (H, W, 3), got {shape}')
    if image.dtype != np.uint8:
        raise ImageError(f'expected an RGB image of dtype uint8, got {image.dtype}')
    if 0 in image.shape:
        raise ImageError(f'the image is empty: shape {image.shape}')
    return image
