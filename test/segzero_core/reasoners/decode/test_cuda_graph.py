# SPDX-License-Identifier: Apache-2.0
"""Compiled steps compute what the others compute; on CUDA they are graphs."""

import threading

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch

from segzero_core import load_reasoner, load_segmenter
from segzero_core.reasoners.decode.prefix_cache import PrefixCache
from segzero_core.reasoners.transformers import TransformersReasoner
from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner

pytestmark = pytest.mark.usefixtures('one_thread')

# What the overfit_reasoner_dir fixture taught its model.
OVERFIT_ANSWER = (
    '<think>The red mug ☕ stands left of the box.</think>'
    '<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}</answer>'
)


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('model_type', ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
def test_a_compiled_step_gives_what_the_others_give(model_type, tmp_path):
    build_tiny_reasoner(tmp_path, model_type=model_type)
    engine = TransformersReasoner(str(tmp_path), device='cpu', image_side=224)
    found = []
    # 'aot_eager' traces the whole step into one graph, as every backend gets it, and runs that.
    for compiler in ('', 'aot_eager'):
        decoder = PrefixCache(engine.model, compiler, draft_width=4)
        decoder.prefill(b'frame', engine.encode(picture(), engine.prompt('the red mug')), 10)
        found.append([decoder.extend([token]) for token in (7, 8)])
        found[-1].append(decoder.extend([9, 10, 11], 3))
        found[-1].append(decoder.extend([9, 10, 11, 12], 2))
        decoder.extend([9, 10, 11, 12, 13])  # this many tokens use the normal pass
        found[-1].append(decoder.extend([11]))
        decoder.truncate(len(decoder.state.tokens) - 3)
        found[-1].append(decoder.extend([12, 13], 2))
        assert decoder.compiled_widths == ({1, 4} if compiler else set())
    for plain, compiled in zip(*found, strict=True):
        assert plain.shape == compiled.shape
        assert torch.allclose(plain, compiled, atol=1e-5)


def test_where_nothing_can_be_compiled_it_goes_on_without(
    overfit_reasoner_dir, monkeypatch, caplog
):
    engine = load_reasoner(
        'transformers', model=str(overfit_reasoner_dir), device='cpu', torch_compile=True
    )
    monkeypatch.setattr(
        torch, 'compile', lambda *_, **__: lambda *_: (_ for _ in ()).throw(RuntimeError('no g++'))
    )
    assert engine.reason(picture(), 'the red mug').text == OVERFIT_ANSWER
    assert engine.reason(picture(), 'the red mug').text == OVERFIT_ANSWER
    assert caplog.messages == ['cannot compile the reasoner, it goes on without: no g++']


def written(folder, device, **options):
    engine = TransformersReasoner(str(folder), device=device, max_new_tokens=40, **options)
    texts = [engine.reason(picture(), query).text for query in ('the red mug', 'a cup', 'a')]
    return engine, texts


@pytest.mark.gpu
@pytest.mark.parametrize('index', [0, 1])
def test_a_graph_is_captured_on_the_device_of_the_model(overfit_reasoner_dir, index):
    if torch.cuda.device_count() <= index:
        pytest.skip(f'no CUDA device {index}')
    device = f'cuda:{index}'
    _, wanted = written(overfit_reasoner_dir, device)
    engine, found = written(overfit_reasoner_dir, device, torch_compile=True)
    assert engine.engine.cache.compiled_widths
    assert found == wanted


@pytest.mark.gpu
def test_a_segmenter_that_works_at_the_time_breaks_no_capture(
    overfit_reasoner_dir, tiny_segmenter_dir, caplog
):
    if not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    _, wanted = written(overfit_reasoner_dir, 'cuda')
    segmenter = load_segmenter('sam2', model=str(tiny_segmenter_dir), device='cuda')
    ended = threading.Event()

    def work():
        size = 100
        while not ended.is_set():  # sizes that need new memory, which a capture must not see
            segmenter.embed(picture(size % 900, size % 700 + 50))
            size += 97

    busy = threading.Thread(target=work)
    busy.start()
    try:
        engine, found = written(overfit_reasoner_dir, 'cuda', torch_compile=True)
    finally:
        ended.set()
        busy.join()
    assert engine.engine.cache.compiled_widths
    assert found == wanted
    assert not caplog.messages
