# SPDX-License-Identifier: Apache-2.0
"""Guesses of the next tokens for vLLM, in its own processes: in ours, or in a server's.

A server takes them too, where this package can be imported::

    --speculative-config '{"method": "custom_class", "num_speculative_tokens": 8,
        "model": "segzero_core.reasoners.vllm_drafts.Proposer"}'

vLLM's own prompt lookup (``ngram``) knows the sentence at hand only, in which little of an answer
is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.tokenizers import cached_tokenizer_from_config

from segzero_core.reasoners.decode.prompt_lookup import PromptLookup

_LONGEST_QUESTION = 256  # tokens at the end of a prompt that are remembered


def speculation(drafts: int) -> dict[str, Any] | None:
    """Return vLLM's ``speculative_config`` for guesses of at most ``drafts`` tokens; 0 = none."""
    if not drafts:
        return None
    return {
        'method': 'custom_class',
        'model': f'{Proposer.__module__}.{Proposer.__name__}',
        'num_speculative_tokens': drafts,
    }


class Proposer:
    """What followed the last time a reply or a question ended like this, see ``PromptLookup``.

    Whatever is guessed, vLLM keeps only what the model would have written itself.
    """

    def __init__(self, vllm_config: Any) -> None:
        """Remember nothing yet; called by vLLM with its ``VllmConfig``."""
        vocabulary = cached_tokenizer_from_config(vllm_config.model_config).get_vocab()
        numbers = {token for text, token in vocabulary.items() if text.isdecimal()}
        self._most = vllm_config.speculative_config.num_speculative_tokens
        self._drafts = PromptLookup(numbers, self._most)
        self._replies: dict[int, _Reply] = {}  # by their row in vLLM's batch

    def load_model(self, *_: Any) -> None:
        """There is no model; vLLM on a CPU calls this."""

    def propose(
        self,
        sampled_token_ids: Sequence[Sequence[int]],
        num_tokens_no_spec: Any,
        token_ids_cpu: Any,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Return a guess for each row of the batch.

        Args:
            sampled_token_ids: What each row was given in this step; nothing in the middle of a
                prompt.
            num_tokens_no_spec: (R,) integers, tokens each row has with those.
            token_ids_cpu: (R, T) int32, these tokens.
            slot_mappings: Of no use here.
        """
        rows = range(len(sampled_token_ids))
        texts = [token_ids_cpu[row, : num_tokens_no_spec[row]] for row in rows]
        going_on = {
            row
            for row, reply in self._replies.items()
            if row in rows and reply.goes_on(sampled_token_ids[row], texts[row])
        }
        for row in self._replies.keys() - going_on:
            self._drafts.add(self._replies.pop(row).tokens)
        return [
            self._guess(row, tokens, texts[row]) if len(tokens) else []
            for row, tokens in enumerate(sampled_token_ids)
        ]

    def _guess(self, row: int, written: Sequence[int], text: Any) -> list[int]:
        reply = self._replies.get(row)
        if reply is None:
            reply = self._replies[row] = _Reply(self._drafts.fork(self._drafts.limit))
            question = text[: len(text) - len(written)][-_LONGEST_QUESTION:]
            reply.drafts.add(question.tolist())
        reply.add(written, len(text))
        return reply.drafts.propose(self._most)


class _Reply:
    """What is being written in a row of the batch. vLLM does not say whose row it is."""

    def __init__(self, drafts: PromptLookup) -> None:
        self.drafts = drafts
        self.tokens: list[int] = []
        self._length = 0  # with its prompt

    def goes_on(self, written: Sequence[int], text: Any) -> bool:
        """Return whether ``text``, which ends with what was just ``written``, may be this one."""
        before = len(text) - len(written)
        if not len(written) or before != self._length:
            return False
        return bool(text[before - 1] == self.tokens[-1])

    def add(self, written: Sequence[int], length: int) -> None:
        tokens = [int(token) for token in written]
        self.tokens += tokens
        self.drafts.add(tokens)
        self._length = length
