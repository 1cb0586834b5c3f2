# SPDX-License-Identifier: Apache-2.0
"""Small synthetic scenes, rendered once and cached on disk."""

from __future__ import annotations

import json
import os
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from segzero_core.geometry import (
    largest_inscribed_circles,
    mask_to_box,
    rescale_box,
    rescale_point,
)
from segzero_core.runtime.atomic import atomic_file
from segzero_core.synthetic import VERSION, Query, Scene, make_scene
from segzero_core.types import Box, Point, Size, image_size

COUNT = (2, 5)  # objects per scene
RENDERED = Size(256, 192)
_CHUNK = 250


class Item(NamedTuple):
    """One object of a scene; coordinates are pixels of the square that the model sees.

    Attributes:
        colour: Name of its colour.
        shape: Name of its shape.
        size: ``small``, ``medium`` or ``large``.
        box: Box around its visible pixels.
        points: Centres of its two largest inscribed circles.
    """

    colour: str
    shape: str
    size: str
    box: Box
    points: tuple[Point, Point]


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes, resized to the square that the model sees.

    Attributes:
        images: (N, S, S, 3) uint8 RGB.
        instances: (N, S, S) uint8; 0 is the table, ``i + 1`` is item ``i``.
        items: The items of each scene.
        queries: The sentences about each scene; ``target`` is an index of its items.
    """

    images: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]
    items: list[list[Item]]
    queries: list[list[Query]]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Side of the square, pixels."""
        return int(self.images.shape[1])


def load_scenes(
    cache: Path, first: int, count: int, side: int, rendered: Size = RENDERED
) -> Scenes:
    """Return the scenes of seeds ``first`` to ``first + count - 1``; missing ones are rendered.

    Args:
        cache: Folder of the cache; created if it does not exist.
        first: First seed.
        count: Number of scenes, at least 1.
        side: Side of the square they are resized to, pixels.
        rendered: Size at which they are rendered, pixels.
    """
    cache.mkdir(parents=True, exist_ok=True)
    jobs = []
    for start in range(first, first + count, _CHUNK):
        seeds = range(start, min(start + _CHUNK, first + count))
        jobs.append((seeds, side, rendered, cache / _name(seeds, side, rendered)))
    missing = [job for job in jobs if not job[-1].is_file()]
    if missing:
        # New interpreters, because a fork after torch has started threads can hang.
        processes = min(len(missing), os.cpu_count() or 1)
        with ProcessPoolExecutor(processes, mp_context=get_context('spawn')) as workers:
            deque(workers.map(_render_chunk, missing), maxlen=0)
    chunks = [np.load(job[-1]) for job in jobs]
    records = [record for chunk in chunks for record in json.loads(str(chunk['records']))]
    return Scenes(
        images=np.concatenate([chunk['images'] for chunk in chunks]),
        instances=np.concatenate([chunk['instances'] for chunk in chunks]),
        items=[[_item(*fields) for fields in record['items']] for record in records],
        queries=[[Query(*query) for query in record['queries']] for record in records],
    )


def _name(seeds: range, side: int, rendered: Size) -> str:
    """Return the file name of a chunk, which has everything that its content depends on."""
    return f'v{VERSION}-{side}px-of-{rendered.width}-{seeds.start:07}-{len(seeds)}.npz'


def _render_chunk(job: tuple[range, int, Size, Path]) -> None:
    seeds, side, rendered, file = job
    square = Size(side, side)
    images, instances, records = [], [], []
    for seed in seeds:
        scene = make_scene(seed, rendered, COUNT)
        # Pillow's bilinear filter, as at inference.
        picture = PilImage.fromarray(scene.image)
        images.append(np.asarray(picture.resize(square, PilImage.Resampling.BILINEAR)))
        ids = PilImage.fromarray(scene.instances)
        instances.append(np.asarray(ids.resize(square, PilImage.Resampling.NEAREST)))
        items = [_describe(scene, i, square) for i in range(len(scene.objects))]
        records.append({'items': items, 'queries': scene.queries()})
    with atomic_file(file, shared=True) as draft, draft.open('wb') as out:
        np.savez(
            out,
            images=np.stack(images),
            instances=np.stack(instances),
            records=np.array(json.dumps(records)),
        )


def _describe(scene: Scene, i: int, square: Size) -> Item:
    item, mask = scene.objects[i], scene.mask(i)
    rendered = image_size(scene.image)
    first, second = largest_inscribed_circles(mask)
    return Item(
        item.colour,
        item.shape,
        item.size,
        rescale_box(mask_to_box(mask), rendered, square),
        (
            rescale_point(first.center, rendered, square),
            rescale_point(second.center, rendered, square),
        ),
    )


def _item(colour: str, shape: str, size: str, box: list[float], points: list[Any]) -> Item:
    return Item(colour, shape, size, Box(*box), (Point(*points[0]), Point(*points[1])))
