# SPDX-License-Identifier: Apache-2.0
"""Make one row of a training set from one annotated sentence, or say why there is none."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image as PilImage

from segzero_core.data import Sample, Skipped
from segzero_core.data.solutions import parse_solution
from segzero_core.errors import DataError, EmptyMaskError, ImageError
from segzero_core.geometry import largest_inscribed_circles, rescale_box, rescale_point
from segzero_core.metrics.masks import image_ious, overlap
from segzero_core.segmenters import Segmenter
from segzero_core.types import Box, Image, Mask, Point, Size, image_size

Resize = Literal['area', 'bilinear']
RESIZES: tuple[Resize, ...] = ('area', 'bilinear')

# The kinds of dropped annotations, as the report counts them.
KINDS = {
    'unusable': 'the annotation or its image cannot be used',
    'no_target': 'nothing in the image is meant',
    'several_targets': 'several objects are meant, an answer names one',
    'too_small': 'the box has no area at the new size',
    'filtered': 'the segmenter does not find the object from its own box and point',
}


class TrainingRow(NamedTuple):
    """One row, in the released columns.

    Attributes:
        id: The annotation's.
        problem: The sentence, cleaned as the released sets are.
        solution: ``<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>``, in pixels of the
            image below.
        image: PNG of the image at its new size.
        img_height: Of the image before it was resized, pixels.
        img_width: The same.
    """

    id: str
    problem: str
    solution: str
    image: bytes
    img_height: int
    img_width: int


class Dropped(NamedTuple):
    """An annotation that makes no row: its id, one of ``KINDS``, and the reason in words."""

    id: str
    kind: str
    reason: str


@dataclass(frozen=True)
class RowOptions:
    """The settings for making a row.

    Attributes:
        size: Side of the square images, pixels.
        resize: ``area`` is OpenCV's INTER_AREA, which made the released sets; ``bilinear`` is
            the filter of the reasoner at inference.
        least_iou: Keep only objects that the segmenter finds with at least this IoU (0 to 1)
            from the true box and the first point; 0 keeps all.
    """

    size: int = 840
    resize: Resize = 'area'
    least_iou: float = 0.0


def make_rows(
    samples: Iterable[Sample | Skipped], options: RowOptions, segmenter: Segmenter | None = None
) -> Iterator[TrainingRow | Dropped]:
    """Yield a row, or the reason why there is none, for every sample in order.

    Args:
        samples: Samples of one image should follow each other, because the image is then
            decoded, resized and embedded once.
        options: How a row is made.
        segmenter: Needed if ``least_iou`` is not 0.
    """
    picture: _Picture | None = None
    for sample in samples:
        if isinstance(sample, Skipped):
            yield Dropped(sample.id, 'unusable', sample.reason)
            continue
        try:
            if picture is None or picture.image_id != sample.image_id:
                picture = _Picture(sample, options, segmenter)
            yield _make_row(sample, picture, options)
        except (DataError, ImageError, EmptyMaskError) as error:
            yield Dropped(sample.id, 'unusable', str(error))


class _Picture:
    """One image: decoded, resized and, if needed, embedded for all of its rows."""

    def __init__(self, sample: Sample, options: RowOptions, segmenter: Segmenter | None) -> None:
        self.image_id = sample.image_id
        self.image = sample.load_image()
        if image_size(self.image) != sample.size:
            raise DataError(f'the image is {self.image.shape[1::-1]}, not {tuple(sample.size)}')
        self.png = encode_png(resize(self.image, options))
        self._segmenter = segmenter if options.least_iou else None
        self._embedding: Any = None

    def iou(self, box: Box, point: Point, truth: Mask) -> float:
        """Return the IoU of the true (H, W) mask and the one that the segmenter finds."""
        if self._segmenter is None:
            return 1.0
        if self._embedding is None:
            self._embedding = self._segmenter.embed(self.image)
        found = self._segmenter.segment(self._embedding, box, (point,))
        return float(image_ious([overlap(found.mask, truth)])[0])


def _make_row(sample: Sample, picture: _Picture, options: RowOptions) -> TrainingRow | Dropped:
    if sample.truth is None:
        raise DataError('the dataset has no masks: it cannot be trained on')
    if sample.truth.size != sample.size:
        raise DataError(
            f'the mask is {tuple(sample.truth.size)}, the image {tuple(sample.size)} pixels'
            f'{": " + sample.mismatch if sample.mismatch else ""}'
        )
    if len(sample.boxes) != 1:
        kind = 'several_targets' if sample.boxes else 'no_target'
        return Dropped(sample.id, kind, f'means {len(sample.boxes)} objects, an answer names one')
    mask, box = sample.truth.mask, sample.boxes[0]
    first, second = (circle.center for circle in largest_inscribed_circles(mask))
    solution = write_solution(box, (first, second), sample.size, options.size)
    try:
        parse_solution(solution, Size(options.size, options.size))
    except DataError as error:
        return Dropped(sample.id, 'too_small', str(error))
    iou = picture.iou(box, first, mask)
    if iou < options.least_iou:
        reason = f'the segmenter finds it with IoU {iou:.3f}, less than {options.least_iou:g}'
        return Dropped(sample.id, 'filtered', reason)
    problem = clean(sample.query)
    return TrainingRow(
        sample.id, problem, solution, picture.png, sample.size.height, sample.size.width
    )


def clean(sentence: str) -> str:
    """Return a sentence as in the released training sets: lower case, without end marks."""
    return sentence.strip().strip('.?!').lower() or sentence


def write_solution(box: Box, points: tuple[Point, Point], size: Size, side: int) -> str:
    """Return the solution in the released form, rounded to pixels of a ``side`` x ``side`` image.

    Args:
        box: In pixels of the image.
        points: In pixels of the image.
        size: Size of the image, pixels.
        side: Side of the square that the image is stretched to, pixels.
    """
    square = Size(side, side)
    x1, y1, x2, y2 = (int(value + 0.5) for value in rescale_box(box, size, square))
    spots = [rescale_point(point, size, square) for point in points]
    words = ','.join(f'({int(x + 0.5)},{int(y + 0.5)})' for x, y in spots)
    return f'<box>({x1},{y1}),({x2},{y2})</box><points>{words}</points>'


def resize(image: Image, options: RowOptions) -> Image:
    """Return an (H, W, 3) uint8 image stretched to the square."""
    square = (options.size, options.size)
    if options.resize == 'bilinear':
        stretched = PilImage.fromarray(image).resize(square, PilImage.Resampling.BILINEAR)
        return np.asarray(stretched)
    return np.asarray(cv2.resize(image, square, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode_png(image: Image) -> bytes:
    """Return an image as PNG."""
    file = io.BytesIO()
    PilImage.fromarray(image).save(file, 'png', compress_level=3)
    return file.getvalue()
