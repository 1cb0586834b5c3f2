# SPDX-License-Identifier: Apache-2.0
"""Batches for teaching a SAM 2: views of synthetic scenes with imprecise prompts on them."""

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
    """P prompts on each of B images, S pixels square, and what they mean.

    Attributes:
        images: (B, 3, S, S) float32, normalised.
        boxes: (B, P, 4) float32, in pixels of the square.
        points: (B, P, 2, 2) float32.
        masks: (B, P, S, S) bool.
    """

    images: torch.Tensor
    boxes: torch.Tensor
    points: torch.Tensor
    masks: torch.Tensor


class SceneCrop(NamedTuple):
    """What one image of a batch shows.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        instances: (S, S) uint8, 0 is the table.
        items: By their number in ``instances``; at least one.
    """

    image: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]
    items: dict[int, Item]


def draw(scenes: Scenes, settings: SegmenterSettings, rng: np.random.Generator) -> MaskBatch:
    """Draw scenes, some mirrored, enlarged or in other colours, and imprecise prompts on them."""
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
        # Any order of red, green and blue: what a thing is does not matter, only where it ends.
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
    """Return a square part of the view, ``zoom`` times as large, with a whole item in it.

    Items that are not wholly in it are left out, though they may be seen.
    """
    side = len(view.image)
    part = round(side / zoom)
    kept = view.items[rng.choice(list(view.items))].box
    # Where the part may begin in x and y so that the item is in it.
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
    """Return the item's box (4,) and points (2, 2) as a reasoner might give them."""
    extent = np.tile([item.box.x2 - item.box.x1, item.box.y2 - item.box.y1], 2)
    # Uniform up to the square root of three: ``jitter`` is the standard deviation over all.
    off = jitter * math.sqrt(3) * rng.random() * extent
    box = item.box + off * rng.standard_normal(4)
    # Points are off by less, for they are far from any edge.
    return box, item.points + off.reshape(2, 2) / 2 * rng.standard_normal((2, 2))
