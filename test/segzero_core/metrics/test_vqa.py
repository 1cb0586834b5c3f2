# SPDX-License-Identifier: Apache-2.0
"""Metrics of answers in words, compared with manual results."""

import pytest

from segzero_core.errors import MetricError
from segzero_core.metrics.vqa import consensus_accuracy, relaxed_accuracy, written_answer


@pytest.mark.parametrize(
    ('answer', 'truth', 'right'),
    [
        ('105', '100', 1),
        ('105.1', '100', 0),
        ('5.966', '6.28', 0),  # exactly 5 % on paper, more with rounding
        ('-95', '-100', 1),
        ('1,020', '1000', 0),
        ('1,020', '1,020', 1),
        ('0.42', '42%', 1),
        ('42', '42%', 0),
        ('0', '0', 1),
        ('0.001', '0', 0),
        ('Blue ', 'blue', 1),
        ('dark blue', 'blue', 0),
        ('nan', '1', 0),
    ],
)
def test_relaxed_accuracy(answer, truth, right):
    assert relaxed_accuracy(answer, truth) == right


@pytest.mark.parametrize(
    ('agreeing', 'accuracy'),
    [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)],  # 3: (7 * 1 + 3 * 2/3) / 10
)
def test_three_of_the_others_are_enough(agreeing, accuracy):
    people = ['stop'] * agreeing + ['go'] * (10 - agreeing)
    assert consensus_accuracy('STOP.', people) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ('answer', 'truth', 'right'),
    [
        ('The Two dogs', '2 dogs!', 1),
        ("don't walk", 'dont walk', 1),
        ('couldntve', "couldn't've", 0),
        ("couldn'tve", "couldnt've", 1),
        ('its', "it's", 0),
        ('10:30', '1030', 0),
        ('3.5', '3.5.', 1),
        ('3.5', '35', 0),
        ('U.S.', 'us', 1),
        ('1,000', '1000', 1),
        ('none', 'zero', 1),
        ('x-ray', 'x ray', 1),
        ('x- ray', 'xray', 0),
        ('(hi) there', 'hi there', 1),
        ('50%', '50', 0),
        ('grün', 'Grün', 1),
    ],
)
def test_what_counts_for_nothing(answer, truth, right):
    assert consensus_accuracy(answer, [truth]) == right


def test_no_truth():
    with pytest.raises(MetricError, match='no answer to compare with'):
        consensus_accuracy('x', [])


def test_the_answer_is_in_the_tags_if_there_are_any():
    assert written_answer('<think>5 or 6</think><answer> 6 </answer>') == '6'
    assert written_answer('<think>5 or 6</think><answer>6') == '6'
    assert written_answer('Blue.\n') == 'Blue'
