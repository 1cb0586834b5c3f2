# SPDX-License-Identifier: Apache-2.0
"""Tests use what the product exposes; the few private names they touch are listed with reasons."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
LIST = TESTS / 'private_names.txt'
PACKAGES = ('segzero_core', 'segzero_ros', 'training')
_PATCHED = re.compile(rf'(?:{"|".join(PACKAGES)})[\w.]*\.(_[a-z]\w*)', re.IGNORECASE)


def is_private(name: str) -> bool:
    return name.startswith('_') and not name.startswith('__') and name != '_'


def private_names(tree: ast.Module) -> Iterator[str]:
    """Yield the private names that a test takes from elsewhere, also those it patches by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value.id if isinstance(node.value, ast.Name) else ''
            if owner not in ('self', 'cls', 'os'):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith(PACKAGES):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (name for name in _PATCHED.findall(node.value))
        elif isinstance(node, ast.Call) and len(node.args) > 1:
            patches = isinstance(node.func, ast.Attribute) and node.func.attr == 'setattr'
            name = node.args[1]
            if patches and isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield str(name.value)


def test_every_private_name_that_tests_use_is_listed_with_its_reason() -> None:
    listed = {}
    for line in LIST.read_text(encoding='utf-8').splitlines():
        if line and not line.startswith('#'):
            name, _, reason = line.partition('  ')
            listed[name] = reason
    assert all(listed.values()), 'a name has no reason'
    used: dict[str, str] = {}
    for path in sorted(TESTS.rglob('*.py')):
        for name in private_names(ast.parse(path.read_text(encoding='utf-8'))):
            used.setdefault(name, str(path.relative_to(TESTS)))
    unlisted = {name: path for name, path in used.items() if name not in listed}
    assert not unlisted, f'expose what these tests need, or list it in {LIST.name}'
    assert set(listed) <= set(used), 'listed, but used nowhere'
