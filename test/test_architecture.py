# SPDX-License-Identifier: Apache-2.0
"""The architecture: imports in one direction, no cycles, and one meaning for each name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ('segzero_core', 'segzero_ros', 'training')
# The packages that each package may import.
ARROWS = {'segzero_core': set(), 'segzero_ros': {'segzero_core'}, 'training': {'segzero_core'}}
# File names that stand for the same thing in two roles.
TWO_ROLES = {'__init__', '__main__', 'base', 'released'}


def module_name(path: Path) -> str:
    """Return the dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts).removesuffix('.__init__')


FILES = {module_name(path): path for room in ROOMS for path in sorted((ROOT / room).rglob('*.py'))}
TREES = {name: ast.parse(path.read_text(encoding='utf-8')) for name, path in FILES.items()}


def imports(tree: ast.Module, everywhere: bool) -> Iterator[str]:
    """Yield the modules that a file imports: at its top, or ``everywhere``, in functions too."""
    nodes = list(ast.walk(tree)) if everywhere else list(top_level(tree.body))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f'{node.module}.{alias.name}'
                yield inner if inner in FILES else node.module


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported, but those for type checkers."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and 'TYPE_CHECKING' not in ast.dump(node.test):
            yield from top_level(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from top_level(node.body + node.orelse + node.finalbody)


@pytest.mark.parametrize('room', ROOMS)
def test_imports_go_one_way(room: str) -> None:
    others = set(ROOMS) - {room} - ARROWS[room]
    wrong = [
        f'{name} imports {imported}'
        for name, tree in TREES.items()
        if name.split('.')[0] == room
        for imported in imports(tree, everywhere=True)
        if imported.split('.')[0] in others
    ]
    assert not wrong


def test_only_the_node_knows_ros() -> None:
    wrong = [
        f'{name} imports {imported}'
        for name, tree in TREES.items()
        if not name.startswith('segzero_ros')
        for imported in imports(tree, everywhere=True)
        if imported.split('.')[0] in ('rclpy', 'sensor_msgs', 'std_msgs', 'geometry_msgs')
    ]
    assert not wrong


def test_imports_make_no_circle() -> None:
    graph = {
        name: {found for found in imports(tree, everywhere=False) if found in FILES}
        for name, tree in TREES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, ' -> '.join((*path[path.index(name) :], name))
        if name not in done:
            for imported in sorted(graph[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_a_public_class_name_stands_for_one_thing() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                places[node.name].append(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_a_file_name_in_the_core_stands_for_one_thing() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for name, path in FILES.items():
        if name.startswith('segzero_core') and path.stem not in TWO_ROLES:
            places[path.stem].append(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}
