# SPDX-License-Identifier: Apache-2.0
"""The one record type all datasets are read into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from segzero_core.types import Box, Image, Mask, Point, Size


class Annotation(NamedTuple):
    """One object a sentence means, in pixels of the record's image.

    Attributes:
        box: Inclusive box around it.
        points: Centres of its largest inscribed circles: two, or one in multi-object data.
    """

    box: Box
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Record:
    """One sentence about one image, and what it means.

    Attributes:
        id: Names the row in messages.
        query: The sentence.
        size: Of the image; coordinates are in its pixels.
        targets: The objects meant, at least one.
        load_image: Returns the (H, W, 3) uint8 RGB image of that size; decoded on every call.
        load_mask: Returns the (H, W) bool mask of everything meant, where the dataset has it.
        reasoning: A chain of thought to learn from; '' where the dataset has none.
        image: Names the image, where several rows may be about one; '' where none are.
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
    """A row that cannot be used."""

    id: str
    reason: str


class Dataset(NamedTuple):
    """What was read.

    Attributes:
        records: The usable rows; may make a record only when it is asked for.
        skipped: The others, each with its reason.
    """

    records: Sequence[Record]
    skipped: list[Skipped]
