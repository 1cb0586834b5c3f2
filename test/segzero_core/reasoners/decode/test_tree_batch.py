# SPDX-License-Identifier: Apache-2.0
"""Branches of a row are computed as if they were alone."""

from functools import partial

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch

from segzero_core.reasoners.decode.prefix_cache import common_prefix
from segzero_core.reasoners.decode.tree_batch import TreeBatch
from segzero_core.reasoners.transformers import TransformersReasoner
from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner

pytestmark = pytest.mark.usefixtures('one_thread')


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('model_type', ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_branches_are_computed_as_if_they_were_alone_also_when_others_have_ended(
    model_type, dtype, tmp_path
):
    build_tiny_reasoner(tmp_path, model_type=model_type, dtype=dtype)
    engine = TransformersReasoner(str(tmp_path), device='cpu', image_side=224)
    queries = ['a', 'the red mug', 'b', 'what I drink from']
    images = [picture(), picture(), 255 - picture(), 255 - picture()]
    inputs = [
        engine.encode(image, engine.prompt(query))
        for image, query in zip(images, queries, strict=True)
    ]
    prompts = [each['input_ids'][0].tolist() for each in inputs]
    decoder = engine.engine.cache
    branches = TreeBatch(decoder, [2, 2])
    found = []
    for number, prompt in enumerate(prompts):
        if number % 2 == 0:
            decoder.prefill(b'frame', inputs[number], 4)
        # What the two prompts about an image have in common ends before the sentences.
        same = common_prefix(prompt, prompts[number ^ 1])
        decoder.truncate(same)
        branches.open_row(number // 2)
        if number == 3:
            decoder.extend(prompt[same:-1])  # computed alone, and copied
        found.append((branches.add(same), prompt[len(decoder.state.tokens) :]))
    one, two, three, four = (branch for branch, _ in found)
    more = [[7], [8, 9, 3], [], []]
    ahead = [left + new for (_, left), new in zip(found, more, strict=True)]
    # Different numbers of tokens, some of which are taken back, and branches that wait or end.
    first = branches.extend([one, two, three, four], ahead, [1, 4, 0, 1])
    branches.truncate(two, 1)
    second = branches.extend([three, two], [[5], [10, 11]], [1, 1])
    branches.remove(one)
    branches.remove(three)
    branches.truncate(two, 1)
    third = branches.extend([four, two], [[13, 14], [12]], [2, 1])
    branches.remove(two)  # and with it its row
    fourth = branches.extend([four], [[15]], [1])
    assert [len(each) for each in (first, second, third, fourth)] == [6, 2, 3, 1]

    def alone(number, *tokens):
        decoder.prefill(b'frame', inputs[number], 4)
        return decoder.extend(tokens, len(tokens))

    close = partial(torch.allclose, atol=1e-5)
    assert close(first[0], alone(0, 7)[0])
    assert close(first[2:5], alone(1, 8, 9, 3))
    assert close(second[1], alone(1, 8, 9, 10, 11)[-1])
    assert close(third[2], alone(1, 8, 9, 10, 12)[-1])
    assert close(second[0], alone(2, 5)[0])
    assert close(torch.cat((third[:2], fourth)), alone(3, 13, 14, 15))
