# SPDX-License-Identifier: Apache-2.0
"""Greedy writing with a Qwen-VL that reads what it has read before only once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from segzero_core.answer import Answer, format_answer
from segzero_core.reasoners.decoding import CachedDecoder, Rows
from segzero_core.reasoners.drafts import Drafts
from segzero_core.reasoners.qwen_processor import tokens_with_image
from segzero_core.reasoners.reply import answer_end
from segzero_core.types import Box, Point

# What guesses begin with, before there has been an answer.
_ANSWER = format_answer(Answer(Box(10, 20, 30, 40), (Point(15, 25), Point(20, 30))))
_GONE = 0.75  # of the rows of a batch; when fewer are left, the others are taken out


class TokenText:
    """Turns tokens into text, whole characters at a time: some take several tokens."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._waiting: list[int] = []

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes; '' if it only begins a character."""
        self._waiting.append(token)
        text = self._decode(self._waiting)
        # A replacement character at the end is mostly the first half of a character: wait.
        if not text or text.endswith('\ufffd'):
            return ''
        self._waiting = []
        return text

    def rest(self) -> str:
        """Return what was still waiting when the tokens ended."""
        text, self._waiting = self._decode(self._waiting), []
        return text


class Prompt(NamedTuple):
    """What is to be continued.

    Attributes:
        frame: Equal for equal images, and only for them.
        text: With one image token, not yet repeated; it ends with ``written``.
        written: The part of the reply that is already there.
        encode: Returns the model's inputs for text and image; only called for a new image.
    """

    frame: bytes
    text: str
    written: str
    encode: Callable[[], Any]


class Writer:
    """Continues prompts about images. Remembers the last one, text and image.

    The beginning that a prompt has in common with the last one about the same image is not
    computed again, and neither are the image's patches: the image comes before the question, so a
    second sentence about a frame costs its own words only.
    """

    def __init__(
        self, model: Any, tokenizer: Any, settings: Any, compiler: str = '', drafts: int = 0
    ) -> None:
        """Write with ``model`` until one of its end tokens.

        Args:
            model: See ``CachedDecoder``.
            tokenizer: Of the same checkpoint.
            settings: A ``GenerationConfig``, for its end tokens and its repetition penalty.
            compiler: See ``CachedDecoder``.
            drafts: Most tokens that are guessed and then checked at once; see ``Drafts``.

        Raises:
            ModelLoadError: See ``CachedDecoder``.
        """
        self._decoder = CachedDecoder(model, compiler, 1 + drafts)
        numbers = {token for text, token in tokenizer.get_vocab().items() if text.isdecimal()}
        self._drafts = Drafts(numbers, drafts)
        self._drafts.add(tokenizer(_ANSWER).input_ids)
        self._tokenizer = tokenizer
        ends = settings.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        self._penalty = float(settings.repetition_penalty or 1.0)
        self._image_id = int(model.config.image_token_id)
        self._frame = b''
        self._tokens: list[int] = []  # of the last prompt and what was written after it
        self._image_end = 0  # tokens up to the end of the image

    def write(self, prompt: Prompt, count: int) -> Iterator[str]:
        """Yield what comes after ``prompt``, piece by piece, at most ``count`` tokens."""
        rows, guess = self._read(prompt, count, guessing=True)
        seen = self._seen(rows[0])
        text = TokenText(self._decode)
        while True:
            tokens = self._agreed(rows, guess, seen)
            end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
            written = tokens[:end]
            # First, for whoever reads the pieces may stop at any of them.
            self._tokens += written
            # Only before an end has the last token been computed too.
            self._decoder.cut(len(self._tokens) - (1 if end is None else 0))
            self._drafts.add(written)
            for token in written:
                if piece := text.add(token):
                    yield piece
            count -= len(tokens)
            if end is not None or count <= 0:
                break
            # Where little of the last guess was right, a long one will hardly be.
            guess = self._drafts.next(min(count - 1, len(tokens) + 2))
            rows = self._decoder.go_on([*self._tokens[-1:], *guess], 1 + len(guess))
        if piece := text.rest():
            yield piece

    def _agreed(
        self, rows: torch.Tensor, guess: list[int], seen: torch.Tensor | None
    ) -> list[int]:
        """Return the tokens of ``guess`` that are what the model writes, and one more.

        Args:
            rows: (1 + n, vocabulary) logits, after the last token written and after each guessed.
            guess: n tokens.
            seen: See ``_choose``.
        """
        tokens: list[int] = []
        for row, guessed in zip(rows, (*guess, None), strict=True):
            tokens.append(int(self._choose(row, seen)))
            if tokens[-1] != guessed:
                break
        return tokens

    def write_all(self, prompts: Sequence[Prompt], count: int) -> list[str]:
        """Return what comes after each of several prompts, written side by side.

        Args:
            prompts: Those about one image share what they have in common.
            count: Most tokens to write after each.

        Returns:
            Texts that end with their answers, or a few characters behind.
        """
        rows, order = Rows(self._decoder.text, len(prompts)), self._by_frame(prompts)
        first, seen = [], []
        for index in order:
            first.append(self._read(prompts[index], count)[0][0])
            seen.append(self._seen(first[-1]))
            rows.add(self._decoder, count)
        logits = torch.stack(first)
        occurs = None if self._penalty == 1 else torch.stack(seen)
        going, ended = order, set()
        replies: list[list[int]] = [[] for _ in prompts]
        for number in range(count):
            tokens = self._choose(logits, occurs)
            for index, token in zip(going, tokens.tolist(), strict=True):
                if index not in ended and self._add(replies[index], token, prompts[index].written):
                    ended.add(index)
            left = [row for row, index in enumerate(going) if index not in ended]
            if not left or number + 1 == count:
                break
            if len(left) <= _GONE * len(going):
                rows.keep(left)
                going, tokens = [going[row] for row in left], tokens[left]
                occurs = None if occurs is None else occurs[left]
            logits = rows.step(tokens)
        return [self._decode(reply) for reply in replies]

    def _add(self, reply: list[int], token: int, written: str) -> bool:
        """Add a token to what comes after ``written``, and return whether the reply has ended."""
        if token in self._ends:
            return True
        reply.append(token)
        return token in self._closing and answer_end(written + self._decode(reply)) >= 0

    def _by_frame(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the order in which each image is read only once, the one that is there first."""
        frames = dict.fromkeys((self._frame, *(prompt.frame for prompt in prompts)))
        places = {frame: place for place, frame in enumerate(frames)}
        return sorted(range(len(prompts)), key=lambda index: places[prompts[index].frame])

    def _read(
        self, prompt: Prompt, count: int, guessing: bool = False
    ) -> tuple[torch.Tensor, list[int]]:
        """Read the prompt, with room for ``count`` tokens.

        Returns:
            (1 + n, vocabulary) logits after it and after each of n guessed tokens, and those.
        """
        if prompt.frame == self._frame:
            repeats = self._tokens.count(self._image_id)
            tokens = tokens_with_image(self._tokenizer, prompt.text, repeats, self._image_id)
            # The last token is computed again if need be: its logits are what is wanted.
            same = min(_common(tokens, self._tokens), self._decoder.length, len(tokens) - 1)
            if same >= self._image_end:
                self._decoder.cut(same)
                self._tokens = list(tokens)
                guess = self._guess(count, guessing)
                return self._decoder.go_on([*tokens[same:], *guess], 1 + len(guess)), guess
        inputs = prompt.encode()
        self._frame = b''  # until the new one is there
        self._tokens = inputs['input_ids'][0].tolist()
        backwards = self._tokens[::-1]
        self._image_end = len(backwards) - backwards.index(self._image_id)
        guess = self._guess(count, guessing)
        rows = self._decoder.start(inputs, count, guess)
        self._frame = prompt.frame
        return rows, guess

    def _guess(self, count: int, guessing: bool) -> list[int]:
        """Return what may follow the prompt, the first of ``count`` tokens to write."""
        self._drafts.add(self._tokens[self._image_end :])
        return self._drafts.next(count - 1) if guessing else []

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    @functools.cached_property
    def _closing(self) -> set[int]:
        """The tokens that can be the end of a tag."""
        return {token for text, token in self._tokenizer.get_vocab().items() if '>' in text}

    def _seen(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Return (vocabulary,) bool: which tokens occur; ``None`` if it does not matter."""
        if self._penalty == 1:
            return None
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[self._tokens] = True
        return seen

    def _choose(self, logits: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """Return the next token (...) for (..., vocabulary) logits, which occurs from now on."""
        if seen is None:
            return logits.argmax(-1)
        # As in the paper of CTRL (arXiv 1909.05858), and in transformers.
        logits = logits.float()
        punished = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
        token = torch.where(seen, punished, logits).argmax(-1)
        seen.scatter_(-1, token[..., None], True)
        return token


def _common(first: list[int], second: list[int]) -> int:
    """Return how many tokens two sequences have in common at their beginnings."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
