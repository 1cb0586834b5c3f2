# SPDX-License-Identifier: Apache-2.0
"""Samples with their images, read ahead in a second thread, no more than a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from segzero_core.data.records import Skipped
from segzero_core.data.samples import Sample, Samples
from segzero_core.errors import ImageError
from segzero_core.types import Image

_MOST_PIXELS = 64 * 2**20  # of a batch's images: 192 MiB


@dataclass(frozen=True)
class Loaded:
    """A row of the dataset, ready to be answered.

    Attributes:
        row: Its place in the dataset.
        id: Its id.
        image_id: Of its image.
        sample: What it holds; None if that cannot be used.
        image: (H, W, 3) uint8 RGB; the rows of one image share it.
        error: Why it cannot be used.
    """

    row: int
    id: str
    image_id: str
    sample: Sample | None = None
    image: Image | None = None
    error: str = ''


def load_batches(samples: Samples, rows: Sequence[int], size: int) -> Iterator[list[Loaded]]:
    """Yield the rows in batches, each while the next one is read.

    Args:
        samples: The dataset.
        rows: Which of it; those of one image follow each other.
        size: Rows at once; fewer where their images are huge.
    """
    batches = _batches(samples, rows, size)
    with ThreadPoolExecutor(1, thread_name_prefix='segzero-load') as reader:
        waiting = reader.submit(next, batches, None)
        while batch := waiting.result():
            waiting = reader.submit(next, batches, None)
            yield batch


def _batches(samples: Samples, rows: Sequence[int], size: int) -> Iterator[list[Loaded]]:
    batch: list[Loaded] = []
    before: Loaded | None = None
    pixels = 0
    for row in rows:
        loaded = _load(samples, row, before)
        if loaded.image is not None and (before is None or loaded.image is not before.image):
            pixels += loaded.image.shape[0] * loaded.image.shape[1]
        batch.append(loaded)
        before = loaded
        if len(batch) == size or pixels > _MOST_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _load(samples: Samples, row: int, before: Loaded | None) -> Loaded:
    """Read one row; its image is the one before's where that is the same."""
    name, image_id = samples.ids[row], samples.image_ids[row]
    sample = samples[row]
    if isinstance(sample, Skipped):
        return Loaded(row, name, image_id, error=sample.reason)
    if before is not None and before.image_id == image_id and before.image is not None:
        return Loaded(row, name, image_id, sample, before.image)
    try:
        return Loaded(row, name, image_id, sample, sample.load_image())
    except ImageError as error:
        return Loaded(row, name, image_id, sample, error=str(error))
