# SPDX-License-Identifier: Apache-2.0
"""Keys and values of what a language model has read and written, and its rotary table."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from segzero_core.reasoners.decode.text_model import TextModel


class KVCache:
    """Buffers for some sequences, one in each row, that grow as they are needed.

    Attributes:
        keys: (layers, heads, rows * room, head width); each row begins behind the last one's end.
        values: Likewise.
        room: Tokens there is room for in each row.
        rows: How many sequences there are.
    """

    def __init__(self, text: TextModel, step: int, rows: int = 1) -> None:
        """Make no room yet.

        Args:
            text: The layers.
            step: Tokens by whose multiples it grows.
            rows: Sequences there will be.
        """
        self._text, self._step = text, step
        self.rows, self.room = rows, 0
        self.keys = self.values = torch.empty(*text.kept[:2], 0, text.kept[2])
        self._turns = (torch.empty(0), torch.empty(0))

    def reserve(self, tokens: int, like: torch.Tensor) -> None:
        """Make room for so many tokens in each row; ``like`` has their type and device."""
        if tokens <= self.room:
            return
        before, self.room = self.room, -(-tokens // self._step) * self._step
        layers, heads, width = self._text.kept
        old = self.by_row()
        # Zeros, because what lies behind a row's end is multiplied by nothing, and added.
        self.keys, self.values = (
            like.new_zeros(layers, heads, self.rows * self.room, width) for _ in old
        )
        if before:
            for new, whole in zip(self.by_row(), old, strict=True):
                new[:, :, :, :before] = whole
        self._turns = self._text.text_turns(self.room, like)

    def by_row(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values as (layers, heads, rows, room, head width)."""
        keys, values = (each.unflatten(2, (self.rows, -1)) for each in (self.keys, self.values))
        return keys, values

    def keep(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Forget all but some rows, of so many tokens each.

        Args:
            rows: Which, in ascending order.
            lengths: Of these.
        """
        for buffer in self.by_row():
            for new, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                if new != row:
                    buffer[:, :, new, :length] = buffer[:, :, row, :length]
        end = len(rows) * self.room
        self.keys, self.values, self.rows = (
            self.keys[:, :, :end],
            self.values[:, :, :end],
            len(rows),
        )

    def turns(self, positions: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines at n positions of text, (n, 1, head width) each."""
        cos, sin = self._turns
        return cos[positions, None], sin[positions, None]
