# SPDX-License-Identifier: Apache-2.0
"""Greedy writing with a Qwen-VL that reads what it has read before only once."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from segzero_core.answers.parse import Answer, format_answer
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.decode.prefix_cache import PrefixCache
from segzero_core.reasoners.decode.prompt_lookup import PromptLookup
from segzero_core.reasoners.decode.sequence import GeneratedSequence, choose
from segzero_core.reasoners.decode.tree_batch import TreeBatch, TreeBranch
from segzero_core.reasoners.qwen_processor import tokens_with_image
from segzero_core.reasoners.streaming import answer_end
from segzero_core.types import Box, Point

# What guesses begin with, before there has been an answer.
_ANSWER = format_answer(Answer(Box(10, 20, 30, 40), (Point(15, 25), Point(20, 30))))
# Tokens of a question; longer ones fill a CPU's caches alone, and are not read side by side.
_SHORT = 32
_PIECES = 4096  # texts of single tokens that are remembered: a tokenizer takes 0.04 ms for each


class TokenText:
    """Turns tokens into text, whole characters at a time: some take several tokens."""

    def __init__(self, decode: Callable[[tuple[int, ...]], str]) -> None:
        self._decode = decode
        self._waiting: tuple[int, ...] = ()

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes; '' if it only begins a character."""
        self._waiting += (token,)
        text = self._decode(self._waiting)
        # A replacement character at the end is mostly the first half of a character: wait.
        if not text or text.endswith('\ufffd'):
            return ''
        self._waiting = ()
        return text

    def rest(self) -> str:
        """Return what was still waiting when the tokens ended."""
        text, self._waiting = self._decode(self._waiting), ()
        return text


class EncodedPrompt(NamedTuple):
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


class DecodeEngine:
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
            model: See ``PrefixCache``.
            tokenizer: Of the same checkpoint.
            settings: A ``GenerationConfig``, for its end tokens and its repetition penalty.
            compiler: See ``PrefixCache``.
            drafts: Most tokens that are guessed and then checked at once; see ``PromptLookup``.

        Raises:
            ModelLoadError: See ``PrefixCache``.
        """
        self._decoder = PrefixCache(model, compiler, 1 + drafts)
        numbers = {token for text, token in tokenizer.get_vocab().items() if text.isdecimal()}
        self._drafts = PromptLookup(numbers, drafts)
        self._drafts.add(tokenizer(_ANSWER).input_ids)
        self._tokenizer = tokenizer
        self._decode = functools.partial(
            tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        self._piece = functools.lru_cache(_PIECES)(self._decode)
        ends = settings.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        self._penalty = float(settings.repetition_penalty or 1.0)
        self._image_id = int(model.config.image_token_id)
        self._vocabulary = int(model.lm_head.out_features)
        self._frame = b''
        self._images = 0  # that have been read
        self._tokens: list[int] = []  # of the last prompt and what was written after it
        self._image_end = 0  # tokens up to the end of the image

    def write(self, prompt: EncodedPrompt, count: int) -> Iterator[Reply]:
        """Yield what comes after ``prompt``, piece by piece, at most ``count`` tokens."""
        most = self._drafts.most
        if same := self._reuse(prompt):
            reply = self._begin(self._drafts, count)
            rest = [*self._tokens[same:], *reply.look_ahead(most)]
            logits = self._decoder.go_on(rest, 1 + len(reply.guess))
        else:
            inputs = self._encode(prompt)
            reply = self._begin(self._drafts, count)
            logits = self._decoder.start(inputs, count, reply.look_ahead(most))
            self._frame = prompt.frame
        text, unsaid = TokenText(self._piece), 0
        while True:
            written = reply.take(*self._choose(logits, [reply]))
            # First, for whoever reads the pieces may stop at any of them. The last token is not
            # computed yet, what else was guessed is not remembered.
            self._tokens += written
            self._decoder.cut(len(self._tokens) - 1)
            for token in written:
                unsaid += 1
                if piece := text.add(token):
                    yield Reply(piece, '', unsaid)
                    unsaid = 0
            if reply.ended:
                break
            ahead = reply.look_ahead(most)
            logits = self._decoder.go_on(ahead, len(ahead))
        yield Reply(text.rest(), reply.finish_reason, unsaid)

    def write_all(self, prompts: Sequence[EncodedPrompt], count: int) -> list[Reply]:
        """Return what comes after each of several prompts, written side by side.

        Args:
            prompts: Those about one image share what they have in common.
            count: Most tokens to write after each.

        Returns:
            Texts that end with their answers, or a few characters behind.
        """
        # On a CPU many tokens are bound by arithmetic: the more sentences, the less is guessed.
        most = self._drafts.most // max(1, len(prompts))
        going = self._by_frame(prompts)
        branches = TreeBatch(self._decoder, Counter(prompt.frame for prompt in prompts).values())
        replies: dict[int, GeneratedSequence] = {}
        found: dict[int, TreeBranch] = {}
        ahead: dict[int, list[int]] = {}
        for index in going:
            found[index], ahead[index] = self._branch_off(branches, prompts[index], count)
            replies[index] = self._begin(self._drafts.fork(most), count)
        while going:
            logits = branches.go_on(
                [found[index] for index in going],
                [ahead[index] for index in going],
                [1 + len(replies[index].guess) for index in going],
            )
            agreed = self._choose(logits, [replies[index] for index in going])
            for index, tokens in zip(going, agreed, strict=True):
                branches.cut(found[index], 1 + len(replies[index].guess) - len(tokens))
                self._take(replies[index], tokens, prompts[index].written)
                if replies[index].ended:
                    branches.end(found[index])
            going = [index for index in going if not replies[index].ended]
            ahead = {index: replies[index].look_ahead(most) for index in going}
        if most:
            for reply in replies.values():
                self._drafts.add(reply.tokens)
        found_replies = [replies[index] for index in range(len(prompts))]
        return [
            Reply(self._decode(reply.tokens), reply.finish_reason, len(reply.tokens))
            for reply in found_replies
        ]

    def _branch_off(
        self, branches: TreeBatch, prompt: EncodedPrompt, count: int
    ) -> tuple[TreeBranch, list[int]]:
        """Return a branch for the prompt, and which of its tokens are still to be computed."""
        same = self._reuse(prompt)
        if not same:
            self._decoder.start(self._encode(prompt), count)
            self._frame, same = prompt.frame, len(self._tokens) - 1
            self._decoder.cut(same)
        branches.open_row(self._images)
        if len(self._tokens) - same > _SHORT:
            self._decoder.go_on(self._tokens[same:-1])
        branch = branches.add(same)
        left = self._tokens[self._decoder.length :]
        self._decoder.cut(same)
        return branch, left

    def _reuse(self, prompt: EncodedPrompt) -> int:
        """Return how many tokens of the prompt are computed, and remember just those; or 0."""
        if prompt.frame != self._frame:
            return 0
        repeats = self._tokens.count(self._image_id)
        tokens = tokens_with_image(self._tokenizer, prompt.text, repeats, self._image_id)
        # The last token is computed again if need be: its logits are what is wanted.
        same = min(_common(tokens, self._tokens), self._decoder.length, len(tokens) - 1)
        if same < self._image_end:
            return 0
        self._decoder.cut(same)
        self._tokens = tokens
        return same

    def _encode(self, prompt: EncodedPrompt) -> Any:
        """Return the model's inputs for the prompt, and remember its tokens."""
        inputs = prompt.encode()
        self._images += 1
        self._frame = b''  # until the new one is computed
        self._tokens = inputs['input_ids'][0].tolist()
        backwards = self._tokens[::-1]
        self._image_end = len(backwards) - backwards.index(self._image_id)
        return inputs

    def _begin(self, drafts: PromptLookup, count: int) -> GeneratedSequence:
        """Return what is to be written after the prompt whose tokens are remembered."""
        drafts.add(self._tokens[self._image_end :])
        reply = GeneratedSequence(drafts, self._ends, count)
        if self._penalty != 1:
            reply.seen = torch.zeros(
                self._vocabulary, dtype=torch.bool, device=self._decoder.device
            )
            reply.seen[self._tokens] = True
        return reply

    def _take(self, reply: GeneratedSequence, tokens: list[int], before: str) -> None:
        """Take what comes next in a reply that begins with the text ``before``."""
        written = reply.take(tokens)
        closing = not self._closing.isdisjoint(written)
        if closing and answer_end(before + self._decode(reply.tokens)) >= 0:
            reply.ended, reply.finish_reason = True, 'stop'

    def _by_frame(self, prompts: Sequence[EncodedPrompt]) -> list[int]:
        """Return the order in which each image is read only once, the one that is there first."""
        frames = dict.fromkeys((self._frame, *(prompt.frame for prompt in prompts)))
        places = {frame: place for place, frame in enumerate(frames)}
        return sorted(range(len(prompts)), key=lambda index: places[prompts[index].frame])

    @functools.cached_property
    def _closing(self) -> set[int]:
        """The tokens that can complete ``</answer>``."""
        return {
            token
            for text, token in self._tokenizer.get_vocab().items()
            if '</answer>' in text or '</answer>'.endswith(text[: text.rfind('>') + 1] or ' ')
        }

    def _choose(self, logits: torch.Tensor, going: Sequence[GeneratedSequence]) -> list[list[int]]:
        return choose(logits, going, self._penalty)


def _common(first: list[int], second: list[int]) -> int:
    """Return how many tokens two sequences have in common at their beginnings."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
