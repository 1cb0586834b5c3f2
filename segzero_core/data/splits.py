# SPDX-License-Identifier: Apache-2.0
"""Find the split that a file, a folder or a table belongs to, by its name.

The words are those of the library ``datasets``: ``train`` and ``training``; ``validation``,
``valid``, ``val`` and ``dev``; ``test``, ``testing``, ``eval`` and ``evaluation``. A name with two
of them (``trainval``) is a split of its own, and so are ``testA`` and ``testB``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TypeVar

from segzero_core.errors import DataError

Place = TypeVar('Place')

_WORDS = {
    'train': 'train',
    'training': 'train',
    'validation': 'validation',
    'valid': 'validation',
    'val': 'validation',
    'dev': 'validation',
    'testing': 'test',
    'test': 'test',
    'evaluation': 'test',
    'eval': 'test',
}
_WORD = '|'.join(sorted(_WORDS, key=len, reverse=True))
# A run of letters that is the name of a split, possibly with a common prefix or suffix.
_NAME = re.compile(
    rf'(?:mini|tiny|small|my)?((?:{_WORD})+)(a|b)?(?:mini|tiny|small|sets?|split|data|s)?',
    re.IGNORECASE,
)


def split_in(name: str) -> str:
    """Return the split that the name of a file or folder contains; '' if it contains none.

    Examples:
        >>> [split_in(name) for name in ('train-00000-of-00002', 'my_val2017', 'testA', 'rows')]
        ['train', 'validation', 'testA', '']
    """
    parted = re.sub(r'(?<=[a-z])(?=[A-Z][a-z])', ' ', name)
    found: dict[str, None] = {}
    for letters in re.findall('[A-Za-z]+', parted):
        match = _NAME.fullmatch(letters)
        if match:
            words = re.findall(_WORD, match[1].lower())
            part = (match[2] or '').upper()
            found |= dict.fromkeys(_WORDS[word] + part for word in words)
    return '+'.join(found)


def split_of(file: PurePath) -> str:
    """Return the split in a relative path: in its file name, or else in the nearest folder."""
    return next(filter(None, map(split_in, (file.name, *reversed(file.parent.parts)))), '')


def choose_split(source: str, wanted: str, named: Sequence[tuple[str, Place]]) -> list[Place]:
    """Return the files or tables of a split.

    Args:
        source: Name of the dataset in the message.
        wanted: The split asked for, by any of its names.
        named: Each file or table after the name of its split, or after '' if it has none.

    Returns:
        The files or tables of the wanted split; all of them if none names a split.

    Raises:
        DataError: Some of them name a split, but not the wanted one.
    """
    there = {name for name, _ in named if name}
    if not there:
        return [place for _, place in named]
    for same in (wanted, split_in(wanted)):
        found = [place for name, place in named if same and name == same]
        if found:
            return found
    alike = {name for name in there if split_in(wanted) and split_in(name) == split_in(wanted)}
    if len(alike) == 1:
        return [place for name, place in named if name in alike]
    raise no_split(source, wanted, alike or there)


def no_split(source: str, wanted: str, there: Iterable[str]) -> DataError:
    """Return the error that lists the splits which are there."""
    names = sorted(there)
    return DataError(
        f'{source!r} has no split {wanted!r}, only {", ".join(names)}. If one of them is meant, '
        f"say so: '{source}:{names[-1]}'"
    )
