# SPDX-License-Identifier: Apache-2.0
"""Batches of the tiny SAM 2: crops of synthetic scenes with imprecise prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PilImage

from segzero_core.types import Box, Point
from training.tiny_recipe.batches import mirror_item
from training.tiny_recipe.scene_cache import Item, Scenes

if TYPE_CHECKING:
    from training.tiny_recipe.segmenter_loop import SegmenterSettings

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class MaskBatch:
    """P prompts on each of B square images of side S, and their masks.

    Attributes:
        images: (B, 3, S, S) float32, normalised.
        boxes: (B, P, 4) float32, pixels of the square.
        points: (B, P, 2, 2) float32, pixels of the square.
        masks: (B, P, S, S) bool.
    """

    images: torch.Tensor
    boxes: torch.Tensor
    points: torch.Tensor
    masks: torch.Tensor


class SceneCrop(NamedTuple):
    """The scene in one image of a batch.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        instances: (S, S) uint8 number of the item at each pixel; 0 is the table.
        items: The items by their number in ``instances``; at least one.
    """

    image: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]
    items: dict[int, Item]


def draw(scenes: Scenes, settings: SegmenterSettings, rng: np.random.Generator) -> MaskBatch:
    """Draw scenes (some mirrored, enlarged or with other colours) with imprecise prompts."""
    images, boxes, points, masks = [], [], [], []
    for index in rng.integers(len(scenes), size=settings.batch):
        view = SceneCrop(
            scenes.images[index],
            scenes.instances[index],
            dict(enumerate(scenes.items[index], start=1)),
        )
        if rng.random() < 0.5:
            view = mirrored(view)
        if rng.random() < 0.5:
            view = enlarged(view, 1 + (settings.zoom - 1) * rng.random(), rng)
        # Any order of the colour channels, because only the outline of an object matters.
        channels = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
        images.append(view.image[..., channels])
        for chosen in rng.choice(list(view.items), size=settings.prompts):
            box, clicks = _imprecise(view.items[chosen], settings.jitter, rng)
            boxes.append(box)
            points.append(clicks)
            masks.append(view.instances == chosen)
    shape = (settings.batch, settings.prompts)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    gain = torch.from_numpy(0.85 + 0.3 * rng.random((settings.batch, 3, 1, 1))).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    return MaskBatch(
        (pixels * gain - mean) / std,
        torch.from_numpy(np.stack(boxes)).float().view(*shape, 4),
        torch.from_numpy(np.stack(points)).float().view(*shape, 2, 2),
        torch.from_numpy(np.stack(masks)).view(*shape, scenes.side, scenes.side),
    )


def mirrored(view: SceneCrop) -> SceneCrop:
    """Return the view mirrored left to right."""
    items = {i: mirror_item(item, len(view.image)) for i, item in view.items.items()}
    return SceneCrop(view.image[:, ::-1], view.instances[:, ::-1], items)


def enlarged(view: SceneCrop, zoom: float, rng: np.random.Generator) -> SceneCrop:
    """Return a square crop of the view, enlarged ``zoom`` times, with at least one whole item.

    Items that are only partly in the crop are visible but not listed.
    """
    side = len(view.image)
    part = round(side / zoom)
    kept = view.items[rng.choice(list(view.items))].box
    # Range of the crop's left and top such that the item is inside.
    low = np.maximum(np.ceil([kept.x2, kept.y2]).astype(int) - part, 0)
    high = np.minimum(np.floor([kept.x1, kept.y1]).astype(int), side - part)
    if (low > high).any():  # the item is larger
        return view
    left, top = rng.integers(low, high, endpoint=True)
    scale = side / part

    def moved(x: float, y: float) -> Point:
        return Point((x - left) * scale, (y - top) * scale)

    items = {}
    for i, item in view.items.items():
        box = Box(*moved(*item.box[:2]), *moved(*item.box[2:]))
        if min(box) >= 0 and max(box) <= side:
            first, second = (moved(*point) for point in item.points)
            items[i] = item._replace(box=box, points=(first, second))
    cut = np.s_[top : top + part, left : left + part]
    whole = (side, side)
    image = PilImage.fromarray(view.image[cut]).resize(whole, PilImage.Resampling.BILINEAR)
    ids = PilImage.fromarray(view.instances[cut]).resize(whole, PilImage.Resampling.NEAREST)
    return SceneCrop(np.asarray(image), np.asarray(ids), items)


def _imprecise(
    item: Item, jitter: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return box (4,) and points (2, 2) of the item with the errors of a reasoner, pixels."""
    extent = np.tile([item.box.x2 - item.box.x1, item.box.y2 - item.box.y1], 2)
    # The factor is uniform up to sqrt(3), so ``jitter`` is the standard deviation over all.
    off = jitter * math.sqrt(3) * rng.random() * extent
    box = item.box + off * rng.standard_normal(4)
    # Points are off by less, because they are far from the edges.
    return box, item.points + off.reshape(2, 2) / 2 * rng.standard_normal((2, 2))
