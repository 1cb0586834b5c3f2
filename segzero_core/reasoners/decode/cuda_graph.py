# SPDX-License-Identifier: Apache-2.0
"""A few tokens through compiled layers and buffers of a fixed size.

On CUDA the whole step is one graph besides, so that it costs one launch instead of hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segzero_core.reasoners.decode.kv_cache import KVCache
from segzero_core.reasoners.decode.text_model import TextModel


class CompiledStep:
    """The next tokens of one sequence, always as many, whose keys and values stay where they are.

    Attention runs over the whole buffers, with a mask: what is computed has the same shapes, and
    the same addresses, every time.
    """

    def __init__(
        self,
        text: TextModel,
        cache: KVCache,
        count: int,
        backend: str = 'inductor',
    ) -> None:
        """Compile for the buffers of ``cache``, which happens at the first call.

        Args:
            text: The layers.
            cache: Of one row; the step writes into it.
            count: How many tokens at a time.
            backend: Of ``torch.compile``.
        """
        self._text, self._keys, self._values = text, cache.keys, cache.values
        self._room, self._turns = cache.room, cache.turns
        self._inputs = torch.zeros(3, count, dtype=torch.long, device=text.device)
        self._compute: Any = torch.compile(
            self._step, backend=backend, fullgraph=True, dynamic=False
        )
        self._graph: Any = None
        self._logits = torch.empty(0)

    def fits(self, cache: KVCache) -> bool:
        """Return whether it still has the buffers it was compiled for."""
        return cache.keys is self._keys

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
        places = torch.arange(self._room, device=index.device)
        mask = torch.where(places <= index[:, None], 0, -torch.inf).to(self._keys.dtype)[
            None, None
        ]
        wanted = torch.arange(len(token), device=index.device)
        return self._text.step(
            token, *self._turns(position), index, wanted, self._keys, self._values, mask
        )
