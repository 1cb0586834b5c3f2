# SPDX-License-Identifier: Apache-2.0
"""Greedy generation with a Qwen-VL that computes what prompts have in common only once."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from segzero_core.answers.parse import Answer, format_answer
from segzero_core.reasoners.base import Reply
from segzero_core.reasoners.decode.detokenizer import Detokenizer
from segzero_core.reasoners.decode.prefix_cache import PrefixCache
from segzero_core.reasoners.decode.prompt_lookup import PromptLookup
from segzero_core.reasoners.decode.sequence import GeneratedSequence, verify
from segzero_core.reasoners.decode.tree_batch import TreeBatch, TreeBranch
from segzero_core.reasoners.qwen_processor import tokens_with_image
from segzero_core.reasoners.streaming import answer_end
from segzero_core.types import Box, Point

# Drafts are looked up in this answer until the model has written one.
_ANSWER = format_answer(Answer(Box(10, 20, 30, 40), (Point(15, 25), Point(20, 30))))
# Questions with more tokens than this fill the CPU's arithmetic units alone: they are computed one
# by one, and only shorter ones side by side.
_SHORT_QUESTION = 32
_PIECES = 4096  # decoded texts of single tokens to keep; a tokenizer takes 0.04 ms for each


class EncodedPrompt(NamedTuple):
    """A prompt to continue.

    Attributes:
        frame: Key of the image: equal for equal images, and only for them.
        text: The prompt with one image token, not yet repeated; it ends with ``written``.
        written: The part of the reply that is already there.
        encode: Returns the model's inputs for text and image; called only for a new image.
        end_of: Returns where a reply, which begins with ``written``, is complete, or -1.
    """

    frame: bytes
    text: str
    written: str
    encode: Callable[[], Any]
    end_of: Callable[[str], int] = answer_end


class DecodeEngine:
    """Continues prompts about images; remembers the last prompt and its image.

    The image comes before the question, so a second question about a frame computes its own words
    only. After any exception, the remembered prompt is forgotten: the next prompt is computed as
    by a new engine.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: Any,
        backend: str = '',
        num_draft_tokens: int = 0,
    ) -> None:
        """Generate with ``model`` until one of its end tokens.

        Args:
            model: See ``PrefixCache``.
            tokenizer: Of the same checkpoint.
            settings: A ``GenerationConfig``, for its end tokens and its repetition penalty.
            backend: Of ``torch.compile``; '' = do not compile.
            num_draft_tokens: Maximum number of draft tokens per step; see ``PromptLookup``.

        Raises:
            ModelLoadError: See ``PrefixCache``.
        """
        self.cache = PrefixCache(model, backend, 1 + num_draft_tokens)
        numbers = {token for text, token in tokenizer.get_vocab().items() if text.isdecimal()}
        self.drafts = PromptLookup(numbers, num_draft_tokens)
        self.drafts.add(tokenizer(_ANSWER).input_ids)
        self._tokenizer = tokenizer
        self._decode = functools.partial(
            tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        self._piece = functools.lru_cache(_PIECES)(self._decode)
        ends = settings.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        self.penalty = float(settings.repetition_penalty or 1.0)
        self._image_id = int(model.config.image_token_id)
        self._vocabulary = int(model.lm_head.out_features)

    def generate(self, prompt: EncodedPrompt, max_tokens: int) -> Iterator[Reply]:
        """Yield the text after ``prompt``, piece by piece, of at most ``max_tokens`` tokens.

        The iterator may be closed at any piece. The last piece, which may be without text, has the
        ``finish_reason``.
        """
        with self.cache.forgotten_on_error():
            reply, logits = self._begin(prompt, max_tokens)
        length = len(self.cache.state.tokens) - len(reply.draft)  # of the prompt
        text, pending = Detokenizer(self._piece), 0
        while True:
            with self.cache.forgotten_on_error():
                accepted = reply.accept(*self.verify(logits, [reply]))
                # The last accepted token is not computed yet; rejected draft tokens are forgotten.
                self.cache.truncate(length + len(reply.tokens) - 1)
            for token in accepted:
                pending += 1
                if piece := text.add(token):
                    yield Reply(piece, '', pending)
                    pending = 0
            if reply.ended:
                break
            with self.cache.forgotten_on_error():
                ahead = reply.look_ahead(self.drafts.limit)
                logits = self.cache.extend(ahead, len(ahead))
        yield Reply(text.flush(), reply.finish_reason, pending)

    def generate_batch(self, prompts: Sequence[EncodedPrompt], max_tokens: int) -> list[Reply]:
        """Return the text after each of several prompts, generated side by side.

        Args:
            prompts: Those about the same image share its keys and values.
            max_tokens: Maximum number of tokens after each.

        Returns:
            Replies that end with their answers, or a few characters behind.
        """
        with self.cache.forgotten_on_error():
            return self._generate_batch(prompts, max_tokens)

    def verify(
        self, logits: torch.Tensor, replies: Sequence[GeneratedSequence]
    ) -> list[list[int]]:
        """Return the tokens that the model adds to each of ``replies``; see ``verify``."""
        return verify(logits, replies, self.penalty)

    def _generate_batch(self, prompts: Sequence[EncodedPrompt], max_tokens: int) -> list[Reply]:
        # On a CPU a step of many tokens is bound by arithmetic: with more prompts, draft less.
        limit = self.drafts.limit // max(1, len(prompts))
        active = self._by_frame(prompts)
        batch = TreeBatch(self.cache, Counter(prompt.frame for prompt in prompts).values())
        replies: dict[int, GeneratedSequence] = {}
        branches: dict[int, TreeBranch] = {}
        ahead: dict[int, list[int]] = {}
        for index in active:
            tokens, branches[index], ahead[index] = self._branch(batch, prompts[index], max_tokens)
            replies[index] = self._reply(self.drafts.fork(limit), tokens, max_tokens)
        while active:
            logits = batch.extend(
                [branches[index] for index in active],
                [ahead[index] for index in active],
                [1 + len(replies[index].draft) for index in active],
            )
            accepted = self.verify(logits, [replies[index] for index in active])
            for index, tokens in zip(active, accepted, strict=True):
                batch.truncate(branches[index], 1 + len(replies[index].draft) - len(tokens))
                self._accept(replies[index], tokens, prompts[index])
                if replies[index].ended:
                    batch.remove(branches[index])
            active = [index for index in active if not replies[index].ended]
            ahead = {index: replies[index].look_ahead(limit) for index in active}
        if limit:
            for reply in replies.values():
                self.drafts.add(reply.tokens)
        return [
            Reply(self._decode(reply.tokens), reply.finish_reason, len(reply.tokens))
            for _, reply in sorted(replies.items())
        ]

    def _begin(
        self, prompt: EncodedPrompt, max_tokens: int
    ) -> tuple[GeneratedSequence, torch.Tensor]:
        """Compute ``prompt`` and a draft; return the reply with it, and the logits after each."""
        tokens, same = self._match(prompt)
        if same:
            reply = self._reply(self.drafts, tokens, max_tokens)
            ahead = reply.look_ahead(self.drafts.limit)
            return reply, self.cache.extend([*tokens[same:], *ahead], 1 + len(ahead))
        inputs = prompt.encode()
        reply = self._reply(self.drafts, inputs['input_ids'][0].tolist(), max_tokens)
        ahead = reply.look_ahead(self.drafts.limit)
        return reply, self.cache.prefill(prompt.frame, inputs, max_tokens, ahead)

    def _branch(
        self, batch: TreeBatch, prompt: EncodedPrompt, max_tokens: int
    ) -> tuple[list[int], TreeBranch, list[int]]:
        """Return the prompt's tokens, a branch for it, and which of them are not computed yet."""
        tokens, same = self._match(prompt)
        if not same:
            inputs = prompt.encode()
            tokens = inputs['input_ids'][0].tolist()
            self.cache.prefill(prompt.frame, inputs, max_tokens)
            same = len(tokens) - 1
            self.cache.truncate(same)
        batch.open_row(self.cache.prefills)
        if len(tokens) - same > _SHORT_QUESTION:
            self.cache.extend(tokens[same:-1])
        branch = batch.add(same)
        left = tokens[len(self.cache.state.tokens) :]
        self.cache.truncate(same)
        return tokens, branch, left

    def _match(self, prompt: EncodedPrompt) -> tuple[list[int], int]:
        """Return the prompt's tokens and how many of them are in the cache; 0 = none."""
        state = self.cache.state
        if prompt.frame != state.frame:
            return [], 0
        repeats = state.tokens.count(self._image_id)
        tokens = tokens_with_image(self._tokenizer, prompt.text, repeats, self._image_id)
        return tokens, self.cache.match(prompt.frame, tokens)

    def _reply(
        self, drafts: PromptLookup, prompt: list[int], max_tokens: int
    ) -> GeneratedSequence:
        """Return an empty reply after the tokens of ``prompt``."""
        drafts.add(prompt[len(prompt) - prompt[::-1].index(self._image_id) :])
        reply = GeneratedSequence(drafts, self._ends, max_tokens)
        if self.penalty != 1:
            reply.seen = torch.zeros(self._vocabulary, dtype=torch.bool, device=self.cache.device)
            reply.seen[prompt] = True
        return reply

    def _accept(self, reply: GeneratedSequence, tokens: list[int], prompt: EncodedPrompt) -> None:
        """Add ``tokens`` to the reply to ``prompt``; notice its answer."""
        length = len(reply.tokens)
        accepted = reply.accept(tokens)
        if self._closing_tokens.isdisjoint(accepted):
            return
        for end in range(length + 1, len(reply.tokens) + 1):
            if prompt.end_of(prompt.written + self._decode(reply.tokens[:end])) >= 0:
                del reply.tokens[end:]  # drafted text behind the answer
                reply.ended, reply.finish_reason = True, 'stop'
                return

    def _by_frame(self, prompts: Sequence[EncodedPrompt]) -> list[int]:
        """Return the prompts' indices, those of an image together, the cached image's first."""
        frames = dict.fromkeys((self.cache.state.frame, *(prompt.frame for prompt in prompts)))
        places = {frame: place for place, frame in enumerate(frames)}
        return sorted(range(len(prompts)), key=lambda index: places[prompts[index].frame])

    @functools.cached_property
    def _closing_tokens(self) -> set[int]:
        """The tokens that can complete ``</answer>``."""
        vocabulary = self._tokenizer.get_vocab().items()
        return {
            token
            for text, token in ((each.lower(), token) for each, token in vocabulary)
            if '</answer>' in text or '</answer>'.endswith(text[: text.rfind('>') + 1] or ' ')
        }
