# SPDX-License-Identifier: Apache-2.0
"""Random weights in the shapes of published reasoners, with the same computing time.

python benchmarks/shapes.py 3b FOLDER [--layers 36]

Writes a checkpoint in the shape of Qwen2.5-VL 3B (7.5 GB) or 7B (16.6 GB), in bfloat16 like the
published weights, with a tiny tokenizer. Use it for benchmarks on machines without access to a
model hub.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# From the published config.json files.
SHAPES: dict[str, dict[str, Any]] = {
    '3b': {
        'hidden_size': 2048,
        'intermediate_size': 11008,
        'num_hidden_layers': 36,
        'num_attention_heads': 16,
        'num_key_value_heads': 2,
    },
    '7b': {
        'hidden_size': 3584,
        'intermediate_size': 18944,
        'num_hidden_layers': 28,
        'num_attention_heads': 28,
        'num_key_value_heads': 4,
    },
}
_TIED = {'3b': True, '7b': False}
_TEXT = {
    'vocab_size': 151936,
    'head_dim': 128,
    'max_position_embeddings': 128000,
    'rope_parameters': {
        'rope_type': 'default',
        'rope_theta': 1e6,
        'mrope_section': [16, 24, 24],
    },
}
_VISION = {
    'depth': 32,
    'hidden_size': 1280,
    'intermediate_size': 3420,
    'num_heads': 16,
    'fullatt_block_indexes': [7, 15, 23, 31],
}


def main() -> None:
    """Write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('shapes', choices=SHAPES)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--layers', type=int, help='of text: fewer, for a small machine')
    parser.add_argument('--vision-layers', type=int, help='likewise')
    options = parser.parse_args()
    build_shapes(options.folder, options.shapes, options.layers, options.vision_layers)


def build_shapes(
    folder: Path, shapes: str, layers: int | None = None, vision_layers: int | None = None
) -> Path:
    """Write random weights of these shapes to ``folder``, with fewer layers where given."""
    import torch

    from segzero_core.runtime.checkpoints import transformers
    from segzero_core.runtime.tiny_checkpoints import build_tiny_reasoner

    build_tiny_reasoner(folder)
    given = transformers.AutoConfig.from_pretrained(folder).to_dict()
    text = {**given['text_config'], **_TEXT, **SHAPES[shapes]}
    text['num_hidden_layers'] = layers or text['num_hidden_layers']
    text['layer_types'] = ['full_attention'] * text['num_hidden_layers']
    vision = {**given['vision_config'], **_VISION, 'out_hidden_size': text['hidden_size']}
    if vision_layers:
        vision |= {'depth': vision_layers, 'fullatt_block_indexes': [vision_layers - 1]}
    given |= {'text_config': text, 'vision_config': vision, 'tie_word_embeddings': _TIED[shapes]}
    config = transformers.AutoConfig.for_model(**given)
    settings = transformers.GenerationConfig.from_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config = settings
    model.save_pretrained(folder)
    return folder


if __name__ == '__main__':
    main()
