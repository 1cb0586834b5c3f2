# SPDX-License-Identifier: Apache-2.0
"""Options that had another name before version 0.2.0.

An old name is an error that names the new one. Parameters of the node, keys of YAML files, flags
of programs and options of engines all use this table.
"""

from __future__ import annotations

# Old name to new name, as engine options write them.
RENAMED_OPTIONS: dict[str, str] = {
    'drafts': 'num_draft_tokens',
    'compiled': 'torch_compile',
    'guided': 'structured_output',
    'memory_share': 'gpu_memory_utilization',
    'vllm_memory': 'vllm_gpu_memory_utilization',
    'prompt': 'segmenter_prompt',
}


def new_name(name: str) -> str | None:
    """Return the present name of an option, or ``None`` if ``name`` was never renamed.

    Args:
        name: As the user wrote it: ``'guided'``, ``'reasoner.guided'`` or ``'--memory-share'``.

    Returns:
        The present name in the same style: ``'structured_output'``,
        ``'reasoner.structured_output'``, ``'--gpu-memory-utilization'``.
    """
    bare = name.lstrip('-')
    group, dot, last = bare.rpartition('.')
    renamed = RENAMED_OPTIONS.get(last.replace('-', '_'))
    if renamed is None:
        return None
    if name.startswith('-'):
        renamed = renamed.replace('_', '-')
    return name[: len(name) - len(bare)] + group + dot + renamed
