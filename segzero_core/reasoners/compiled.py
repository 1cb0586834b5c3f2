# SPDX-License-Identifier: Apache-2.0
"""A few tokens through compiled layers and buffers of a fixed size.

On CUDA the whole step is one graph besides, so that it costs one launch instead of hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segzero_core.reasoners.layers import TextLayers


class CompiledStep:
    """The next tokens of one sequence, always as many, whose keys and values stay where they are.

    Attention runs over the whole buffers, with a mask: what is computed has the same shapes, and
    the same addresses, every time.
    """

    def __init__(
        self,
        text: TextLayers,
        keys: torch.Tensor,
        values: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        count: int,
        backend: str = 'inductor',
    ) -> None:
        """Compile for these buffers, which happens at the first call.

        Args:
            text: The layers.
            keys: (layers, heads, room, head width); the step writes into it.
            values: Likewise.
            turns: Cosines and sines of ``TextLayers.turns``.
            count: How many tokens at a time.
            backend: Of ``torch.compile``.
        """
        self._text, self._keys, self._values, self._turns = text, keys, values, turns
        self._inputs = torch.zeros(3, count, dtype=torch.long, device=keys.device)
        self._compute: Any = torch.compile(
            self._step, backend=backend, fullgraph=True, dynamic=False
        )
        self._graph: Any = None
        self._logits = torch.empty(0)

    def fits(self, keys: torch.Tensor) -> bool:
        """Return whether these are still the buffers it was compiled for."""
        return keys is self._keys

    def __call__(self, tokens: Sequence[int], index: int, position: int) -> torch.Tensor:
        """Compute ``tokens``, the first of which has that index and position.

        If there are fewer than ``count``, so many places behind them must be free.

        Returns:
            (n, vocabulary) logits after each.

        Raises:
            RuntimeError: There is no compiler, or it failed.
        """
        count = self._inputs.shape[1]
        padded = [*tokens, *[0] * (count - len(tokens))]
        places = range(index, index + count), range(position, position + count)
        self._inputs.copy_(torch.tensor([padded, *places]))
        return self._run()[: len(tokens)]

    def _run(self) -> torch.Tensor:
        if self._keys.device.type != 'cuda':
            return self._compute(*self._inputs)
        if self._graph is None:
            self._capture()
        self._graph.replay()
        return self._logits

    def _capture(self) -> None:
        """Record the step; compiling and a first run, outside of the graph, come before."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._compute(*self._inputs)
        self._graph = graph

    def _step(
        self, token: torch.Tensor, index: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        """Return (count, vocabulary) logits; all of them have the shape (count,)."""
        room = self._keys.shape[2]
        mask = torch.arange(room, device=index.device) <= index[:, None]
        cos, sin = (table[position][:, None] for table in self._turns)
        wanted = torch.arange(len(token), device=index.device)
        return self._text.step(token, cos, sin, index, wanted, self._keys, self._values, mask)
