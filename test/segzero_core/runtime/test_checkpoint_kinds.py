# SPDX-License-Identifier: Apache-2.0
"""Folders that are almost checkpoints: the message names their kind and the missing step."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch
from safetensors.torch import load_file, save_file

from segzero_core.errors import ModelLoadError
from segzero_core.runtime.checkpoint_kinds import describe_folder
from segzero_core.runtime.checkpoint_metadata import FAMILY_OF_MODEL_TYPE
from segzero_core.runtime.checkpoints import check_checkpoint, find_checkpoint

LORA = {'peft_type': 'LORA', 'base_model_name_or_path': 'Qwen/Qwen2.5-VL-3B-Instruct', 'r': 8}


@pytest.fixture
def folder(tiny_reasoner_dir, tmp_path) -> Path:
    """A checkpoint without its weights."""
    ignored = shutil.ignore_patterns('model.safetensors')
    return Path(shutil.copytree(tiny_reasoner_dir, tmp_path / 'model', ignore=ignored))


def touch(*names):
    def make(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b'x')

    return make


def adapter(folder):
    save_file({'x.lora_A.weight': torch.zeros(2, 2)}, folder / 'adapter_model.safetensors')
    (folder / 'adapter_config.json').write_text(json.dumps(LORA))


def adapter_without_config(folder):
    adapter(folder)
    (folder / 'config.json').unlink()


def adapter_of_another_tool(folder):
    (folder / 'adapter_config.json').write_text('{"peft_type": null}')


def adapter_with_a_broken_config(folder):
    (folder / 'adapter_config.json').write_text('[')


def shards(count, total):
    def make(folder):
        for number in range(1, count + 1):
            name = f'model-{number:05}-of-{total:05}.safetensors'
            save_file({f'w{number}': torch.zeros(1)}, folder / name)

    return make


def lfs_pointer(folder):
    (folder / 'model.safetensors').write_text('version https://git-lfs.github.com/spec/v1\n')


def lfs_pointers(folder):
    lfs_pointer(folder)
    (folder / 'config.json').unlink()


def only_checkpoints_inside(folder):
    for name in ('checkpoint-100', 'checkpoint-200'):
        shutil.copytree(folder, folder / name, ignore=shutil.ignore_patterns('checkpoint*'))
    for file in folder.glob('*.*'):
        file.unlink()


def hub_cache(folder):
    (folder / 'snapshots').mkdir()
    inside = folder / 'snapshots' / 'abc'
    shutil.copytree(folder, inside, ignore=shutil.ignore_patterns('snapshots'))
    for file in folder.glob('*.*'):
        file.unlink()


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (adapter, r'a LORA adapter for Qwen/Qwen2\.5-VL-3B-Instruct.*merge_and_unload'),
        (adapter_without_config, r'a LORA adapter for Qwen/Qwen2\.5-VL-3B-Instruct'),
        (adapter_of_another_tool, r'a PEFT adapter for its base model'),
        (adapter_with_a_broken_config, r'a PEFT adapter for its base model'),
        (touch('adapter_model.bin'), r'a PEFT adapter'),
        (shards(2, 2), r'no model\.safetensors\.index\.json, which says what is in which: copy'),
        (shards(1, 4), r'only 1 of 4 shards are there: copy'),
        (touch('pytorch_model.bin'), r'only pytorch_model\.bin: pickle .* save_pretrained'),
        (touch('model.pt', 'a.pth', 'b.pth', 'c.pth', 'd.pth'), r'a\.pth, b\.pth, c\.pth and 2'),
        (touch('model-Q4_K_M.gguf'), r'a GGUF file, .* llama-server'),
        (touch('onnx/decoder.onnx'), r'an ONNX export'),
        (touch('openvino_model.xml'), r'an export for one inference runtime'),
        (touch('weights.npz'), r'another framework than PyTorch'),
        (touch('pytorch_model_fsdp_0/__0_0.distcp'), r'FSDP .*accelerate merge-weights'),
        (touch('__1_0.distcp', '.metadata'), r'FSDP .*accelerate merge-weights'),
        (touch('global_step9/zero_pp_rank_0_optim_states.pt'), r'DeepSpeed .*zero_to_fp32\.py'),
        (touch('latest', 'zero_to_fp32.py'), r'DeepSpeed .*zero_to_fp32\.py'),
        (touch('actor/model_world_size_8_rank_0.pt'), r'veRL .*model_merger\.py'),
        (touch('iter_0000100/mp_rank_00/x.pt'), r'a Megatron checkpoint'),
        (touch('model_index.json'), r'a diffusers pipeline'),
        (touch('optimizer.pt', 'scheduler.pt', 'rng_state_0.pth'), r"a trainer's state without"),
        (touch('model.safetensors.incomplete'), r'not downloaded to the end'),
        (touch('consolidated.safetensors'), r'under another name .*consolidated\.safetensors'),
        (touch(), r'holds a configuration but no weights'),
        (lfs_pointers, r'without its large files'),
        (lfs_pointer, r'without its large files .*git lfs pull'),
        (only_checkpoints_inside, r'give one of them \(checkpoint-200, checkpoint-100\)'),
        (hub_cache, r'give one of them \(snapshots/abc\)'),
    ],
)  # fmt: skip
def test_the_message_says_what_is_there(folder, make, says):
    make(folder)
    with pytest.raises(ModelLoadError, match=says) as caught:
        check_checkpoint(folder, FAMILY_OF_MODEL_TYPE)
    assert str(caught.value).startswith(str(folder))
    assert '\n' not in str(caught.value)


def test_an_empty_folder_and_one_that_is_unknown(tmp_path):
    assert describe_folder(tmp_path) == f'{tmp_path} is empty: copy or download the model again'
    (tmp_path / 'notes.md').write_text('hello')
    assert describe_folder(tmp_path) is None
    with pytest.raises(ModelLoadError, match='a whole checkpoint folder'):
        check_checkpoint(tmp_path, FAMILY_OF_MODEL_TYPE)


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('model.gguf', 'quantized for llama.cpp'),
        ('sam2.1_hiera_large.pt', "a pickle file, .* segmenter 'sam2_official'"),
        ('model.safetensors', 'give the folder that config.json is in'),
    ],
)
def test_a_file_in_the_place_of_a_folder(tmp_path, name, says):
    (tmp_path / name).write_bytes(b'x')
    with pytest.raises(ModelLoadError, match=says):
        find_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize('config', ['{}', '{"model_type": null}', '{"architectures": ["A"]}'])
def test_a_configuration_without_its_type(folder, config):
    (folder / 'config.json').write_text(config)
    with pytest.raises(ModelLoadError, match=r'config\.json names no model_type'):
        check_checkpoint(folder, FAMILY_OF_MODEL_TYPE)


def test_a_whole_checkpoint_beside_other_files_is_loaded(tiny_reasoner_dir, tmp_path):
    whole = Path(shutil.copytree(tiny_reasoner_dir, tmp_path / 'model'))
    for make in (adapter, touch('optimizer.pt', 'pytorch_model.bin', 'zero_to_fp32.py', 'a.onnx')):
        make(whole)
    assert check_checkpoint(whole, FAMILY_OF_MODEL_TYPE) == 'qwen2_5_vl'
    assert load_file(whole / 'model.safetensors')
