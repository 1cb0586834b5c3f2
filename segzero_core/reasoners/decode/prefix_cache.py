# SPDX-License-Identifier: Apache-2.0
"""One sequence of tokens whose keys and values are kept for the next prompt.

A worked example. The prompt about a frame is ``system | image | question 1``. After the reply, the
cache holds all of it and the reply. A second prompt about the same frame is
``system | image | question 2``: ``match`` truncates the cache to the tokens that both have in
common, ``extend`` computes the rest, and the image is not computed again.

State is committed after the work it describes: ``state.tokens`` always are the tokens whose keys
and values lie in the buffers, in order, whatever was interrupted and where. Computation writes
behind them only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from segzero_core.reasoners.decode.cuda_graph import CompiledStep
from segzero_core.reasoners.decode.kv_cache import KVCache
from segzero_core.reasoners.decode.prefill import PromptEmbedder, PromptEmbedding
from segzero_core.reasoners.decode.text_model import TextModel
from segzero_core.runtime.torch_compile import go_on_without
from segzero_core.runtime.torchscript import TracedFunction

_CHUNK = 512  # tokens; the buffers grow by multiples of this


class PrefixState(NamedTuple):
    """The tokens whose keys and values are in the buffers.

    Attributes:
        frame: Key of the image they are about; ``b''`` = there are none.
        tokens: Their ids.
        image_end: Number of tokens up to the end of the image, the system turn included.
        shift: Position of a token of text minus its index: an image has fewer positions than
            tokens.
    """

    frame: bytes = b''
    tokens: tuple[int, ...] = ()
    image_end: int = 0
    shift: int = 0


class PrefixCache:
    """Computes tokens of one sequence and keeps their keys and values.

    Attributes:
        text: The language model.
        step: ``TextModel.step``, possibly recorded.
        embedder: Runs the vision tower.
        cache: Keys and values, of one row.
        state: The tokens they belong to.
        prefills: Number of images read so far.
    """

    def __init__(self, model: Any, backend: str = '', draft_width: int = 1) -> None:
        """Use the weights of ``model``.

        Args:
            model: A Qwen2-VL, Qwen2.5-VL or Qwen3-VL in evaluation mode. On a CPU its language
                model may be left without weights; see ``TextModel``.
            backend: Of ``torch.compile``; '' = do not compile.
            draft_width: Two steps are compiled: one for a single token, one for this many.

        Raises:
            ModelLoadError: See ``TextModel``.
        """
        self._backend = backend
        self._compiled: dict[int, CompiledStep] = {}
        self._draft_width = draft_width
        # Neither packed weights nor a recording can be compiled.
        self.text = TextModel(model, pack=not backend)
        self.step: Callable[..., torch.Tensor] = self.text.step
        if not backend:
            self.step = TracedFunction(self.text.step, 'language model', any_shape=True)
        self.embedder = PromptEmbedder(model, self.text)
        self.cache = KVCache(self.text, _CHUNK)
        self.state = PrefixState()
        self.prefills = 0

    @property
    def device(self) -> torch.device:
        """Device of the language model."""
        return self.text.device

    @property
    def compiled_widths(self) -> set[int]:
        """Numbers of tokens for which a step has been compiled."""
        return set(self._compiled)

    def clear(self) -> None:
        """Forget everything; the buffers stay allocated."""
        self.state = PrefixState()

    @contextlib.contextmanager
    def forgotten_on_error(self) -> Iterator[None]:
        """Forget everything if the block raises anything, Ctrl-C and out of memory included."""
        try:
            yield
        except BaseException:
            self.clear()
            raise

    def match(self, frame: bytes, tokens: Sequence[int]) -> int:
        """Truncate to what a prompt begins with, and return its length; 0 = prefill it instead.

        Args:
            frame: Key of the prompt's image.
            tokens: (n,) ids of the prompt. At most n - 1 of them match, because the logits of the
                last one are wanted.
        """
        if frame != self.state.frame:
            return 0
        same = min(common_prefix(tokens, self.state.tokens), len(tokens) - 1)
        if same < self.state.image_end:
            return 0
        self.truncate(same)
        return same

    def truncate(self, length: int) -> None:
        """Forget all tokens from index ``length`` on."""
        self.state = self.state._replace(tokens=self.state.tokens[:length])

    @torch.inference_mode()
    def prefill(
        self, frame: bytes, inputs: Any, room: int, tokens: Sequence[int] = ()
    ) -> torch.Tensor:
        """Forget everything and compute a prompt with its image.

        Args:
            frame: Key of the image.
            inputs: The processor's output for one prompt: ``input_ids`` (1, n), pixels and so on.
            room: Number of tokens to be generated, so that no buffer has to grow later.
            tokens: (m,) ids of text to compute behind the prompt (a draft).

        Returns:
            (1 + m, vocabulary) logits after the prompt and after each of ``tokens``.
        """
        self.clear()
        self.prefills += 1
        prompt = inputs['input_ids'][0].tolist()
        given = self.embedder(inputs, tokens)
        self.cache.reserve(len(given.hidden) + room, given.hidden)
        logits = self._compute_prompt(given, 1 + len(tokens))
        image_end = self.embedder.image_end(prompt)
        self.state = PrefixState(frame, (*prompt, *tokens), image_end, given.shift)
        return logits

    @torch.inference_mode()
    def extend(self, tokens: Sequence[int], wanted: int = 1) -> torch.Tensor:
        """Compute text behind the tokens there are.

        Args:
            tokens: (n,) ids, at least one.
            wanted: Return the logits of this many of them, the last ones.

        Returns:
            (wanted, vocabulary) logits after each.
        """
        state, cache = self.state, self.cache
        first = len(state.tokens)
        last = first + len(tokens)
        cache.reserve(last, cache.keys)
        logits = self._extend_compiled(tokens) if self._backend else None
        if logits is None:
            logits = self.step(
                torch.tensor(tokens, device=self.device),
                *cache.rotary(slice(first + state.shift, last + state.shift)),
                torch.arange(first, last, device=self.device),
                torch.arange(len(tokens) - wanted, len(tokens), device=self.device),
                cache.keys[:, :, :last],
                cache.values[:, :, :last],
                # A single token may attend to everything.
                *([_causal_mask(len(tokens), last, cache.keys)] if len(tokens) > 1 else []),
            )
        self.state = state._replace(tokens=(*state.tokens, *tokens))
        return logits[-wanted:]

    def _compute_prompt(self, given: PromptEmbedding, wanted: int) -> torch.Tensor:
        """Return (wanted, vocabulary) logits of the last tokens of a sequence's beginning."""
        hidden, count = given.hidden, len(given.hidden)
        mask = None
        for index, layer in enumerate(self.text.layers):
            query, key, value = layer.project(hidden, *given.rotary)
            key, value = key.transpose(0, 1), value.transpose(0, 1)
            self.cache.keys[index, :, :count] = key
            self.cache.values[index, :, :count] = value
            final = index == len(self.text.layers) - 1
            if final:  # no later layer attends to the other tokens
                query, hidden = query[-wanted:], hidden[-wanted:]
                mask = _causal_mask(wanted, count, hidden) if wanted > 1 else None
            query = query.transpose(0, 1)[None]
            seen = layer.attend(query, key[None], value[None], mask, causal=not final)
            hidden = layer.finish(hidden, seen[0].transpose(0, 1))
            if index < len(given.deepstack) and not final:
                hidden[given.image] += given.deepstack[index]
        return self.text.logits(hidden)

    def _extend_compiled(self, tokens: Sequence[int]) -> torch.Tensor | None:
        """Return (n, vocabulary) logits of a compiled step; ``None`` if none has this width.

        After a failure to compile, nothing is compiled any more.
        """
        count, length = 1 if len(tokens) == 1 else self._draft_width, len(self.state.tokens)
        if len(tokens) > count or length + count > self.cache.capacity:
            return None
        step = self._compiled.get(count)
        if step is None or not step.fits(self.cache):
            step = CompiledStep(self.text, self.cache, count, self._backend)
            self._compiled[count] = step
        try:
            return step(tokens, length, length + self.state.shift)
        except RuntimeError as error:
            go_on_without('reasoner', error)
            self._backend, self._compiled = '', {}
            return None


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences have in common at their beginnings."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def _causal_mask(count: int, last: int, like: torch.Tensor) -> torch.Tensor:
    """Return (1, 1, count, last), to be added to the scores of the last ``count`` tokens."""
    return like.new_full((1, 1, count, last), -torch.inf).triu(last - count + 1)
