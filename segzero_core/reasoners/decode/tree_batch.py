# SPDX-License-Identifier: Apache-2.0
"""Several sequences continued side by side, those about one image as branches of one row.

A layer's weights are read once for all of them. The tokens that prompts about an image have in
common (system turn and image, often 900 tokens and more) are in the cache once, and a mask says
which of a row's tokens each branch attends to (tree attention, as in SpecInfer, arXiv 2305.09781):

    row 0: | system | image 0 | question a | question b | reply a | reply b ...
    branch a attends to  system, image 0, question a, reply a
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from segzero_core.reasoners.decode.kv_cache import KVCache
from segzero_core.reasoners.decode.prefix_cache import PrefixCache

_CHUNK = 128  # tokens; there may be many rows, and the capacity of each is a multiple of this
# Branches per row. Each token's scores are computed for the whole row and masked, in vain for
# those of other branches.
_MAX_BRANCHES = 16
_COMPACT_AT = 0.75  # share of rows still in use below which the others are dropped


@dataclass(eq=False)
class TreeBranch:
    """One sequence: the beginning of its row, and tokens anywhere behind.

    Attributes:
        row: Index of its row.
        shared: Number of tokens at the beginning of the row that belong to it.
        shift: Position of a token minus its index in the sequence.
        places: Where in the row its other tokens are.
    """

    row: int
    shared: int
    shift: int
    places: list[int] = field(default_factory=list)


class TreeBatch:
    """Keys and values of several sequences."""

    def __init__(self, prefix: PrefixCache, counts: Iterable[int]) -> None:
        """Make a batch whose rows begin as copies of ``prefix``.

        Args:
            prefix: Its tokens at the time of ``open_row`` are what a row's branches share.
            counts: For each image, the number of prompts about it.
        """
        self._prefix = prefix
        rows = sum(-(-count // _MAX_BRANCHES) for count in counts)
        self._cache = KVCache(prefix.text, _CHUNK, rows)
        self._active: list[TreeBranch] = []
        self._image = -1  # of the last row
        self._room = 0  # for branches in it
        # Of each row: number of places used so far, and which of them are free again.
        self._used: list[int] = []
        self._free: list[list[int]] = []

    @torch.inference_mode()
    def open_row(self, image: int) -> None:
        """Begin a row with the tokens of ``prefix``, unless the last row can take one more branch.

        Args:
            image: A number that differs from image to image.
        """
        self._room -= 1
        if image == self._image and self._room:
            return
        self._image, self._room = image, _MAX_BRANCHES
        self._used.append(0)
        self._free.append([])
        self._copy(len(self._used) - 1, 0, len(self._prefix.state.tokens))

    @torch.inference_mode()
    def add(self, shared: int) -> TreeBranch:
        """Return a new branch of the last row with the tokens of ``prefix``.

        Args:
            shared: Number of leading tokens shared with the row.
        """
        row = len(self._used) - 1
        state = self._prefix.state
        branch = TreeBranch(row, shared, state.shift)
        branch.places = self._copy(row, shared, len(state.tokens))
        self._active.append(branch)
        return branch

    @torch.inference_mode()
    def extend(
        self,
        branches: Sequence[TreeBranch],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[int],
    ) -> torch.Tensor:
        """Compute text behind each of some branches.

        Args:
            branches: The branches.
            tokens: For each of them ids, at least one.
            wanted: For each of them, how many of these ids, the last ones, logits are wanted of.

        Returns:
            (sum of ``wanted``, vocabulary) logits after each, branch by branch.
        """
        self._drop_rows()
        given, mask, ends = self._lay_out(branches, tokens)
        asked = [n for end, few in zip(ends, wanted, strict=True) for n in range(end - few, end)]
        ids, positions, places = torch.from_numpy(given).flatten(1).to(self._prefix.device)
        return self._prefix.step(
            ids,
            *self._cache.rotary(positions),
            places,
            torch.tensor(asked, device=ids.device),
            self._cache.keys,
            self._cache.values,
            torch.from_numpy(mask).to(self._cache.keys),
        )

    def truncate(self, branch: TreeBranch, count: int) -> None:
        """Forget the last ``count`` tokens of ``branch``, which must not be shared ones."""
        kept = len(branch.places) - count
        self._free[branch.row] += branch.places[kept:]
        del branch.places[kept:]

    def remove(self, branch: TreeBranch) -> None:
        """Forget ``branch``."""
        self.truncate(branch, len(branch.places))
        self._active.remove(branch)

    def _lay_out(
        self, branches: Sequence[TreeBranch], tokens: Sequence[Sequence[int]]
    ) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Add tokens to branches.

        Returns:
            (3, rows, n) int64: id, position and place in the cache of each token;
            (rows, 1, n, m) float32, the mask; and where each branch ends among rows * n.
        """
        rows, starts = len(self._used), []
        filled, places = [0] * rows, []
        for branch, ids in zip(branches, tokens, strict=True):
            starts.append(filled[branch.row])
            filled[branch.row] += len(ids)
            places.append(self._take(branch.row, len(ids)))
        width, last = max(filled), max(self._used)
        self._cache.reserve(last + 1, self._prefix.cache.keys)
        # Rows with fewer tokens are padded. The padding is written behind everything, and attends
        # to one token, because attention to none is not a number.
        given = np.zeros((3, rows, width), np.int64)
        given[2] = last
        mask = np.full((rows, 1, width, last), -np.inf, np.float32)
        mask[..., 0] = 0
        for branch, start, ids, new in zip(branches, starts, tokens, places, strict=True):
            own = slice(start, start + len(ids))
            position = branch.shared + len(branch.places) + branch.shift
            given[:, branch.row, own] = ids, range(position, position + len(ids)), new
            seen = mask[branch.row, 0, own]
            seen[:, : branch.shared] = 0
            seen[:, branch.places] = 0
            seen[:, new] = _causal(len(ids))
            branch.places += new
        given[2] += self._cache.capacity * np.arange(rows)[:, None]
        ends = [
            branch.row * width + start + len(ids)
            for branch, start, ids in zip(branches, starts, tokens, strict=True)
        ]
        return given, mask, ends

    def _take(self, row: int, count: int) -> list[int]:
        """Return ``count`` free places of a row."""
        free = self._free[row]
        found = [free.pop() for _ in range(min(count, len(free)))]
        fresh = range(self._used[row], self._used[row] + count - len(found))
        self._used[row] += len(fresh)
        return [*found, *fresh]

    def _copy(self, row: int, start: int, end: int) -> list[int]:
        """Copy tokens ``start`` to ``end`` of the prefix to a row; return their places there."""
        places = self._take(row, end - start)
        source = self._prefix.cache
        self._cache.reserve(max(self._used), source.keys)
        for target, given in zip(self._cache.by_row(), (source.keys, source.values), strict=True):
            target[:, :, row, places] = given[:, :, start:end]
        return places

    def _drop_rows(self) -> None:
        """Drop rows without branches, once they are many."""
        rows = sorted({branch.row for branch in self._active})
        if len(rows) > _COMPACT_AT * len(self._used):
            return
        self._used = [self._used[row] for row in rows]
        self._free = [self._free[row] for row in rows]
        self._cache.keep_rows(rows, self._used)
        for branch in self._active:
            branch.row = rows.index(branch.row)


@functools.lru_cache(64)
def _causal(count: int) -> np.ndarray:
    """Return (count, count) float32: each token attends to itself and to those before it."""
    return np.triu(np.full((count, count), -np.inf, np.float32), 1)
