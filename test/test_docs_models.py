# SPDX-License-Identifier: Apache-2.0
"""docs/models.md says what the code does, and names every model that was never run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from segzero_core.errors import ServerError
from segzero_core.reasoners import REASONERS
from segzero_core.registry import EngineEntry
from segzero_core.segmenters import SEGMENTERS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'models.md').read_text('utf-8')


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading of the page, without its head."""
    below = PAGE.split(heading, 1)[1]
    (table,) = re.findall(r'(?:^\|.*\n)+', below, re.MULTILINE)[:1]
    return [
        [cell.strip() for cell in line.strip('| ').split(' | ')] for line in table.splitlines()
    ][2:]


def code(cell: str) -> set[str]:
    return set(re.findall(r'`([^`]+)`', cell))


def options(entry: EngineEntry) -> set[str]:
    """Return the options of an engine; read from its source, because its library may be absent."""
    module, name = entry.path.split(':')
    file = ROOT / (module.replace('.', '/') + '.py')
    for node in ast.walk(ast.parse(file.read_text('utf-8'))):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == '__init__':
                    return {each.arg for each in method.args.args} - {'self'}
    raise AssertionError(f'{file} has no constructor of {name}')


@pytest.mark.parametrize('engine', ['transformers', 'vllm', 'openai'])
def test_the_table_of_options_has_those_of_the_engines(engine: str) -> None:
    listed = {
        name for row in rows('## Options') if engine in code(row[1]) for name in code(row[0])
    }
    assert listed == options(REASONERS[engine])


def test_the_tables_of_engines_are_the_registries() -> None:
    assert {name for row in rows('# Models and engines') for name in code(row[0])} == set(
        REASONERS
    )
    segmenters = rows('| `rules` | no model')
    assert {name for row in segmenters for name in code(row[0])} == set(SEGMENTERS)


def test_the_table_of_errors_has_all_kinds() -> None:
    kinds = {name for row in rows('**Failures**') for name in code(row[0])}
    assert kinds == set(ServerError.KINDS)


def test_every_published_model_that_is_named_anywhere_is_listed_as_never_run() -> None:
    listed = code(' '.join(row[0] for row in rows('**Never run**')))
    files = [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md'), *(ROOT / 'config').rglob('*.yaml')]
    files += [*(ROOT / 'deploy').glob('*.y*ml')]
    named = set()
    for file in files:
        text = file.read_text('utf-8')
        named |= set(re.findall(r'\b(?:Qwen|facebook)/[\w.-]*\w', text))
        named |= set(re.findall(r'\bRicky06662/(?:Seg-Zero|VisionReasoner)[\w.-]*\w', text))
    assert named
    assert named <= listed, f'docs/models.md does not list {sorted(named - listed)} as never run'


def test_the_files_and_make_targets_it_names_exist() -> None:
    for target in re.findall(r'\]\(([^)#]+)\)', PAGE):
        assert (ROOT / 'docs' / target).exists(), target
    for path in re.findall(r'\b(?:requirements|segzero_core)/[\w./]+\w', PAGE):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / 'Makefile').read_text('utf-8')
    for target in re.findall(r'`make ([\w-]+)`', PAGE):
        assert f'\n{target}:' in makefile, target
