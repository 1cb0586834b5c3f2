# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from segzero_core.runtime import tiny_checkpoints as tiny


def parameters(folder: Path) -> int:
    with safe_open(folder / 'model.safetensors', framework='pt') as weights:
        return sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize('build', [tiny.build_tiny_reasoner, tiny.build_tiny_segmenter])
def test_same_seed_writes_the_same_files_and_another_seed_other_weights(build, tmp_path):
    first = contents(build(tmp_path / 'a', seed=3))
    assert contents(build(tmp_path / 'b', seed=3)) == first
    other = contents(build(tmp_path / 'c', seed=4))
    assert other['model.safetensors'] != first['model.safetensors']
    assert other['config.json'] == first['config.json']


def test_reasoner_is_an_ordinary_small_checkpoint(tiny_reasoner_dir):
    files = contents(tiny_reasoner_dir)
    assert {
        'config.json',
        'generation_config.json',
        'model.safetensors',
        'preprocessor_config.json',
        'tokenizer.json',
        'tokenizer_config.json',
        'chat_template.jinja',
    } == set(files)
    assert sum(map(len, files.values())) < 4e6
    assert b'segzero' not in b''.join(files.values())  # no class of ours is needed to load it


def test_sizes_are_arguments(tmp_path):
    sizes = tiny.ReasonerSizes(
        vocabulary=300,
        vision_width=96,
        vision_layers=3,
        vision_heads=3,
        text_layers=3,
        text_heads=3,
        text_kv_heads=3,
        max_pixels=112 * 112,
    )
    config = AutoConfig.from_pretrained(tiny.build_tiny_reasoner(tmp_path, sizes=sizes))
    assert config.text_config.vocab_size == 300
    assert config.text_config.hidden_size == 192
    assert config.text_config.num_hidden_layers == 3
    assert config.vision_config.hidden_size == 96
    assert config.vision_config.depth == 3
    assert config.vision_config.fullatt_block_indexes == [2]


def test_tokenizer_is_of_qwens_kind(tiny_reasoner_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_reasoner_dir)
    assert len(tokenizer) == 512
    for special in tiny.SPECIAL_TOKENS:
        assert len(tokenizer(special).input_ids) == 1
    digits = tokenizer('1234', add_special_tokens=False).input_ids
    assert [tokenizer.decode([token]) for token in digits] == ['1', '2', '3', '4']
    text = 'any bytes: é ☕ \t\n {"bbox": [1, 2]}'
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_tokenizer_learns_from_the_corpus_it_is_given(tmp_path):
    folder = tiny.build_tiny_reasoner(tmp_path, corpus=['xylophone ' * 20])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer(' xylophone').input_ids) == 1


def test_family_is_noted_for_the_engine(tmp_path):
    folder = tiny.build_tiny_reasoner(tmp_path, family='json')
    assert (folder / 'segzero.json').read_text() == '{\n  "family": "json"\n}\n'


def test_segmenter_is_an_ordinary_small_checkpoint(tiny_segmenter_dir, tmp_path):
    assert set(contents(tiny_segmenter_dir)) == {'config.json', 'model.safetensors'}
    assert parameters(tiny_segmenter_dir) < 1.1e6
    larger = tiny.SegmenterSizes(image_side=128, backbone_width=24, decoder_width=192)
    assert parameters(tiny.build_tiny_segmenter(tmp_path, sizes=larger)) > 1.5e6
