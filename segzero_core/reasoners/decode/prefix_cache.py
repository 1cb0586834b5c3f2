# SPDX-License-Identifier: Apache-2.0
"""Keys and values of what has been read and written, and how they are continued.

They lie in buffers of their final size. What a new prompt has in common with the last one, an
image and its system turn for instance, is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from segzero_core.reasoners.decode.cuda_graph import CompiledStep
from segzero_core.reasoners.decode.kv_cache import KVCache
from segzero_core.reasoners.decode.prefill import Given, Prefill
from segzero_core.reasoners.decode.text_model import TextModel
from segzero_core.runtime.torch_compile import go_on_without
from segzero_core.runtime.torchscript import Traced

_STEP = 512  # tokens; buffers grow by multiples of this


class PrefixCache:
    """One sequence of tokens.

    Attributes:
        text: The layers.
        step: Computes the next tokens with them; see ``TextModel.step``.
        cache: Their keys and values, of one row.
        length: Tokens that have been computed and are remembered.
        shift: Position of a token of text minus its index: an image takes fewer positions than
            it has tokens.
    """

    def __init__(self, model: Any, compiler: str = '', most: int = 1) -> None:
        """Use the weights of a model.

        Args:
            model: A Qwen2-VL, Qwen2.5-VL or Qwen3-VL in evaluation mode. On a CPU it may be left
                without weights; see ``TextModel``.
            compiler: Backend of ``torch.compile``; '' = do not compile.
            most: What is compiled is two steps, one for a single token and one for so many.

        Raises:
            ModelLoadError: See ``TextModel``.
        """
        self._compiler = compiler
        self._compiled: dict[int, CompiledStep] = {}
        self._most = most
        # Neither can be compiled: packed weights, and what is recorded.
        self.text = TextModel(model, pack=not compiler)
        self.step: Callable[..., torch.Tensor] = self.text.step
        if self.text.packed:  # else it depends on how many tokens there are
            self.step = Traced(self.text.step, 'language model', any_shape=True)
        self._reader = Prefill(model, self.text)
        self.length = self.shift = 0
        self.cache = KVCache(self.text, _STEP)

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
        self.cache.reserve(len(given.hidden) + room, given.hidden)
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
        first, last, cache = self.length, self.length + len(tokens), self.cache
        cache.reserve(last, cache.keys)
        if self._compiler and (found := self._by_compiled(tokens)) is not None:
            self.length = last
            return found[-wanted:]
        self.length = last
        return self.step(
            torch.tensor(tokens, device=self.device),
            *cache.turns(slice(first + self.shift, last + self.shift)),
            torch.arange(first, last, device=self.device),
            torch.arange(len(tokens) - wanted, len(tokens), device=self.device),
            cache.keys[:, :, :last],
            cache.values[:, :, :last],
            # The only token may look at everything.
            *([_mask(len(tokens), last, cache.keys)] if len(tokens) > 1 else []),
        )

    def _read(self, given: Given, wanted: int) -> torch.Tensor:
        """Return (wanted, vocabulary) logits of the last tokens, before which there is nothing."""
        hidden, count = given.hidden, len(given.hidden)
        mask = None
        for index, layer in enumerate(self.text.layers):
            query, key, value = layer.heads(hidden, *given.turns)
            key, value = key.transpose(0, 1), value.transpose(0, 1)
            self.cache.keys[index, :, :count] = key
            self.cache.values[index, :, :count] = value
            final = index == len(self.text.layers) - 1
            if final:  # nothing looks at the others any more
                query, hidden = query[-wanted:], hidden[-wanted:]
                mask = _mask(wanted, count, hidden) if wanted > 1 else None
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
        if len(tokens) > count or self.length + count > self.cache.room:
            return None
        step = self._compiled.get(count)
        if step is None or not step.fits(self.cache):
            step = CompiledStep(self.text, self.cache, count, self._compiler)
            self._compiled[count] = step
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


def _mask(count: int, last: int, like: torch.Tensor) -> torch.Tensor:
    """Return (1, 1, count, last), what is added to the scores of the last ``count`` tokens."""
    return like.new_full((1, 1, count, last), -torch.inf).triu(last - count + 1)
