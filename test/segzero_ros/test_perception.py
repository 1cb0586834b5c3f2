# SPDX-License-Identifier: Apache-2.0
"""The text of the reasoner, published while it is written."""

import pytest

from segzero_ros.perception import TextStream


def stream(*attempts):
    """Return the published text for the pieces of some attempts."""
    published = []
    text = TextStream(published.append)
    for number, pieces in enumerate(attempts):
        if number:
            text.restart()
        for piece in pieces:
            text(piece)
    return published


def test_pieces_go_out_as_they_come():
    assert stream(['I ', 'see', '.']) == ['I ', 'see', '.']


@pytest.mark.parametrize(
    ('second', 'published'),
    [
        (['I see a mug.'], ['I ', 'see', ' a mug.']),  # the first ended early
        (['I', ' s', 'ee'], ['I ', 'see']),
        (['I s', 'ee a', ' cup'], ['I ', 'see', ' a', ' cup']),
        (['I look', ' at'], ['I ', 'see', '\nI look', ' at']),  # another answer
        ([], ['I ', 'see']),
    ],
)
def test_a_second_attempt_is_not_published_twice(second, published):
    assert stream(['I ', 'see'], second) == published


def test_an_attempt_that_failed_before_its_first_word_leaves_no_trace():
    assert stream([], ['I ', 'see']) == ['I ', 'see']
