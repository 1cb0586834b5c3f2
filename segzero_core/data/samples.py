# SPDX-License-Identifier: Apache-2.0
"""What is measured with: one sentence about one image and its exact truth."""

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
    """One sentence to be answered, and the truth to measure the answer with.

    Attributes:
        id: Unique in its dataset, the same in every run.
        query: The sentence, checked.
        image_id: The same for all samples of one image.
        size: Of the image; boxes and masks are in its pixels.
        load_image: Returns the (H, W, 3) uint8 RGB image; decoded on every call. It raises
            ``ImageError`` if the file turns out to be damaged.
        truth: The mask of everything meant: without a pixel where nothing in the image is
            meant; None where the dataset has no masks (visual question answering). Masks of the
            released sets on the hub may be of another size than their image.
        ignore: Pixels that count for nothing (ReasonSeg's label 255); None if there are none.
            They may not be in ``truth``; the released evaluation counts them as truth.
        boxes: Around each object meant.
        answers: The right answers of a question that is answered in words.
        group: A part of the dataset that figures are also given for: ReasonSeg's ``short`` and
            ``long`` queries, ChartQA's ``human`` and ``augmented``.
        mismatch: How the size of ``truth`` differs from ``size``, and why; '' where it is equal.
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
    """A sample that is not made yet.

    Attributes:
        id: The sample's.
        image_id: The sample's.
        make: Returns it; raises one of this project's errors if it cannot be used.
    """

    id: str
    image_id: str
    make: Callable[[], Sample]


class Samples(Sequence['Sample | Skipped']):
    """All rows of a dataset, each made when it is asked for, those of one image in a row.

    A row that cannot be used comes as ``Skipped`` with its id and the reason, in its place.

    Attributes:
        dataset: Name of the dataset, e.g. ``refcoco``.
        split: Name of the split, e.g. ``testA``.
        level: ``instance``: one sentence for each thing that was annotated; ``expression``: all.
        image_ids: The image of each row, known without making it.
        ids: The id of each row, likewise.
        files: What the rows are annotated in; images are not among them.
        without_task: Published parts that ask for nothing and so are no row: references without
            a sentence.
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
        """Take note of the rows; none is made yet.

        Raises:
            DataError: There is not one row.
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
        """Return what changes with the rows' ids and with any annotation."""
        digest = hashlib.sha256('\n'.join(self.ids).encode())
        for file in self.files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:16]

    def first(self, count: int) -> Samples:
        """Return the first ``count`` rows alone."""
        rows = self._rows[:count]
        return Samples(
            self.dataset, self.split, self.level, rows, self.files, without_task=self.without_task
        )

    def note(self) -> str:
        """Return one sentence about what the dataset holds that is no row; '' for nothing."""
        if not self.without_task:
            return ''
        return (
            f'{self.dataset}:{self.split} has {self.without_task} references without a sentence: '
            'they ask for nothing and are no rows'
        )


def _once(row: SampleRow, times: int) -> SampleRow:
    """Return ``row``, or one that says that its id has been there before."""
    if times == 1:
        return row

    def refuse() -> Sample:
        raise DataError(
            f'the id {quoted(row.id)} is there {times} times or more: give each row its own'
        )

    return SampleRow(f'{row.id}#{times}', row.image_id, refuse)
