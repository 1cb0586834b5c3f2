# SPDX-License-Identifier: Apache-2.0
"""Reasoners: one file per engine, one line here per engine."""

from __future__ import annotations

from typing import Any, cast

from segzero_core.reasoners.base import BatchReasoner, Reasoner, Reply
from segzero_core.registry import EngineEntry, create_engine

REASONERS = {
    'openai': EngineEntry('segzero_core.reasoners.openai:OpenAIReasoner', 'openai'),
    'rules': EngineEntry('segzero_core.reasoners.rules:RulesReasoner', 'core'),
    'transformers': EngineEntry(
        'segzero_core.reasoners.transformers:TransformersReasoner', 'models', has_device=True
    ),
    'vllm': EngineEntry('segzero_core.reasoners.vllm:VllmReasoner', 'vllm', has_device=True),
}


def load_reasoner(engine: str, **options: Any) -> Reasoner:
    """Construct the reasoner called ``engine``; see ``registry.create_engine`` for errors."""
    return cast(Reasoner, create_engine('reasoner', REASONERS, engine, options))


__all__ = ['REASONERS', 'BatchReasoner', 'Reasoner', 'Reply', 'load_reasoner']
