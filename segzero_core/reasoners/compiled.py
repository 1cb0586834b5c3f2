# SPDX-License-Identifier: Apache-2.0
"""One token through compiled layers and buffers of a fixed size.

On CUDA the whole step is one graph besides, so that a token costs one launch instead of hundreds.
"""

from __future__ import annotations

from typing import Any

import torch

from segzero_core.reasoners.layers import TextLayers


class CompiledStep:
    """The next token of one sequence whose keys and values stay where they are.

    Attention runs over the whole buffers, with a mask: what is computed has the same shapes, and
    the same addresses, for every token.
    """

    def __init__(
        self,
        text: TextLayers,
        keys: torch.Tensor,
        values: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        backend: str = 'inductor',
    ) -> None:
        """Compile for these buffers, which happens at the first token.

        Args:
            text: The layers.
            keys: (layers, heads, room, head width); the step writes into it.
            values: Likewise.
            turns: Cosines and sines of ``TextLayers.turns``.
            backend: Of ``torch.compile``.
        """
        self._text, self._keys, self._values, self._turns = text, keys, values, turns
        self._inputs = torch.zeros(3, 1, dtype=torch.long, device=keys.device)
        self._compute: Any = torch.compile(
            self._step, backend=backend, fullgraph=True, dynamic=False
        )
        self._graph: Any = None
        self._logits = torch.empty(0)

    def fits(self, keys: torch.Tensor) -> bool:
        """Return whether these are still the buffers it was compiled for."""
        return keys is self._keys

    def __call__(self, token: int, index: int, position: int) -> torch.Tensor:
        """Return (vocabulary,) logits after ``token``, the one of that index and position.

        Raises:
            RuntimeError: There is no compiler, or it failed.
        """
        self._inputs.copy_(torch.tensor([[token], [index], [position]]))
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
        """Return (vocabulary,) logits; all of them have the shape (1,)."""
        room = self._keys.shape[2]
        mask = (torch.arange(room, device=index.device) <= index)[None, None, None]
        cos, sin = (table[position][:, None] for table in self._turns)
        hidden = self._text.embed(token)
        for number, layer in enumerate(self._text.layers):
            query, key, value = layer.heads(hidden, cos, sin)
            keys, values = self._keys[number], self._values[number]
            keys.index_copy_(1, index, key.transpose(0, 1))
            values.index_copy_(1, index, value.transpose(0, 1))
            query = query.transpose(0, 1)[None]
            seen = layer.attend(query, keys[None], values[None], mask)
            hidden = layer.finish(hidden, seen[0].transpose(0, 1))
        return self._text.logits(hidden)[0]
