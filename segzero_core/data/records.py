# SPDX-License-Identifier: Apache-2.0
"""The record type of every training dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from segzero_core.types import Box, Image, Mask, Point, Size


class Annotation(NamedTuple):
    """One object that a sentence refers to, in pixels of the record's image.

    Attributes:
        box: The inclusive bounding box.
        points: The centres of the object's largest inscribed circles: two of them, or one in
            multi-object data.
    """

    box: Box
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Record:
    """One sentence about one image, and the objects that it refers to.

    Attributes:
        id: Name of the row in messages.
        query: The sentence.
        size: Size of the image; all coordinates are in its pixels.
        targets: The objects, at least one.
        load_image: Decode and return the (H, W, 3) uint8 RGB image, of that size.
        load_mask: Decode and return the (H, W) bool mask of all objects; ``None`` if the dataset
            has no masks.
        reasoning: A chain of thought to imitate; '' if the dataset has none.
        image: Name of the image that several rows may share; '' if the dataset has no names.
    """

    id: str
    query: str
    size: Size
    targets: tuple[Annotation, ...]
    load_image: Callable[[], Image] = field(repr=False, compare=False)
    load_mask: Callable[[], Mask] | None = field(default=None, repr=False, compare=False)
    reasoning: str = ''
    image: str = ''


class Skipped(NamedTuple):
    """A row that cannot be used: its id and the reason, one line of text."""

    id: str
    reason: str


class Dataset(NamedTuple):
    """The rows of a training dataset.

    Attributes:
        records: The usable rows; the sequence may create a record on access.
        skipped: The other rows, each with its reason.
    """

    records: Sequence[Record]
    skipped: list[Skipped]
