# SPDX-License-Identifier: Apache-2.0
"""``synthetic:SPLIT?option=value&...``: tabletop scenes, rendered on access.

Splits: ``train``; ``val`` and ``test`` (new scenes of the same kind); ``unseen_colours``,
``unseen_shapes`` and ``unseen_relations``, with colours, shapes and relations that are not in
``train``.

Options: ``size`` of the image (``112`` for a square, or ``256x192``), ``count`` of records (10000
in ``train`` and 500 elsewhere), ``objects`` on the table (``2-5``), ``kinds`` of sentences
(separated by commas; all).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload
from urllib.parse import parse_qsl

import numpy as np

from segzero_core.data.records import Annotation, Record
from segzero_core.errors import DataError, UnknownNameError
from segzero_core.geometry import largest_inscribed_circles, mask_to_box
from segzero_core.prompts import check_query
from segzero_core.registry import look_up
from segzero_core.synthetic import COLOURS, KINDS, SHAPES, Query, Scene, make_scene
from segzero_core.types import Size

Array = TypeVar('Array')

HELD_OUT_COLOURS = ('orange', 'purple')
HELD_OUT_SHAPES = ('cone',)
HELD_OUT_RELATION = 'in front of'

# First seed of each split; the ranges do not overlap.
SPLITS = {
    'train': 0,
    'val': 10**9,
    'test': 2 * 10**9,
    'unseen_colours': 3 * 10**9,
    'unseen_shapes': 4 * 10**9,
    'unseen_relations': 5 * 10**9,
}
_SIZE = Size(112, 112)
LEAST_SIDE = 32
_CACHE_BYTES = 512 * 2**20
_STRIDE = 50  # seeds per record: scenes that are tried until one has a wanted sentence
_MOST = 10**9 // _STRIDE  # maximum number of records in a split


@dataclass(frozen=True)
class SceneOptions:
    """The options in a name ``synthetic:...``.

    Attributes:
        split: One of ``SPLITS``.
        size: Size of the image, pixels.
        count: Number of records.
        objects: Minimum and maximum number of objects on the table.
        kinds: Kinds of sentences.
    """

    split: str = 'train'
    size: Size = _SIZE
    count: int = 10_000
    objects: tuple[int, int] = (2, 5)
    kinds: tuple[str, ...] = KINDS


def parse_name(name: str) -> SceneOptions:
    """Parse the part of a name after ``synthetic:``.

    Raises:
        DataError: A split or option is unknown, or a value cannot be used.
    """
    split, _, rest = name.partition('?')
    try:
        look_up('split of the synthetic data', split, SPLITS)
        given: dict[str, Any] = {}
        for key, value in parse_qsl(rest, keep_blank_values=True, strict_parsing=bool(rest)):
            look_up('option of the synthetic data', key, ('size', 'count', 'objects', 'kinds'))
            given[key] = _read_option(key, value)
    except UnknownNameError as error:
        raise DataError(str(error)) from error
    except ValueError as error:
        raise DataError(
            f"cannot read 'synthetic:{name}' ({error}): write for instance "
            "'synthetic:train?size=112&objects=2-5&kinds=attribute,relation'"
        ) from error
    default = {} if split == 'train' else {'count': 500}
    return SceneOptions(split, **(default | given))


def _read_option(key: str, value: str) -> Any:
    if key == 'kinds':
        return tuple(look_up('kind of sentence', kind, KINDS) for kind in value.split(','))
    if key == 'objects':
        low, _, high = value.partition('-')
        span = int(low), int(high or low)
        if not 1 <= span[0] <= span[1]:
            raise ValueError(f'objects={value}')
        return span
    if key == 'size':
        width, _, height = value.partition('x')
        size = Size(int(width), int(height or width))
        if min(size) < LEAST_SIDE:
            raise ValueError(f'size={value}: at least {LEAST_SIDE} pixels are needed')
        return size
    count = int(value)
    if not 1 <= count <= _MOST:  # more records would reach into the seeds of the next split
        raise ValueError(f'count={value}: 1 to {_MOST}')
    return count


class SceneRecords(Sequence[Record]):
    """Records of synthetic scenes; record ``i`` has seeds that no other record uses."""

    def __init__(self, options: SceneOptions) -> None:
        """Store the options; no scene is rendered yet."""
        self.options = options
        kept = _CACHE_BYTES // (4 * options.size.width * options.size.height)  # image and mask
        self._make = functools.lru_cache(maxsize=kept)(functools.partial(_make_record, options))

    def __len__(self) -> int:
        return self.options.count

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._make(index % len(self))


def _make_record(options: SceneOptions, index: int) -> Record:
    for seed in range(_STRIDE):
        seed += SPLITS[options.split] + index * _STRIDE
        scene = make_scene(
            seed,
            options.size,
            options.objects,
            shapes=_allowed(options.split, 'unseen_shapes', SHAPES, HELD_OUT_SHAPES),
            colours=_allowed(options.split, 'unseen_colours', tuple(COLOURS), HELD_OUT_COLOURS),
        )
        fitting = [query for query in scene.queries() if _wanted(scene, query, options)]
        if fitting:
            choice = np.random.Generator(np.random.PCG64([seed, 2])).random()
            # The kind is chosen first, so that all kinds are equally frequent.
            kinds = sorted({query.kind for query in fitting}, key=KINDS.index)
            kind = kinds[int(choice * len(kinds))]
            fitting = [query for query in fitting if query.kind == kind]
            query = fitting[int(choice * 9973) % len(fitting)]
            return _record(scene, query, f'{options.split}/{index}')
    raise DataError(
        f'no scene of {_STRIDE} has a sentence of kinds {", ".join(options.kinds)} '
        f'for split {options.split!r}: allow more kinds or more objects'
    )


def _allowed(
    split: str, unseen_split: str, names: Sequence[str], held_out: Sequence[str]
) -> list[str]:
    return [name for name in names if split == unseen_split or name not in held_out]


def _wanted(scene: Scene, query: Query, options: SceneOptions) -> bool:
    target = scene.objects[query.target]
    unseen_relation = query.kind == 'relation' and f' {HELD_OUT_RELATION} ' in query.text
    special = {
        'unseen_colours': target.colour in HELD_OUT_COLOURS,
        'unseen_shapes': target.shape in HELD_OUT_SHAPES,
        'unseen_relations': unseen_relation,
    }
    if options.split in special:
        return query.kind in options.kinds and special[options.split]
    return query.kind in options.kinds and not unseen_relation


def _record(scene: Scene, query: Query, name: str) -> Record:
    mask, thing = scene.mask(query.target), scene.objects[query.target]
    circles, box = largest_inscribed_circles(mask), mask_to_box(mask)
    place = (box.x1 + box.x2) / 2 / scene.camera.size.width
    return Record(
        id=name,
        query=check_query(query.text),
        size=scene.camera.size,
        targets=(Annotation(box, tuple(circle.center for circle in circles)),),
        load_image=functools.partial(_same, scene.image),
        load_mask=functools.partial(_same, mask),
        reasoning=say_thought(thing.colour, thing.shape, place),
    )


def say_thought(colour: str, shape: str, place: float) -> str:
    """Return a short chain of thought that names an object and its place.

    Args:
        colour: Colour of the object.
        shape: Shape of the object.
        place: Centre of its box, as a share of the image's width (0 to 1).
    """
    where = 'on the left' if place < 0.38 else 'on the right' if place > 0.62 else 'in the middle'
    return f'The {colour} {shape} {where}.'


def _same(array: Array) -> Array:
    return array


def read_scenes(name: str, limit: int = 0) -> SceneRecords:
    """Return the records of ``synthetic:name``; raises like ``parse_name``."""
    options = parse_name(name)
    if limit:
        options = dataclasses.replace(options, count=min(limit, options.count))
    return SceneRecords(options)
