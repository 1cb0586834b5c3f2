# SPDX-License-Identifier: Apache-2.0
"""Keys and values of what has been read and written, and how they are continued.

They lie in buffers of their final size. What a new prompt has in common with the last one, an
image and its system turn for instance, is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from segzero_core.compiling import go_on_without
from segzero_core.reasoners.compiled import CompiledStep
from segzero_core.reasoners.layers import TextLayers
from segzero_core.reasoners.reading import Given, Reader
from segzero_core.tracing import Traced

_ROOM = 512  # tokens; buffers grow by multiples of this


class CachedDecoder:
    """One sequence of tokens.

    Attributes:
        text: The layers.
        length: Tokens that have been computed and are remembered.
        shift: Position of a token of text minus its index: an image takes fewer positions than
            it has tokens.
        keys: (layers, heads, room, head width), the first ``length`` of which are computed.
        values: Likewise.
    """

    def __init__(self, model: Any, compiler: str = '', most: int = 1) -> None:
        """Use the weights of a model.

        Args:
            model: A Qwen2-VL, Qwen2.5-VL or Qwen3-VL in evaluation mode. On a CPU it may be left
                without weights; see ``TextLayers``.
            compiler: Backend of ``torch.compile``; '' = do not compile.
            most: What is compiled is two steps, one for a single token and one for so many.

        Raises:
            ModelLoadError: See ``TextLayers``.
        """
        self._compiler = compiler
        self._compiled: dict[int, CompiledStep] = {}
        self._most = most
        # Neither can be compiled: packed weights, and what is recorded.
        self.text = TextLayers(model, pack=not compiler)
        self._step: Callable[..., torch.Tensor] = self.text.step
        if self.text.packed:  # else it depends on how many tokens there are
            self._step = Traced(self.text.step, 'language model', any_shape=True)
        self._reader = Reader(model, self.text)
        self.length = self.shift = 0
        self.keys = self.values = torch.empty(0)
        self._turns = (torch.empty(0), torch.empty(0))

    @torch.inference_mode()
    def start(self, inputs: Any, room: int, tokens: Sequence[int] = ()) -> torch.Tensor:
        """Forget everything and compute a prompt with its image.

        Args:
            inputs: What the processor makes of one prompt: ``input_ids`` (1, n), pixels and so on.
            room: Tokens that will be written after it, so that no buffer has to grow.
            tokens: (m,) ids of text to compute behind the prompt.

        Returns:
            (1 + m, vocabulary) logits of what follows the prompt, and each of ``tokens``.
        """
        given = self._reader.read(inputs, tokens)
        self.length, self.shift = 0, given.shift
        self._reserve(len(given.hidden) + room, given.hidden)
        return self._read(given, 1 + len(tokens))

    @torch.inference_mode()
    def go_on(self, tokens: Sequence[int], wanted: int = 1) -> torch.Tensor:
        """Compute text that follows what has been computed.

        Args:
            tokens: (n,) ids, at least one.
            wanted: Of how many of them, the last ones, something is to be returned.

        Returns:
            (wanted, vocabulary) logits of what follows each.
        """
        first, last = self.length, self.length + len(tokens)
        if last > self.keys.shape[2]:
            self._reserve(last, self.keys)
        if self._compiler and (found := self._by_compiled(tokens)) is not None:
            self.length = last
            return found[-wanted:]
        self.length, device = last, self.keys.device
        turns = (table[first + self.shift : last + self.shift, None] for table in self._turns)
        return self._step(
            torch.tensor(tokens, device=device),
            *turns,
            torch.arange(first, last, device=device),
            torch.arange(len(tokens) - wanted, len(tokens), device=device),
            self.keys[:, :, :last],
            self.values[:, :, :last],
            # The only token may look at everything.
            *([_mask(len(tokens), last, device)] if len(tokens) > 1 else []),
        )

    def _read(self, given: Given, wanted: int) -> torch.Tensor:
        """Return (wanted, vocabulary) logits of the last tokens, before which there is nothing."""
        hidden, count = given.hidden, len(given.hidden)
        mask = None
        for index, layer in enumerate(self.text.layers):
            query, key, value = layer.heads(hidden, *given.turns)
            key, value = key.transpose(0, 1), value.transpose(0, 1)
            self.keys[index, :, :count], self.values[index, :, :count] = key, value
            final = index == len(self.text.layers) - 1
            if final:  # nothing looks at the others any more
                query, hidden = query[-wanted:], hidden[-wanted:]
                mask = _mask(wanted, count, hidden.device)
            query = query.transpose(0, 1)[None]
            seen = layer.attend(query, key[None], value[None], mask, causal=not final)
            hidden = layer.finish(hidden, seen[0].transpose(0, 1))
            if index < len(given.deeper) and not final:
                hidden[given.image] += given.deeper[index]
        self.length = count
        return self.text.logits(hidden)

    def _by_compiled(self, tokens: Sequence[int]) -> torch.Tensor | None:
        """Return (n, vocabulary) logits by a compiled step; None if there is none for so many.

        If it cannot be compiled, nothing is from now on.
        """
        count = 1 if len(tokens) == 1 else self._most
        if len(tokens) > count or self.length + count > self.keys.shape[2]:
            return None
        step = self._compiled.get(count)
        if step is None or not step.fits(self.keys):
            step = self._compiled[count] = CompiledStep(
                self.text, self.keys, self.values, self._turns, count, self._compiler
            )
        try:
            return step(tokens, self.length, self.length + self.shift)
        except RuntimeError as error:
            go_on_without('reasoner', error)
            self._compiler, self._compiled = '', {}
            return None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.text.device

    def cut(self, length: int) -> None:
        """Forget all tokens from number ``length`` on."""
        self.length = min(self.length, length)

    def _reserve(self, tokens: int, like: torch.Tensor) -> None:
        """Make room for so many tokens; ``like`` has their type and device."""
        old = self.keys, self.values
        if old[0].dim() > 1 and old[0].shape[2] >= tokens:
            return
        layers, heads, width = self.text.kept
        shape = (layers, heads, rounded(tokens), width)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        if old[0].dim() > 1:
            self.keys[:, :, : self.length] = old[0][:, :, : self.length]
            self.values[:, :, : self.length] = old[1][:, :, : self.length]
        self._turns = self.text.text_turns(shape[2], like)


def _mask(count: int, last: int, device: torch.device) -> torch.Tensor:
    """Return (count, last) bool: what the last ``count`` tokens may look at."""
    return torch.ones(count, last, dtype=torch.bool, device=device).tril(last - count)


def rounded(tokens: int) -> int:
    """Return for how many tokens room is made when it is needed for so many."""
    return -(-tokens // _ROOM) * _ROOM
