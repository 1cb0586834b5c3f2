# SPDX-License-Identifier: Apache-2.0
"""Keys and values of the tokens that a language model has computed, and its rotary table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from segzero_core.reasoners.decode.text_model import TextModel


class _Buffers(NamedTuple):
    """Everything that changes when the cache grows: replaced in one assignment, or not at all."""

    keys: torch.Tensor
    values: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    rows: int
    capacity: int


class KVCache:
    """Buffers for a number of sequences, one in each row, that grow as needed.

    ``keys`` and ``values`` are (layers, heads, rows * capacity, head width) each; a row begins
    where the one before it ends. They have the dtype and the device of the hidden states. If the
    memory for larger buffers is not there, the old ones stay as they were.
    """

    def __init__(self, text: TextModel, chunk: int, rows: int = 1) -> None:
        """Allocate nothing yet.

        Args:
            text: The language model.
            chunk: The capacity is always a multiple of this number of tokens.
            rows: Number of sequences.
        """
        self._text, self._chunk = text, chunk
        layers, heads, width = text.kv_shape
        empty = torch.empty(layers, heads, 0, width)
        self._buffers = _Buffers(empty, empty, torch.empty(0), torch.empty(0), rows, 0)

    @property
    def keys(self) -> torch.Tensor:
        """(layers, heads, rows * capacity, head width)."""
        return self._buffers.keys

    @property
    def values(self) -> torch.Tensor:
        """(layers, heads, rows * capacity, head width)."""
        return self._buffers.values

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return self._buffers.rows

    @property
    def capacity(self) -> int:
        """Number of tokens that fit in each row."""
        return self._buffers.capacity

    def reserve(self, tokens: int, like: torch.Tensor) -> None:
        """Make room for ``tokens`` tokens in each row, of the dtype and on the device of ``like``.

        The contents of the rows are copied.
        """
        if tokens <= self.capacity:
            return
        capacity = -(-tokens // self._chunk) * self._chunk
        layers, heads, width = self._text.kv_shape
        # Zeros, because what lies behind a row's end is masked but takes part in the arithmetic.
        keys, values = (
            like.new_zeros(layers, heads, self.rows * capacity, width) for _ in range(2)
        )
        if self.capacity:
            for new, old in zip((keys, values), self.by_row(), strict=True):
                new.unflatten(2, (self.rows, -1))[:, :, :, : self.capacity] = old
        cos, sin = self._text.text_rotary(capacity, like)
        self._buffers = _Buffers(keys, values, cos, sin, self.rows, capacity)

    def by_row(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of keys and values: (layers, heads, rows, capacity, head width) each."""
        keys, values = (each.unflatten(2, (self.rows, -1)) for each in (self.keys, self.values))
        return keys, values

    def keep_rows(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Drop all rows but some, which move to the front.

        Args:
            rows: Indices of the rows to keep, ascending.
            lengths: Number of tokens in each of them.
        """
        for buffer in self.by_row():
            for new, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                if new != row:
                    buffer[:, :, new, :length] = buffer[:, :, row, :length]
        end = len(rows) * self.capacity
        self._buffers = self._buffers._replace(
            keys=self.keys[:, :, :end], values=self.values[:, :, :end], rows=len(rows)
        )

    def rotary(self, positions: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines at n positions of text, (n, 1, head width) each."""
        return self._buffers.cos[positions, None], self._buffers.sin[positions, None]
