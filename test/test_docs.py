# SPDX-License-Identifier: Apache-2.0
"""The documents: their generated parts are current, and every link has a target."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for path in [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('segzero_*/**/*.md')]
    if 'api' not in path.relative_to(ROOT).parts
)
_LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)')
_FENCE = re.compile(r'^```.*?^```', re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub('', page.read_text(encoding='utf-8'))
    found = set()
    for heading in re.findall(r'^#+ +(.*?)\s*$', text, re.MULTILINE):
        plain = re.sub(r'[`*]|\[([^\]]*)\]\([^)]*\)', r'\1', heading).lower()
        found.add(re.sub(r'[^\w\- ]', '', plain).replace(' ', '-'))
    return found


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = _FENCE.sub('', page.read_text(encoding='utf-8'))
    for target in _LINK.findall(text):
        if re.match(r'[a-z]+:', target):
            continue  # elsewhere; nothing here asks the network
        path, _, anchor = target.partition('#')
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f'{page.name}: {target}'
        if anchor and there.suffix == '.md':
            assert anchor in anchors(there), f'{page.name}: {target}'


def test_generated_tables_are_current() -> None:
    pytest.importorskip('rclpy', reason='needs rclpy: make test installs it, or source ROS 2')
    generator = runpy.run_path(str(ROOT / 'docs' / 'generate.py'))
    page = (ROOT / 'docs' / 'reference.md').read_text(encoding='utf-8')
    for name in generator['TABLES']:
        assert f'<!-- generated: {name} -->' in page
    assert generator['filled'](page) == page, 'run python docs/generate.py'


def test_the_readme_is_short() -> None:
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert len(text.split()) <= 900


def test_one_version_stands_everywhere() -> None:
    manifest = (ROOT / 'package.xml').read_text(encoding='utf-8')
    version = re.search(r'<version>(.+?)</version>', manifest)
    assert version is not None
    citation = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert f'\nversion: {version.group(1)}\n' in citation
    changelog = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    newest = re.search(r'^## (\S+)', changelog, re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == version.group(1)
