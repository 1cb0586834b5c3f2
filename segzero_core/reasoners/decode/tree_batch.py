# SPDX-License-Identifier: Apache-2.0
"""Several sequences of tokens that are continued side by side.

A layer's weights are read once for all of them. What sentences about one image have in common is
there once: they are branches of one row, and a mask says what each of their tokens may look at.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from segzero_core.reasoners.decode.kv_cache import KVCache
from segzero_core.reasoners.decode.prefix_cache import PrefixCache

_STEP = 128  # tokens; there may be many rows, each of which has room for a multiple of this
# Branches of a row. Each of their tokens is compared with all of theirs, to no avail.
_MOST = 16
_GONE = 0.75  # of the rows; when fewer are still continued, the others are taken out


@dataclass(eq=False)
class TreeBranch:
    """One sequence: the beginning of its row, and what lies anywhere behind.

    Attributes:
        row: Which one.
        same: How many tokens at the beginning of the row are its own, too.
        shift: Position of a token minus its index in the sequence.
        places: Where in the row the other tokens are.
    """

    row: int
    same: int
    shift: int
    places: list[int] = field(default_factory=list)


class TreeBatch:
    """Keys and values of several sequences."""

    def __init__(self, decoder: PrefixCache, counts: Iterable[int]) -> None:
        """Continue sequences as ``decoder`` does one.

        Args:
            decoder: What it remembers when a row is opened is what its branches have in common.
            counts: For each image, how many sentences there will be about it.
        """
        self._decoder = decoder
        rows = sum(-(-count // _MOST) for count in counts)
        self._cache = KVCache(decoder.text, _STEP, rows)
        self._open: list[TreeBranch] = []
        self._image = -1  # of the last row
        self._room = 0  # for branches in it
        # Of each row: how many places have been used, and which of them are free again.
        self._used: list[int] = []
        self._free: list[list[int]] = []

    @torch.inference_mode()
    def open_row(self, image: int) -> None:
        """Begin a row with what the decoder remembers, unless the last one will do.

        Args:
            image: Which one it is about: a number of its own for each that the decoder has read.
        """
        self._room -= 1
        if image == self._image and self._room:
            return
        self._image, self._room = image, _MOST
        self._used.append(0)
        self._free.append([])
        self._copy(len(self._used) - 1, 0, self._decoder.length)

    @torch.inference_mode()
    def add(self, same: int) -> TreeBranch:
        """Return a new branch of the last row: what the decoder remembers now.

        Args:
            same: With how many of these tokens the row begins.
        """
        row = len(self._used) - 1
        branch = TreeBranch(row, same, self._decoder.shift)
        branch.places = self._copy(row, same, self._decoder.length)
        self._open.append(branch)
        return branch

    @torch.inference_mode()
    def go_on(
        self,
        branches: Sequence[TreeBranch],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[int],
    ) -> torch.Tensor:
        """Compute text that follows in each of some branches.

        Args:
            branches: Which.
            tokens: For each of them ids, at least one.
            wanted: Of how many of these, the last ones, something is to be returned.

        Returns:
            (sum of ``wanted``, vocabulary) logits of what follows each, branch by branch.
        """
        self._close_rows()
        given, mask, ends = self._lay_out(branches, tokens)
        asked = [n for end, few in zip(ends, wanted, strict=True) for n in range(end - few, end)]
        ids, positions, places = torch.from_numpy(given).flatten(1).to(self._decoder.device)
        return self._decoder.step(
            ids,
            *self._cache.turns(positions),
            places,
            torch.tensor(asked, device=ids.device),
            self._cache.keys,
            self._cache.values,
            torch.from_numpy(mask).to(self._cache.keys),
        )

    def cut(self, branch: TreeBranch, count: int) -> None:
        """Forget the last ``count`` tokens of ``branch``, which have been computed here."""
        kept = len(branch.places) - count
        self._free[branch.row] += branch.places[kept:]
        del branch.places[kept:]

    def end(self, branch: TreeBranch) -> None:
        """Forget ``branch``."""
        self.cut(branch, len(branch.places))
        self._open.remove(branch)

    def _lay_out(
        self, branches: Sequence[TreeBranch], tokens: Sequence[Sequence[int]]
    ) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Add tokens to branches.

        Returns:
            (3, rows, n) int64, of each token its id, its position and its place in the cache;
            (rows, 1, n, m) float32, the mask; and where each branch's end among rows * n.
        """
        rows, starts = len(self._used), []
        filled, places = [0] * rows, []
        for branch, ids in zip(branches, tokens, strict=True):
            starts.append(filled[branch.row])
            filled[branch.row] += len(ids)
            places.append(self._take(branch.row, len(ids)))
        width, last = max(filled), max(self._used)
        self._cache.reserve(last + 1, self._decoder.cache.keys)
        # Where a row has fewer tokens, others fill it up. They are put behind everything, and may
        # look at something, for nothing could be computed of nothing.
        given = np.zeros((3, rows, width), np.int64)
        given[2] = last
        mask = np.full((rows, 1, width, last), -np.inf, np.float32)
        mask[..., 0] = 0
        for branch, start, ids, new in zip(branches, starts, tokens, places, strict=True):
            own = slice(start, start + len(ids))
            position = branch.same + len(branch.places) + branch.shift
            given[:, branch.row, own] = ids, range(position, position + len(ids)), new
            seen = mask[branch.row, 0, own]
            seen[:, : branch.same] = 0
            seen[:, branch.places] = 0
            seen[:, new] = _causal(len(ids))
            branch.places += new
        given[2] += self._cache.room * np.arange(rows)[:, None]
        ends = [
            branch.row * width + start + len(ids)
            for branch, start, ids in zip(branches, starts, tokens, strict=True)
        ]
        return given, mask, ends

    def _take(self, row: int, count: int) -> list[int]:
        """Return places of a row that nothing is at."""
        free = self._free[row]
        found = [free.pop() for _ in range(min(count, len(free)))]
        fresh = range(self._used[row], self._used[row] + count - len(found))
        self._used[row] += len(fresh)
        return [*found, *fresh]

    def _copy(self, row: int, start: int, end: int) -> list[int]:
        """Copy some of the tokens the decoder remembers to a row, and return where to."""
        places = self._take(row, end - start)
        theirs = self._decoder.cache
        self._cache.reserve(max(self._used), theirs.keys)
        for ours, given in zip(self._cache.by_row(), (theirs.keys, theirs.values), strict=True):
            ours[:, :, row, places] = given[:, :, start:end]
        return places

    def _close_rows(self) -> None:
        """Take rows out that no branch is left of, if they are many."""
        rows = sorted({branch.row for branch in self._open})
        if len(rows) > _GONE * len(self._used):
            return
        self._used = [self._used[row] for row in rows]
        self._free = [self._free[row] for row in rows]
        self._cache.keep(rows, self._used)
        for branch in self._open:
            branch.row = rows.index(branch.row)


@functools.lru_cache(64)
def _causal(count: int) -> np.ndarray:
    """Return (count, count) float32: each of so many tokens looks at itself and those before."""
    return np.triu(np.full((count, count), -np.inf, np.float32), 1)
