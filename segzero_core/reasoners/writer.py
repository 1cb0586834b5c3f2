# SPDX-License-Identifier: Apache-2.0
"""Greedy writing with a Qwen-VL that reads what it has read before only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from segzero_core.reasoners.decoding import CachedDecoder


class TokenText:
    """Turns tokens into text, whole characters at a time: some take several tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._waiting: list[int] = []

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes; '' if it only begins a character."""
        self._waiting.append(token)
        text = self._decode()
        # A replacement character at the end is mostly the first half of a character: wait.
        if not text or text.endswith('\ufffd'):
            return ''
        self._waiting = []
        return text

    def rest(self) -> str:
        """Return what was still waiting when the tokens ended."""
        text, self._waiting = self._decode(), []
        return text

    def _decode(self) -> str:
        return self._tokenizer.decode(
            self._waiting, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


class Writer:
    """Continues prompts about images. Remembers the last one, text and image.

    The beginning that a prompt has in common with the last one about the same image is not
    computed again, and neither are the image's patches: the image comes before the question, so a
    second sentence about a frame costs its own words only.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: Any) -> None:
        """Write with ``model`` until one of its end tokens.

        Args:
            model: See ``CachedDecoder``.
            tokenizer: Of the same checkpoint.
            settings: A ``GenerationConfig``, for its end tokens and its repetition penalty.

        Raises:
            ModelLoadError: See ``CachedDecoder``.
        """
        self._decoder = CachedDecoder(model)
        self._tokenizer = tokenizer
        ends = settings.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        self._penalty = float(settings.repetition_penalty or 1.0)
        self._image_token = tokenizer.decode([model.config.image_token_id])
        self._frame = b''
        self._tokens: list[int] = []  # of the last prompt and what was written after it
        self._image_end = 0  # tokens up to the end of the image

    def write(
        self, frame: bytes, prompt: str, encode: Callable[[], Any], count: int
    ) -> Iterator[str]:
        """Yield what comes after a prompt, piece by piece.

        Args:
            frame: Equal for equal images, and only for them.
            prompt: With one image token, not yet repeated.
            encode: Returns the model's inputs for prompt and image; only called for a new image.
            count: Most tokens to write.
        """
        logits = self._read(frame, prompt, encode, count)
        seen = self._seen(logits)
        text = TokenText(self._tokenizer)
        for number in range(count):
            if number:
                logits = self._decoder.go_on(self._tokens[-1:])
            token = int(self._choose(logits, seen))
            if token in self._ends:
                break
            self._tokens.append(token)
            if piece := text.add(token):
                yield piece
        if piece := text.rest():
            yield piece

    def _read(
        self, frame: bytes, prompt: str, encode: Callable[[], Any], count: int
    ) -> torch.Tensor:
        """Return the logits after the prompt."""
        if frame == self._frame:
            image = self._image_token * self._tokens.count(self._image_id)
            tokens = self._tokenizer(prompt.replace(self._image_token, image)).input_ids
            # The last token is computed again if need be: its logits are what is wanted.
            same = min(_common(tokens, self._tokens), self._decoder.length, len(tokens) - 1)
            if same >= self._image_end:
                self._decoder.cut(same)
                self._tokens = list(tokens)
                return self._decoder.go_on(tokens[same:])
        inputs = encode()
        self._frame = b''  # until the new one is there
        self._tokens = inputs['input_ids'][0].tolist()
        logits = self._decoder.start(inputs, count)
        backwards = self._tokens[::-1]
        self._image_end = len(backwards) - backwards.index(self._image_id)
        self._frame = frame
        return logits

    @property
    def _image_id(self) -> int:
        return self._tokenizer.convert_tokens_to_ids(self._image_token)

    def _seen(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Return (vocabulary,) bool: which tokens occur; ``None`` if it does not matter."""
        if self._penalty == 1:
            return None
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[self._tokens] = True
        return seen

    def _choose(self, logits: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        if seen is None:
            return logits.argmax()
        # As in the paper of CTRL (arXiv 1909.05858), and in transformers.
        logits = logits.float()
        punished = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
        token = torch.where(seen, punished, logits).argmax()
        seen[token] = True
        return token


def _common(first: list[int], second: list[int]) -> int:
    """Return how many tokens two sequences have in common at their beginnings."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
