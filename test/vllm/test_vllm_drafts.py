# SPDX-License-Identifier: Apache-2.0
"""What the ``vllm`` reasoner guesses, and from what."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('vllm', reason='needs vLLM: make test-vllm')

from segzero_core.reasoners.vllm_drafts import Proposer, speculation

PROMPT = 'Find the mug. '
FIRST = 'A mug.<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56]}</answer>'
SECOND = 'A box.<answer>{"bbox": [1, 2, 3, 4], "points_1": [5, 6]}</answer>'


class Batch:
    """Vllm's batch: its rows are texts that grow."""

    def __init__(self, folder, most=8):
        from vllm.config import ModelConfig

        settings = SimpleNamespace(
            model_config=ModelConfig(model=str(folder)),
            speculative_config=SimpleNamespace(num_speculative_tokens=most),
        )
        self.proposer = Proposer(settings)
        from vllm.tokenizers import cached_tokenizer_from_config

        self.tokenizer = cached_tokenizer_from_config(settings.model_config)
        self.texts = np.zeros((4, 1000), np.int32)
        self.lengths = np.zeros(4, np.int32)

    def tokens(self, text):
        return self.tokenizer.encode(text)

    def to_the_first_digit(self, tokens):
        digits = [self.tokenizer.decode([token]).isdecimal() for token in tokens]
        return tokens[: digits.index(True) + 1]

    def begin(self, row, text):
        tokens = self.tokens(text)
        self.lengths[row] = len(tokens)
        self.texts[row, : len(tokens)] = tokens

    def step(self, *written):
        """Let each row go on; return the guesses."""
        for row, tokens in enumerate(written):
            end = self.lengths[row] + len(tokens)
            self.texts[row, self.lengths[row] : end] = tokens
            self.lengths[row] = end
        return self.proposer.propose(written, self.lengths, self.texts, slot_mappings=None)

    def write(self, row, text):
        """Let one row write ``text``, guesses that are right at once; return the steps."""
        tokens, steps, guess = self.tokens(text), 0, []
        while tokens:
            right = 0
            while right < min(len(guess), len(tokens)) and guess[right] == tokens[right]:
                right += 1
            written = [[] for _ in range(row + 1)]
            written[row], tokens = tokens[: right + 1], tokens[right + 1 :]
            guess = self.step(*written)[row]
            assert len(guess) <= 8
            steps += 1
        return steps


def test_a_reply_is_guessed_from_the_one_before_it_whatever_its_numbers(tiny_reasoner_dir):
    batch = Batch(tiny_reasoner_dir)
    batch.begin(0, PROMPT)
    first = batch.write(0, FIRST)
    batch.begin(0, PROMPT + 'Another. ')
    second = batch.write(0, SECOND)
    assert first > 0.7 * len(batch.tokens(FIRST))  # but for what it repeats itself
    assert second < 0.5 * len(batch.tokens(SECOND))


def test_rows_share_what_they_know_and_can_change_places(tiny_reasoner_dir):
    batch = Batch(tiny_reasoner_dir)
    batch.begin(0, PROMPT)
    batch.write(0, FIRST)
    batch.begin(0, PROMPT + 'Another. ')
    batch.begin(1, PROMPT + 'A third. ')
    known = batch.tokens(FIRST)
    start = len(batch.tokens('A mug.<answer>{"bbox": ['))
    # The first one is still in the middle of its prompt, and there is nothing to be guessed.
    guesses = batch.step([], batch.tokens('A box.<answer>{"bbox": ['))
    assert guesses == [[], batch.to_the_first_digit(known[start:])]
    # The first one is cancelled, and vLLM puts the second one into its row.
    batch.texts[0], batch.lengths[0] = batch.texts[1], batch.lengths[1]
    after = start + len(batch.tokens('28'))
    assert batch.step(batch.tokens('7')) == [batch.to_the_first_digit(known[after:])]


def test_no_drafts_are_no_speculation():
    assert speculation(0) is None
    assert speculation(3)['num_speculative_tokens'] == 3
