# SPDX-License-Identifier: Apache-2.0
"""Batches of samples with their images; a second thread reads the next batch ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from segzero_core.data.records import Skipped
from segzero_core.data.samples import Sample, Samples
from segzero_core.errors import ImageError
from segzero_core.types import Image

MAX_PIXELS = 64 * 2**20  # of the images of a batch: 192 MiB


@dataclass(frozen=True)
class LoadedSample:
    """A row of the dataset with its image.

    Attributes:
        row: Index in the dataset.
        id: Its id.
        image_id: Id of its image.
        sample: Sentence and truth; None if they cannot be used.
        image: (H, W, 3) uint8 RGB, shared by the rows of one image; None if it cannot be used.
        error: The reason why the row cannot be used.
    """

    row: int
    id: str
    image_id: str
    sample: Sample | None = None
    image: Image | None = None
    error: str = ''


def load_batches(samples: Samples, rows: Sequence[int], size: int) -> Iterator[list[LoadedSample]]:
    """Yield the rows in batches; the next batch is read meanwhile.

    Args:
        samples: The dataset.
        rows: Indices of the rows; those of one image are neighbours.
        size: Rows per batch; fewer if the images are huge.
    """
    batches = _batches(samples, rows, size)
    with ThreadPoolExecutor(1, thread_name_prefix='segzero-load') as reader:
        waiting = reader.submit(next, batches, None)
        while batch := waiting.result():
            waiting = reader.submit(next, batches, None)
            yield batch


def _batches(samples: Samples, rows: Sequence[int], size: int) -> Iterator[list[LoadedSample]]:
    batch: list[LoadedSample] = []
    before: LoadedSample | None = None
    pixels = 0
    for row in rows:
        loaded = _load(samples, row, before)
        if loaded.image is not None and (before is None or loaded.image is not before.image):
            pixels += loaded.image.shape[0] * loaded.image.shape[1]
        batch.append(loaded)
        before = loaded
        if len(batch) == size or pixels > MAX_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _load(samples: Samples, row: int, before: LoadedSample | None) -> LoadedSample:
    """Read one row; it shares the image of the row before if that is the same one."""
    name, image_id = samples.ids[row], samples.image_ids[row]
    sample = samples[row]
    if isinstance(sample, Skipped):
        return LoadedSample(row, name, image_id, error=sample.reason)
    if before is not None and before.image_id == image_id and before.image is not None:
        return LoadedSample(row, name, image_id, sample, before.image)
    try:
        return LoadedSample(row, name, image_id, sample, sample.load_image())
    except ImageError as error:
        return LoadedSample(row, name, image_id, sample, error=str(error))
