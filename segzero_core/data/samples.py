# SPDX-License-Identifier: Apache-2.0
"""Evaluation samples: one sentence about one image, with its ground truth."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, overload

from segzero_core.data.records import Skipped
from segzero_core.data.rle import Rle
from segzero_core.errors import DataError, EmptyMaskError, ImageError, QueryError, quoted
from segzero_core.types import Box, Image, Size

Level: TypeAlias = Literal['instance', 'expression']
LEVELS: tuple[Level, ...] = ('instance', 'expression')


@dataclass(frozen=True)
class Sample:
    """One sentence to answer, and the ground truth to compare the answer with.

    Attributes:
        id: Unique in the dataset, and the same in every run.
        query: The sentence, checked by ``check_query``.
        image_id: Name of the image; all samples of one image share it.
        size: Size of the image; boxes and masks are in its pixels.
        load_image: Decode and return the (H, W, 3) uint8 RGB image. It raises ``ImageError`` if
            the file is damaged.
        truth: Mask of all objects that the sentence refers to. It has no pixel if the sentence
            refers to nothing in the image. ``None`` if the dataset has no masks (visual question
            answering). Masks of the released sets on the hub may differ in size from the image.
        ignore: Pixels that are not counted (ReasonSeg's label 255); ``None`` if there are none.
            They are not in ``truth``; the released evaluation counts them as truth.
        boxes: The bounding box of each object.
        answers: The accepted answers of a question that is answered in words.
        group: Part of the dataset with figures of its own: ReasonSeg's ``short`` and ``long``
            queries, ChartQA's ``human`` and ``augmented``.
        mismatch: How the size of ``truth`` differs from ``size``, and why; '' if they are equal.
    """

    id: str
    query: str
    image_id: str
    size: Size
    load_image: Callable[[], Image] = field(repr=False, compare=False)
    truth: Rle | None = None
    ignore: Rle | None = None
    boxes: tuple[Box, ...] = ()
    answers: tuple[str, ...] = ()
    group: str = ''
    mismatch: str = ''


class SampleRow(NamedTuple):
    """A sample that is created on access.

    Attributes:
        id: Id of the sample.
        image_id: Image of the sample.
        make: Create the sample. It raises a ``SegZeroError`` if the row cannot be used.
    """

    id: str
    image_id: str
    make: Callable[[], Sample]


class Samples(Sequence['Sample | Skipped']):
    """All rows of a dataset, created on access; rows of one image follow each other.

    A row that cannot be used is a ``Skipped`` with its id and the reason, at its place.

    Attributes:
        dataset: Name of the dataset, e.g. ``refcoco``.
        split: Name of the split, e.g. ``testA``.
        level: ``instance``: one sentence per annotated object; ``expression``: all sentences.
        image_ids: The image of each row, known before the row is created.
        ids: The id of each row, known before the row is created.
        files: The annotation files; image files are not among them.
        without_task: Number of references without a sentence. They ask for nothing, so they are
            not rows.
    """

    def __init__(
        self,
        dataset: str,
        split: str,
        level: Level,
        rows: Iterable[SampleRow],
        files: Sequence[Path] = (),
        without_task: int = 0,
    ) -> None:
        """Store the rows; no sample is created yet.

        Raises:
            DataError: There is no row.
        """
        self.dataset, self.split, self.level, self.files = dataset, split, level, files
        self.without_task = without_task
        by_image: dict[str, list[SampleRow]] = {}
        seen: Counter[str] = Counter()
        for row in rows:
            seen[row.id] += 1
            by_image.setdefault(row.image_id, []).append(_once(row, seen[row.id]))
        self._rows = [row for group in by_image.values() for row in group]
        self.image_ids = [row.image_id for row in self._rows]
        self.ids = [row.id for row in self._rows]
        if not self._rows:
            raise DataError(f'{dataset}:{split} has no row')

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample | Skipped: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample | Skipped]: ...
    def __getitem__(self, index: int | slice) -> Sample | Skipped | Sequence[Sample | Skipped]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[index]
        try:
            return row.make()
        except (DataError, ImageError, EmptyMaskError, QueryError) as error:
            return Skipped(row.id, str(error))

    def digest(self) -> str:
        """Return a digest of the rows' ids and of the annotation files."""
        digest = hashlib.sha256('\n'.join(self.ids).encode())
        for file in self.files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:16]

    def first(self, count: int) -> Samples:
        """Return the first ``count`` rows."""
        rows = self._rows[:count]
        return Samples(
            self.dataset, self.split, self.level, rows, self.files, without_task=self.without_task
        )

    def note(self) -> str:
        """Return one sentence about content of the dataset that is not a row; '' for none."""
        if not self.without_task:
            return ''
        count = f'{self.without_task} reference{"" if self.without_task == 1 else "s"}'
        return (
            f'{self.dataset}:{self.split} has {count} without a sentence, left out because '
            'nothing is asked'
        )


def _once(row: SampleRow, times: int) -> SampleRow:
    """Return ``row``, or a row that reports a repeated id."""
    if times == 1:
        return row

    def refuse() -> Sample:
        raise DataError(
            f'the id {quoted(row.id)} is there {times} times or more: give each row its own id'
        )

    return SampleRow(f'{row.id}#{times}', row.image_id, refuse)
