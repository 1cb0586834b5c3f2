# SPDX-License-Identifier: Apache-2.0
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_core.reasoners.decode import prompt_lookup as drafts
from segzero_core.reasoners.decode.prompt_lookup import PromptLookup

DIGITS = range(10)
OPEN, COMMA, CLOSE, WORD, OTHER, END = range(20, 26)


def answer(*numbers: int) -> list[int]:
    """[12,345] and so on: each digit a token."""
    tokens = [OPEN]
    for number in numbers:
        tokens += [*map(int, str(number)), COMMA]
    return [*tokens[:-1], CLOSE]


def test_what_followed_the_last_time_is_guessed():
    guesses = PromptLookup(DIGITS, 4)
    guesses.add([WORD, OTHER, CLOSE, END, OPEN, WORD])
    assert guesses.propose(4) == []
    guesses.add([OTHER])
    assert guesses.propose(4) == [CLOSE, END, OPEN, WORD]
    assert guesses.propose(2) == [CLOSE, END]
    guesses.add([END, COMMA, WORD, OTHER])
    assert guesses.propose(4) == [END, COMMA, WORD, OTHER]  # what was last, not what was first


def test_a_longer_ending_knows_better():
    guesses = PromptLookup(DIGITS, 1)
    guesses.add([END, WORD, OTHER, OPEN, COMMA, WORD, OTHER, CLOSE, END, WORD, OTHER])
    assert guesses.propose(1) == [OPEN]


def test_what_repeats_itself_is_guessed_to_go_on():
    guesses = PromptLookup(DIGITS, 3)
    guesses.add([WORD] * 4)
    assert guesses.propose(3) == [WORD]
    guesses.add([WORD])
    assert guesses.propose(3) == [WORD]


@pytest.mark.parametrize('numbers', [(7, 12, 345, 6), (700, 812, 345, 666), (1, 2, 3, 4)])
def test_a_number_counts_as_any_other_however_long(numbers):
    guesses = PromptLookup(DIGITS, 2)
    guesses.add([*answer(10, 20, 30, 40), OPEN])
    for number in numbers[:3]:
        guesses.add(map(int, str(number)))
        assert guesses.propose(1) == [COMMA]
        guesses.add([COMMA])
    guesses.add(map(int, str(numbers[3])))
    assert guesses.propose(1) == [CLOSE]


def test_a_guess_ends_with_the_first_digit_it_has():
    guesses = PromptLookup(DIGITS, 8)
    guesses.add([WORD, OTHER, OPEN, COMMA, 1, 2, COMMA, WORD, OTHER])
    assert guesses.propose(8) == [OPEN, COMMA, 1]
    assert guesses.propose(2) == [OPEN, COMMA]


def test_none_are_guessed_when_none_are_wanted():
    guesses = PromptLookup(DIGITS, 0)
    guesses.add([WORD, OTHER] * 5)
    assert guesses.propose(5) == []
    guesses = PromptLookup(DIGITS, 5)
    guesses.add([WORD, OTHER] * 5)
    assert guesses.propose(0) == []


def test_a_fork_knows_what_was_before_and_keeps_what_comes_to_itself():
    guesses = PromptLookup(DIGITS, 2)
    guesses.add([WORD, OTHER, OPEN])
    forks = [guesses.fork(2), guesses.fork(1)]
    for fork, follows in zip(forks, (CLOSE, END), strict=True):
        fork.add([WORD, OTHER])
        assert fork.propose(1) == [OPEN]
        fork.add([follows, WORD, OTHER])
        assert fork.propose(1) == [follows]
    guesses.add([WORD, OTHER])
    assert guesses.propose(1) == [OPEN]
    silent = guesses.fork(0)
    silent.add([WORD, OTHER])
    assert silent.propose(1) == []


def test_the_longest_ending_counts_whoever_remembers_it():
    guesses = PromptLookup(DIGITS, 1)
    guesses.add([END, WORD, OTHER, OPEN])
    fork = guesses.fork(1)
    fork.add([WORD, OTHER, CLOSE, END, WORD, OTHER])
    assert fork.propose(1) == [OPEN]


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 9))
def test_every_guess_is_something_that_once_followed(tokens, most):
    guesses = PromptLookup(DIGITS, most)
    for count, token in enumerate(tokens, 1):
        guesses.add([token])
        found = guesses.propose(most)
        assert len(found) <= most
        places = [n for n in range(1, count) if tokens[n : n + len(found)] == found]
        assert not found or places


def test_little_is_remembered_of_what_is_long_ago():
    guesses = PromptLookup(DIGITS, 2)
    guesses.add([WORD, OTHER, OPEN])
    rng = random.Random(0)
    noise = [rng.randrange(100, 10_000) for _ in range(3 * drafts.MEMORY)]
    guesses.add(noise[: drafts.MEMORY])
    guesses.add([WORD, OTHER])
    assert guesses.propose(2) == [OPEN, noise[0]]
    guesses.add(noise[drafts.MEMORY :])
    remembered = guesses.remembered
    assert drafts.MEMORY <= remembered <= 2 * drafts.MEMORY
    guesses.add([WORD, OTHER])
    assert guesses.propose(2) == []
