# SPDX-License-Identifier: Apache-2.0
"""Several sequences of tokens that are continued side by side.

A layer's weights are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from segzero_core.reasoners.cache import Cache
from segzero_core.reasoners.decoding import CachedDecoder

_STEP = 128  # tokens; there may be many rows, each of which has room for a multiple of this


class Rows:
    """Keys and values of several sequences, one in each row of the buffers.

    Each lies at the beginning of its row, however long it is; what lies behind its end is not
    looked at.
    """

    def __init__(self, decoder: CachedDecoder, count: int) -> None:
        """Continue ``count`` sequences as ``decoder`` does one; ``add`` says which."""
        self._decoder = decoder
        self._cache = Cache(decoder.text, _STEP, count)
        # Of each row: how many tokens there are, and the position of the next minus their number.
        self._lengths: list[int] = []
        self._shifts: list[int] = []

    @torch.inference_mode()
    def add(self, length: int) -> None:
        """Add the first ``length`` tokens of what the decoder remembers."""
        row, decoder = len(self._lengths), self._decoder
        self._cache.reserve(length, decoder.cache.keys)
        kept = decoder.cache.keys, decoder.cache.values
        for ours, theirs in zip(self._cache.by_row(), kept, strict=True):
            ours[:, :, row, :length] = theirs[:, :, :length]
        self._lengths.append(length)
        self._shifts.append(decoder.shift)

    @torch.inference_mode()
    def go_on(self, tokens: Sequence[Sequence[int]], wanted: Sequence[int]) -> torch.Tensor:
        """Compute text that follows in each row.

        Args:
            tokens: For each row ids, any number, also none.
            wanted: Of how many of them, the last ones, something is to be returned.

        Returns:
            (sum of ``wanted``, vocabulary) logits of what follows each, row by row.
        """
        counts, cache, device = [len(each) for each in tokens], self._cache, self._decoder.device
        longest = max(counts)
        last = max(self._lengths) + longest
        cache.reserve(last, cache.keys)
        padded = [[*each, *[0] * (longest - len(each))] for each in tokens]
        ends = torch.tensor([self._lengths, self._shifts], device=device)[..., None]
        at = ends[0] + torch.arange(longest, device=device)  # (rows, n), of each in its row
        row = torch.arange(len(tokens), device=device)[:, None]
        mask = cache.keys.new_zeros(len(tokens), 1, longest, last)
        mask.masked_fill_(torch.arange(last, device=device) > at[:, None, :, None], -torch.inf)
        places = (
            range(longest * number + count - few, longest * number + count)
            for number, (count, few) in enumerate(zip(counts, wanted, strict=True))
        )
        self._lengths = [
            before + count for before, count in zip(self._lengths, counts, strict=True)
        ]
        return self._decoder.step(
            torch.tensor(padded, device=device).flatten(),
            *cache.turns((at + ends[1]).flatten()),
            (at + row * cache.room).flatten(),
            torch.tensor(list(chain.from_iterable(places)), device=device),
            cache.keys,
            cache.values,
            mask,
        )

    def cut(self, row: int, count: int) -> None:
        """Forget the last ``count`` tokens of a row."""
        self._lengths[row] -= count

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, given in ascending order."""
        self._lengths = [self._lengths[row] for row in rows]
        self._shifts = [self._shifts[row] for row in rows]
        self._cache.keep(rows, self._lengths)
