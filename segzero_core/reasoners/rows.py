# SPDX-License-Identifier: Apache-2.0
"""Several sequences of tokens that are continued side by side.

A layer's weights are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from segzero_core.reasoners.decoding import CachedDecoder, rounded
from segzero_core.reasoners.layers import TextLayers


class Rows:
    """Keys and values of several sequences, one in each row of the buffers.

    Each lies at the beginning of its row, however long it is; what lies behind its end is not
    looked at.
    """

    def __init__(self, text: TextLayers, count: int) -> None:
        """Continue ``count`` sequences with the layers ``text``; ``add`` says which."""
        self._text, self._most = text, count
        self._keys = self._values = torch.empty(0)  # (layers, rows, heads, room, head width)
        self._turns = (torch.empty(0), torch.empty(0))
        # Of each row: how many tokens there are, and the position of the next minus their number.
        self._lengths: list[int] = []
        self._shifts: list[int] = []

    @torch.inference_mode()
    def add(self, sequence: CachedDecoder, length: int) -> None:
        """Add the first ``length`` tokens of ``sequence``."""
        row = len(self._lengths)
        self._reserve(length, sequence.keys)
        self._keys[:, row, :, :length] = sequence.keys[:, :, :length]
        self._values[:, row, :, :length] = sequence.values[:, :, :length]
        self._lengths.append(length)
        self._shifts.append(sequence.shift)

    @torch.inference_mode()
    def go_on(self, tokens: Sequence[Sequence[int]], wanted: Sequence[int]) -> torch.Tensor:
        """Compute text that follows in each row.

        Args:
            tokens: For each row ids, any number, also none.
            wanted: Of how many of them, the last ones, something is to be returned.

        Returns:
            (sum of ``wanted``, vocabulary) logits of what follows each, row by row.
        """
        rows, longest = len(tokens), max(map(len, tokens))
        self._reserve(max(self._lengths) + longest, self._keys)
        device = self._keys.device
        padded = [[*each, *[0] * (longest - len(each))] for each in tokens]
        ends = torch.tensor([self._lengths, self._shifts], device=device)[..., None]
        at = ends[0] + torch.arange(longest, device=device)  # (rows, n), of each in its row
        last = max(self._lengths) + longest
        cos, sin = (table[(at + ends[1]).flatten(), None] for table in self._turns)
        mask = torch.arange(last, device=device) <= at[:, None, :, None]
        row = torch.arange(rows, device=device)[:, None]
        hidden = self._text.embed(torch.tensor(padded, device=device).flatten())
        for layer, keys, values in zip(self._text.layers, self._keys, self._values, strict=True):
            query, key, value = (
                each.unflatten(0, (rows, longest)) for each in layer.heads(hidden, cos, sin)
            )
            keys[row, :, at], values[row, :, at] = key, value
            seen = layer.attend(
                query.transpose(1, 2), keys[:, :, :last], values[:, :, :last], mask
            )
            hidden = layer.finish(hidden, seen.transpose(1, 2).flatten(0, 1))
        counts = [len(each) for each in tokens]
        self._lengths = [
            before + count for before, count in zip(self._lengths, counts, strict=True)
        ]
        places = (
            range(longest * number + count - few, longest * number + count)
            for number, (count, few) in enumerate(zip(counts, wanted, strict=True))
        )
        return self._text.logits(hidden[list(chain.from_iterable(places))])

    def cut(self, row: int, count: int) -> None:
        """Forget the last ``count`` tokens of a row."""
        self._lengths[row] -= count

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, given in ascending order."""
        for new, row in enumerate(rows):
            if new != row:
                for each in (self._keys, self._values):
                    length = self._lengths[row]
                    each[:, new, :, :length] = each[:, row, :, :length]
        self._keys, self._values = self._keys[:, : len(rows)], self._values[:, : len(rows)]
        self._lengths = [self._lengths[row] for row in rows]
        self._shifts = [self._shifts[row] for row in rows]

    def _reserve(self, tokens: int, like: torch.Tensor) -> None:
        """Make room for so many tokens per row; ``like`` has their type and device."""
        old = self._keys, self._values
        if old[0].dim() > 1 and old[0].shape[3] >= tokens:
            return
        layers, heads, width = self._text.kept
        rows = old[0].shape[1] if old[0].dim() > 1 else self._most
        shape = (layers, rows, heads, rounded(tokens), width)
        self._keys, self._values = like.new_zeros(shape), like.new_zeros(shape)
        if old[0].dim() > 1:
            self._keys[:, :, :, : old[0].shape[3]] = old[0]
            self._values[:, :, :, : old[1].shape[3]] = old[1]
        self._turns = self._text.text_turns(shape[3], like)
