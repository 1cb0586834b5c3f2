# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and options of the ``transformers`` reasoner, and the errors for all others."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from segzero_core import load_reasoner
from segzero_core.errors import EngineOptionError, ModelLoadError, UnknownNameError
from segzero_core.reasoners.transformers import TransformersReasoner
from segzero_core.runtime.checkpoints import stored_dtype
from segzero_core.runtime.tiny_checkpoints import ReasonerSizes, build_tiny_reasoner

pytestmark = pytest.mark.usefixtures('one_thread')

ROOT = Path(__file__).parents[3]


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def copied(tiny_reasoner_dir, tmp_path) -> Path:
    """A tiny checkpoint to damage."""
    return Path(shutil.copytree(tiny_reasoner_dir, tmp_path / 'model'))


def test_a_checkpoint_can_say_its_family_and_image_size(copied):
    assert TransformersReasoner(str(copied), device='cpu').task.family.name == 'seg_zero'
    (copied / 'segzero.json').write_text('{"family": "json", "image_size": 112}')
    family = TransformersReasoner(str(copied), device='cpu').task.family
    assert (family.name, family.image_size) == ('json', 112)
    family = TransformersReasoner(str(copied), device='cpu', family='seg_zero_paper').task.family
    assert (family.name, family.image_size) == ('seg_zero_paper', 112)


def test_sizes_that_suit_a_family_of_another_size(tmp_path):
    sizes = ReasonerSizes(max_pixels=112 * 112)
    folder = build_tiny_reasoner(tmp_path, sizes=sizes)
    (folder / 'segzero.json').write_text('{"family": "json", "image_size": 112}')
    engine = TransformersReasoner(str(folder), device='cpu')
    assert engine.encode(picture(), engine.prompt('x'))['image_grid_thw'].tolist() == [[1, 8, 8]]


def test_a_checkpoint_of_16_bits_is_loaded_so_and_looks_in_32(tmp_path):
    folder = build_tiny_reasoner(tmp_path, dtype=torch.bfloat16)
    assert stored_dtype(folder) == torch.bfloat16
    engine = TransformersReasoner(str(folder), device='cpu', image_side=112, max_new_tokens=3)
    assert {each.dtype for each in engine.model.model.visual.parameters()} == {torch.float32}
    written = engine.reason(picture(), 'the red mug').text
    # One tensor that needs more bits is reason enough to load all of them so.
    weights = load_file(folder / 'model.safetensors')
    name = next(name for name in weights if name.endswith('q_proj.weight'))
    weights[name] = weights[name].float()
    save_file(weights, folder / 'model.safetensors', {'format': 'pt'})
    assert stored_dtype(folder) == torch.float32
    engine = TransformersReasoner(str(folder), device='cpu', image_side=112, max_new_tokens=3)
    assert engine.reason(picture(), 'the red mug').text == written


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'device': 'cuda:99'}, ModelLoadError, "'cuda:99' is not here"),
        ({'device': 'quantum'}, EngineOptionError, "unknown device 'quantum'"),
        ({'family': 'seg-zero'}, UnknownNameError, "Did you mean 'seg_zero'"),
        ({'max_new_tokens': 0}, EngineOptionError, 'max_new_tokens must be at least 1, got 0'),
        ({'thinking': 'hard'}, UnknownNameError, 'Available: free, none, prefilled'),
        ({'max_think_tokens': -1}, EngineOptionError, 'max_think_tokens must be at least 0'),
        (
            {'num_draft_tokens': -1},
            EngineOptionError,
            'num_draft_tokens must be at least 0, got -1',
        ),
        ({'image_side': -1}, EngineOptionError, 'image_side must be at least 0, got -1'),
        ({'image_side': 450}, ModelLoadError, 'shows images at 450 x 450'),
        ({'quantization': '2bit'}, UnknownNameError, 'Available: 4bit, 8bit'),
    ],
)
def test_bad_options(tiny_reasoner_dir, options, error, message):
    with pytest.raises(error, match=message):
        load_reasoner('transformers', model=str(tiny_reasoner_dir), **options)


def test_missing_folder():
    with pytest.raises(ModelLoadError, match=r"no such model folder: '/no/such/model'"):
        TransformersReasoner('/no/such/model')


def test_hub_id_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"'nobody/nothing' is no folder .* copy the model"):
        TransformersReasoner('nobody/nothing')


def test_hub_id_downloaded_before_needs_no_network(monkeypatch, copied, tmp_path):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    repository = tmp_path / 'models--somebody--tiny'
    (repository / 'refs').mkdir(parents=True)
    (repository / 'refs' / 'main').write_text('0' * 40)
    (repository / 'snapshots').mkdir()
    copied.rename(repository / 'snapshots' / ('0' * 40))
    assert TransformersReasoner('somebody/tiny', device='cpu').task.family.name == 'seg_zero'


def no_config(folder):
    (folder / 'config.json').unlink()


def broken_config(folder):
    (folder / 'config.json').write_text('{"model_type": ')


def text_only_model(folder):
    BertConfig(num_hidden_layers=1).save_pretrained(folder)


def pickled_weights(folder):
    torch.save(load_file(folder / 'model.safetensors'), folder / 'pytorch_model.bin')
    (folder / 'model.safetensors').unlink()


def weights_cut_short(folder):
    weights = (folder / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(weights[: len(weights) // 2])


def missing_shard(folder):
    (folder / 'model.safetensors').unlink()
    index = {'weight_map': {'lm_head.weight': 'model-00002-of-00002.safetensors'}}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))


def missing_tensor(folder):
    weights = load_file(folder / 'model.safetensors')
    del weights['model.layers.0.mlp.up_proj.weight']
    save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt'})


def tensors_of_another_size(folder):
    config = json.loads((folder / 'config.json').read_text())
    config['text_config']['intermediate_size'] = 64
    (folder / 'config.json').write_text(json.dumps(config))


def impossible_config(folder):
    config = json.loads((folder / 'config.json').read_text())
    config['text_config']['hidden_size'] = 'large'
    (folder / 'config.json').write_text(json.dumps(config))


def no_tokenizer(folder):
    (folder / 'tokenizer.json').unlink()


def no_merges(folder):
    tokenizer = json.loads((folder / 'tokenizer.json').read_text())
    (folder / 'vocab.json').write_text(json.dumps(tokenizer['model']['vocab']))
    (folder / 'tokenizer.json').unlink()


def no_image_processor(folder):
    (folder / 'preprocessor_config.json').unlink()


def changed(name, **values):
    """Return a function that changes what a JSON file of a folder says; None takes it out."""

    def change(folder):
        file = folder / name
        content = json.loads(file.read_text()) | values
        kept = {key: value for key, value in content.items() if value is not None}
        file.write_text(json.dumps(kept))

    return change


def no_chat_template(folder):
    (folder / 'chat_template.jinja').unlink()


def chat_template(text):
    return lambda folder: (folder / 'chat_template.jinja').write_text(text)


def no_image_token(folder):
    text = (folder / 'tokenizer.json').read_text()
    (folder / 'tokenizer.json').write_text(text.replace('<|vision_end|>', '<|audio_end|>'))


def smaller_vocabulary(folder):
    config = json.loads((folder / 'config.json').read_text())
    config['text_config']['vocab_size'] = 400
    (folder / 'config.json').write_text(json.dumps(config))


def generation_config_that_is_none(folder):
    (folder / 'generation_config.json').write_text('{"repetition_penalty": ')


def unknown_family(folder):
    (folder / 'segzero.json').write_text('{"family": "gemini"}')


def useless_image_size(folder):
    (folder / 'segzero.json').write_text('{"image_size": "112"}')


def image_processor_that_shrinks(folder):
    file = folder / 'preprocessor_config.json'
    content = json.loads(file.read_text())
    content['size']['longest_edge'] = 112 * 112
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (no_config, r'cannot read .*config\.json .*is .* a whole checkpoint folder'),
        (broken_config, r'cannot read .*config\.json '),
        (text_only_model, r"type 'bert'.* takes qwen2_5_vl, qwen2_vl, qwen3_vl"),
        (pickled_weights, r'Found only pytorch_model\.bin: pickle files can run code'),
        (weights_cut_short, r'cannot read the weights in .*model\.safetensors '),
        (missing_shard, r'model-00002-of-00002\.safetensors .*copy or download'),
        (missing_tensor, r"lack 1 tensors, 'model\..*layers\.0\.mlp\.up_proj\.weight'"),
        (tensors_of_another_size, r'cannot load the model in .*'),
        (impossible_config, r'cannot load the model in .*hidden_size'),
        (no_tokenizer, r'has no tokenizer\.json: copy'),
        (no_merges, r'has vocab\.json but no merges\.txt: copy'),
        (no_image_processor, r'has no preprocessor_config\.json, .*: copy it there'),
        (no_chat_template, r'has no chat template, .* copy chat_template\.jinja .* trained from'),
        (chat_template('{% for %}'), r'the chat template of .* cannot be used \(TemplateSyntax'),
        (chat_template('{{ raise_exception("no images") }}'), r'cannot be used .* no images'),
        (
            chat_template('{% for m in messages %}{{ m["content"][1]["text"] }}{% endfor %}'),
            r"not one of a vision-language model: .* it makes 'the red mug'",
        ),
        (no_image_token, r'vision_end_token_id 4, but in .* is 512: one of'),
        (changed('config.json', image_token_id=4), r'image_token_id 4, but .* is 5: one of'),
        (smaller_vocabulary, r'tokens up to 511, but the model only 400 \(vocab_size'),
        (
            changed('preprocessor_config.json', patch_size=16),
            r'patch_size 16, but .* patch_size 14',
        ),
        (changed('preprocessor_config.json', merge_size=1), r'merge_size 1, but .*merge_size 2'),
        (changed('preprocessor_config.json', image_mean=[0.5]), r'cannot prepare an image'),
        (generation_config_that_is_none, r'cannot read .*generation_config\.json'),
        (changed('generation_config.json', repetition_penalty='high'), r'cannot load .*high'),
        (unknown_family, r"segzero\.json says .*'gemini'.* family must be one of seg_zero"),
        (useless_image_size, r"segzero\.json says .*'112'.* a side in pixels"),
        (image_processor_that_shrinks, r"'seg_zero' shows images at 840 x 840 .*would resize"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_one_clear_error(copied, damage, message):
    damage(copied)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_reasoner('transformers', model=str(copied), device='cpu')
    assert str(copied) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_without_a_generation_config_the_tokenizer_says_what_ends_a_reply(copied):
    (copied / 'generation_config.json').unlink()
    config = json.loads((copied / 'config.json').read_text())
    config['text_config']['eos_token_id'] = None
    (copied / 'config.json').write_text(json.dumps(config))
    engine = TransformersReasoner(str(copied), device='cpu', max_new_tokens=2)
    assert engine.generation.eos_token_id == engine.processor.tokenizer.eos_token_id


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_byte_order_marks_in_a_checkpoint_change_nothing(copied, encoding):
    wanted = TransformersReasoner(str(copied), device='cpu', max_new_tokens=4, image_side=112)
    texts = [file for kind in ('*.json', '*.jinja') for file in copied.glob(kind)]
    assert len(texts) > 4
    for file in texts:
        file.write_text(file.read_text(), encoding=encoding)
    found = TransformersReasoner(str(copied), device='cpu', max_new_tokens=4, image_side=112)
    asked = picture(), 'the red mug'
    assert found.prompt('the red mug') == wanted.prompt('the red mug')
    assert found.reason(*asked) == wanted.reason(*asked)


# --- torchvision ------------------------------------------------------------------------------

RUN = """
import sys
import numpy as np
from segzero_core import load_reasoner, load_segmenter
from segzero_core.types import Box
image = np.zeros((40, 60, 3), dtype=np.uint8)
reasoner = load_reasoner('transformers', model=sys.argv[1], device='cpu', max_new_tokens=2)
reasoner.reason(image, 'the red mug')
segmenter = load_segmenter('sam2', model=sys.argv[2], device='cpu')
mask = segmenter.segment(segmenter.embed(image), Box(5, 5, 30, 30), ()).mask
print(mask.shape, sys.modules['torchvision'])
"""


def test_a_broken_torchvision_is_as_good_as_none(
    overfit_reasoner_dir, tiny_segmenter_dir, tmp_path
):
    package = tmp_path / 'torchvision'
    package.mkdir()
    # The failure of a torchvision that was built for another torch.
    (package / '__init__.py').write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    done = subprocess.run(
        [sys.executable, '-c', RUN, overfit_reasoner_dir, tiny_segmenter_dir],
        env={'PYTHONPATH': f'{tmp_path}:{ROOT}', 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # The engines ran while nothing could import torchvision: None blocks it.
    assert done.stdout == '(40, 60) None\n'
