# SPDX-License-Identifier: Apache-2.0
"""Many small synthetic scenes, rendered once and kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from segzero_core.geometry import (
    largest_inscribed_circles,
    mask_to_box,
    rescale_box,
    rescale_point,
)
from segzero_core.synthetic import Query, make_scene
from segzero_core.types import Box, Point, Size

COUNT = (2, 5)  # objects per scene
RENDERED = Size(256, 192)
_CHUNK = 250


class Item(NamedTuple):
    """One object, in pixels of the square the model sees.

    Attributes:
        colour: Its name.
        shape: Its name.
        size: small, medium or large.
        box: Around its visible pixels.
        points: Centres of its two largest inscribed circles.
    """

    colour: str
    shape: str
    size: str
    box: Box
    points: tuple[Point, Point]


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes, stretched to the model's square.

    Attributes:
        images: (N, S, S, 3) uint8 RGB.
        instances: (N, S, S) uint8; 0 is the table, ``i + 1`` is item ``i``.
        items: Per scene.
        queries: Per scene; ``target`` counts items.
    """

    images: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]
    items: Sequence[Sequence[Item]]
    queries: Sequence[Sequence[Query]]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Of the square, in pixels."""
        return int(self.images.shape[1])


def load_scenes(cache: Path, first: int, count: int, side: int) -> Scenes:
    """Return the scenes of seeds ``first`` to ``first + count - 1``, rendering what is missing.

    Args:
        cache: Folder for rendered chunks; made if it is not there.
        first: First seed; a multiple of 250.
        count: How many; a multiple of 250.
        side: Of the square they are stretched to, in pixels.
    """
    if first % _CHUNK or count % _CHUNK or count < 1:
        raise ValueError(f'first ({first}) and count ({count}) must be multiples of {_CHUNK}')
    cache.mkdir(parents=True, exist_ok=True)
    files = {
        start: cache / f'{side}px-{start:07}.npz' for start in range(first, first + count, _CHUNK)
    }
    missing = [(start, side, file) for start, file in files.items() if not file.is_file()]
    if missing:
        # Fresh interpreters: forking after torch has started its threads can hang.
        workers = ProcessPoolExecutor(os.cpu_count(), mp_context=get_context('spawn'))
        with workers:
            for _ in workers.map(_render_chunk, missing):
                pass
    chunks = [np.load(file) for file in files.values()]
    return Scenes(
        images=np.concatenate([chunk['images'] for chunk in chunks]),
        instances=np.concatenate([chunk['instances'] for chunk in chunks]),
        items=[items for chunk in chunks for items in _items(chunk)],
        queries=[queries for chunk in chunks for queries in _queries(chunk)],
    )


def _render_chunk(job: tuple[int, int, Path]) -> None:
    start, side, file = job
    square = Size(side, side)
    images, instances, records = [], [], []
    for seed in range(start, start + _CHUNK):
        scene = make_scene(seed, RENDERED, COUNT)
        # Pillow's bilinear filter, as at inference.
        picture = PilImage.fromarray(scene.image)
        images.append(np.asarray(picture.resize(square, PilImage.Resampling.BILINEAR)))
        ids = PilImage.fromarray(scene.instances)
        instances.append(np.asarray(ids.resize(square, PilImage.Resampling.NEAREST)))
        items = []
        for i, item in enumerate(scene.objects):
            mask = scene.mask(i)
            box = rescale_box(mask_to_box(mask), RENDERED, square)
            circles = largest_inscribed_circles(mask)
            points = [rescale_point(circle.center, RENDERED, square) for circle in circles]
            items.append((item.colour, item.shape, item.size, box, points))
        records.append({'items': items, 'queries': scene.queries()})
    part = file.with_suffix(f'.{os.getpid()}.tmp')
    with part.open('wb') as out:
        np.savez(
            out,
            images=np.stack(images),
            instances=np.stack(instances),
            records=np.array(json.dumps(records)),
        )
    part.replace(file)  # a killed run leaves no half a chunk


def _items(chunk: np.lib.npyio.NpzFile) -> Iterator[list[Item]]:
    for record in json.loads(str(chunk['records'])):
        yield [
            Item(colour, shape, size, Box(*box), (Point(*points[0]), Point(*points[1])))
            for colour, shape, size, box, points in record['items']
        ]


def _queries(chunk: np.lib.npyio.NpzFile) -> Iterator[list[Query]]:
    for record in json.loads(str(chunk['records'])):
        yield [Query(*query) for query in record['queries']]
