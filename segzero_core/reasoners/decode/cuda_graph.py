# SPDX-License-Identifier: Apache-2.0
"""A step of a few tokens, compiled, with buffers of a fixed size.

On CUDA the whole step is captured as one graph, so that it costs one launch instead of hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segzero_core.reasoners.decode.kv_cache import KVCache
from segzero_core.reasoners.decode.text_model import TextModel


class CompiledStep:
    """Computes the next tokens of one sequence, always the same number of them.

    Attention runs over the whole buffers, with a mask, so that shapes and addresses are the same
    at every call.
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
            text: The language model.
            cache: Of one row; the step writes into it.
            count: Number of tokens per call.
            backend: Of ``torch.compile``.
        """
        self._text, self._keys, self._values = text, cache.keys, cache.values
        self._capacity, self._rotary = cache.capacity, cache.rotary
        self._inputs = torch.zeros(3, count, dtype=torch.long, device=text.device)
        self._compute: Any = torch.compile(
            self._step, backend=backend, fullgraph=True, dynamic=False
        )
        self._graph: Any = None
        self._logits = torch.empty(0)

    def fits(self, cache: KVCache) -> bool:
        """Return whether ``cache`` still has the buffers it was compiled for."""
        return cache.keys is self._keys

    def __call__(self, tokens: Sequence[int], index: int, position: int) -> torch.Tensor:
        """Compute ``tokens``, the first of which has that index and position.

        Up to ``count`` places from ``index`` on are overwritten, also if there are fewer tokens.

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
        # Streams and graphs belong to the current device, which is the first one by default.
        with torch.cuda.device(self._keys.device):
            if self._graph is None:
                self._graph = self._capture()
            self._graph.replay()
        return self._logits

    def _capture(self) -> Any:
        """Compile and run the step, then return it as a CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Thread-local, because the segmenter's thread allocates memory and waits for its stream
        # at any time, which would end a capture in the default, global, mode.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            self._logits = self._compute(*self._inputs)
        return graph

    def _step(
        self, token: torch.Tensor, index: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        """Return (count, vocabulary) logits; all arguments are (count,) int64."""
        places = torch.arange(self._capacity, device=index.device)
        mask = torch.where(places <= index[:, None], 0, -torch.inf).to(self._keys.dtype)[
            None, None
        ]
        wanted = torch.arange(len(token), device=index.device)
        return self._text.step(
            token, *self._rotary(position), index, wanted, self._keys, self._values, mask
        )
