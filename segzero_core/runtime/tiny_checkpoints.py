# SPDX-License-Identifier: Apache-2.0
"""Tiny, randomly initialised checkpoints of the real model classes.

They are ordinary Hugging Face folders of a few megabytes, built in seconds without a network.
Tests load them with the same code as the published models, and the training of a tiny model starts
with one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from segzero_core.prompts import FAMILIES
from segzero_core.runtime.checkpoints import transformers

ReasonerType = Literal['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl']

SPECIAL_TOKENS = (
    '<|endoftext|>',
    '<|im_start|>',
    '<|im_end|>',
    '<|vision_start|>',
    '<|vision_end|>',
    '<|image_pad|>',
    '<|video_pad|>',
)
# Published models use 1e6, with heads twice as wide. With that, the angles of the frequencies for
# columns would change by less than 0.002 over a row of eight image tokens: left and right would be
# indistinguishable.
_ROPE_THETA = 10.0
# Qwen's format (ChatML with vision markers) without its default system turn, because a tiny model
# has no tokens to spare.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'text' -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}"""


@dataclass(frozen=True)
class ReasonerSizes:
    """Sizes of a tiny Qwen-VL. The defaults make 0.87 M parameters, a folder of 3.5 MB.

    Attributes:
        vocabulary: Entries of the byte-level BPE, special tokens included; at least 263.
        vision_width: Width of the vision tower; a multiple of ``4 * vision_heads``.
        vision_layers: Blocks of the vision tower; the last one attends to the whole image.
        vision_heads: Attention heads of the vision tower.
        vision_mlp: Width of the vision tower's MLPs; 0 = four times ``vision_width``.
        patch: Side of a patch in pixels, 2 x 2 of which are one image token; 0 = the model type's
            own (14 or 16).
        whole_image: Let every block of the vision tower attend to the whole image (Qwen2.5-VL).
        text_layers: Layers of the language model.
        text_heads: Query heads of the language model, each 64 wide, the smallest that model
            servers accept. The language model is ``64 * text_heads`` wide.
        text_kv_heads: Key and value heads; divides ``text_heads``.
        text_mlp: Width of the language model's MLPs; 0 = four times its own.
        min_pixels: Smaller images are enlarged to this many pixels.
        max_pixels: Larger images are reduced to this many pixels.
    """

    vocabulary: int = 512
    vision_width: int = 64
    vision_layers: int = 2
    vision_heads: int = 2
    vision_mlp: int = 0
    patch: int = 0
    whole_image: bool = False
    text_layers: int = 2
    text_heads: int = 2
    text_kv_heads: int = 1
    text_mlp: int = 0
    min_pixels: int = 56 * 56
    max_pixels: int = 3584 * 3584

    @property
    def text_width(self) -> int:
        """Width of the language model."""
        return 64 * self.text_heads


@dataclass(frozen=True)
class SegmenterSizes:
    """Sizes of a tiny SAM 2. The defaults make 1.0 M parameters, a folder of 4.1 MB.

    Attributes:
        image_side: Side of the square the model sees, in pixels; a multiple of 64.
        backbone_width: Width of the first of four stages; each next one is twice as wide.
        decoder_width: Width of the feature maps, prompts and mask decoder; at least 128, because
            the decoder's narrowest maps have an eighth of it and attend with 8 heads.
        decoder_mlp: Width of the decoder's MLP.
    """

    image_side: int = 256
    backbone_width: int = 16
    decoder_width: int = 128
    decoder_mlp: int = 256


def build_tiny_reasoner(
    folder: Path,
    seed: int = 0,
    sizes: ReasonerSizes | None = None,
    model_type: ReasonerType = 'qwen2_5_vl',
    corpus: Iterable[str] | None = None,
    family: str = '',
    whole_tokens: Iterable[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a randomly initialised Qwen-VL with its own tokenizer and image processor.

    Args:
        folder: Written to; created if it does not exist.
        seed: Of the weights: the same seed writes the same files.
        sizes: Widths, depths and pixel limits.
        model_type: One of the three generations.
        corpus: Texts from which the tokenizer learns its merges; the prompts by default.
        family: Prompt family written to ``segzero.json``; '' = that of the model type.
        whole_tokens: Texts that become one token each.
        dtype: Of the weights; published ones have 16 bits.

    Returns:
        ``folder``.
    """
    sizes = sizes or ReasonerSizes()
    folder.mkdir(parents=True, exist_ok=True)
    texts = [entry.template for entry in FAMILIES.values()] if corpus is None else corpus
    tokenizer = _train_tokenizer(texts, sizes.vocabulary)
    tokenizer.add_tokens(list(whole_tokens))
    config = _reasoner_config(model_type, sizes, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(config)
    end, pad = config.text_config.eos_token_id, config.text_config.pad_token_id
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=[end, pad], pad_token_id=pad
    )
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_json(folder / 'preprocessor_config.json', _preprocessor_settings(config, sizes))
    if family:
        _write_json(folder / 'segzero.json', {'family': family})
    return folder


def build_tiny_segmenter(folder: Path, seed: int = 0, sizes: SegmenterSizes | None = None) -> Path:
    """Write a randomly initialised SAM 2 to ``folder``, created if it does not exist.

    Args:
        folder: Written to.
        seed: Of the weights: the same seed writes the same files.
        sizes: Image side and widths.

    Returns:
        ``folder``.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.Sam2Model(_segmenter_config(sizes or SegmenterSizes()))
    model.save_pretrained(folder)
    return folder


def _train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer of Qwen's kind, in which each digit is a token."""
    blank = transformers.Qwen2Tokenizer(
        eos_token='<|im_end|>',
        pad_token='<|endoftext|>',
        extra_special_tokens=list(SPECIAL_TOKENS),
    )
    tokenizer = blank.train_new_from_iterator(texts, vocabulary, show_progress=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _reasoner_config(model_type: ReasonerType, sizes: ReasonerSizes, tokenizer: Any) -> Any:
    text = {
        'vocab_size': len(tokenizer),
        'hidden_size': sizes.text_width,
        'intermediate_size': sizes.text_mlp or 4 * sizes.text_width,
        'num_hidden_layers': sizes.text_layers,
        'num_attention_heads': sizes.text_heads,
        'num_key_value_heads': sizes.text_kv_heads,
        'head_dim': 64,
        'max_position_embeddings': 8192,
        # How the 32 rotary frequencies of a 64-wide head are shared by time, height and width.
        'rope_parameters': {
            'rope_type': 'default',
            'rope_theta': _ROPE_THETA,
            'mrope_section': [8, 12, 12],
        },
        'bos_token_id': None,
        'eos_token_id': tokenizer.eos_token_id,
        'pad_token_id': tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {'depth': sizes.vision_layers, 'num_heads': sizes.vision_heads}
    if sizes.patch:
        vision |= {'patch_size': sizes.patch, 'window_size': 8 * sizes.patch}
    if model_type == 'qwen2_vl':
        vision |= {'embed_dim': sizes.vision_width, 'hidden_size': sizes.text_width}
    else:
        vision |= {
            'hidden_size': sizes.vision_width,
            'intermediate_size': sizes.vision_mlp or 4 * sizes.vision_width,
            'out_hidden_size': sizes.text_width,
        }
    if model_type == 'qwen2_5_vl':
        first = 0 if sizes.whole_image else sizes.vision_layers - 1
        vision |= {'fullatt_block_indexes': list(range(first, sizes.vision_layers))}
    if model_type == 'qwen3_vl':
        vision |= {'deepstack_visual_indexes': [0], 'num_position_embeddings': 256}
    config_class = type(transformers.AutoConfig.for_model(model_type))
    ids = {
        f'{name}_token_id': tokenizer.convert_tokens_to_ids(f'<|{token}|>')
        for name, token in (
            ('image', 'image_pad'),
            ('video', 'video_pad'),
            ('vision_start', 'vision_start'),
            ('vision_end', 'vision_end'),
        )
    }
    return config_class(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def _preprocessor_settings(config: Any, sizes: ReasonerSizes) -> dict[str, Any]:
    vision = config.vision_config
    plain = config.model_type == 'qwen3_vl'  # the third generation normalises to -1..1
    return {
        'image_processor_type': 'Qwen2VLImageProcessor',
        'patch_size': vision.patch_size,
        'temporal_patch_size': vision.temporal_patch_size,
        'merge_size': vision.spatial_merge_size,
        'size': {'shortest_edge': sizes.min_pixels, 'longest_edge': sizes.max_pixels},
        'image_mean': [0.5] * 3 if plain else [0.48145466, 0.4578275, 0.40821073],
        'image_std': [0.5] * 3 if plain else [0.26862954, 0.26130258, 0.27577711],
    }


def _segmenter_config(sizes: SegmenterSizes) -> Any:
    widths = [sizes.backbone_width * 2**stage for stage in range(4)]
    side = sizes.image_side
    backbone = {
        'image_size': [side, side],
        'hidden_size': widths[0],
        'blocks_per_stage': [1, 2, 2, 1],
        'embed_dim_per_stage': widths,
        'num_attention_heads_per_stage': [1, 2, 4, 8],
        'window_size_per_stage': [8, 4, 8, 4],
        # Never the first block of a stage: that one pools its queries within windows.
        'global_attention_blocks': [4],
    }
    vision = {
        'backbone_config': backbone,
        'backbone_channel_list': widths[::-1],
        'backbone_feature_sizes': [[side // step, side // step] for step in (4, 8, 16)],
        'fpn_hidden_size': sizes.decoder_width,
    }
    decoder = {
        'hidden_size': sizes.decoder_width,
        'mlp_dim': sizes.decoder_mlp,
        'iou_head_hidden_dim': sizes.decoder_width,
    }
    return transformers.Sam2Config(
        vision_config=vision,
        prompt_encoder_config={'hidden_size': sizes.decoder_width, 'image_size': side},
        mask_decoder_config=decoder,
    )


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
