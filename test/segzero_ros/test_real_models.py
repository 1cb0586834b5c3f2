# SPDX-License-Identifier: Apache-2.0
"""Ordinary checkpoints of the real classes through the node, end to end."""

import pytest


@pytest.fixture
def answer(graph, tiny_segmenter_dir):
    """Asks a node with checkpoints for a red mug."""

    def ask(reasoner, **parameters):
        graph.active_node(
            'image',
            reasoner__engine='transformers',
            reasoner__model=str(reasoner),
            reasoner__device='cpu',
            segmenter__engine='sam2',
            segmenter__model=str(tiny_segmenter_dir),
            segmenter__device='cpu',
            **parameters,
        )
        graph.client.show_picture()
        return graph.client.ask('the red mug')

    return ask


def test_nonsense_is_an_error_and_no_mask(graph, answer, tiny_reasoner_dir):
    result = answer(tiny_reasoner_dir, reasoner__max_new_tokens=8)
    assert result['status'] == 'error'
    assert result['error']['kind'] in ('no_json', 'bad_json', 'empty_text', 'token_limit')
    assert result['stamp']['sec'] == 1
    assert graph.client.ask('the blue mug')['status'] == 'error'
    assert graph.client.messages['mask'] == []


def test_an_answer_is_a_mask(graph, answer, overfit_reasoner_dir):
    result = answer(overfit_reasoner_dir)
    assert result['status'] == 'ok', result
    assert result['reasoning'] == 'The red mug ☕ stands left of the box.'
    assert result['box'] == pytest.approx([19.8, 15.8, 59.8, 48.0], abs=1.0)  # of 112 x 112
    mask = graph.client.message('mask')
    assert (mask.width, mask.height, mask.header.stamp.sec) == (80, 60, 1)

    def streamed():
        pieces = graph.client.messages['reasoning_stream']
        return 'The red mug ☕ stands left of the box.' in ''.join(p.data for p in pieces)

    graph.client.wait_for(streamed, 'the streamed reasoning')
