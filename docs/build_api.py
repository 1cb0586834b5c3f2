# SPDX-License-Identifier: Apache-2.0
"""Builds the API pages from the docstrings: ``python docs/build_api.py [FOLDER]``.

Every module that can be imported here gets a page. Engines whose library is not installed are
named and left out. A link between pages that leads nowhere is an error.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ('segzero_core', 'segzero_ros')
_HREF = re.compile(r'href="([^"#:$]+?)(?:#[^"]*)?"')


def modules() -> tuple[list[str], list[str]]:
    """Return the names of the modules that can be imported, and why others cannot."""
    found, missing = [], []
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        names = [each.name for each in pkgutil.walk_packages(path, f'{package}.')]
        for name in [package, *names]:
            if name.endswith('__main__'):
                continue
            try:
                importlib.import_module(name)
            except ImportError as error:
                missing.append(f'{name}: {error}')
            else:
                found.append(name)
    return found, missing


def broken_links(folder: Path) -> list[str]:
    """Return the links between the pages of ``folder`` that lead nowhere."""
    return [
        f'{page.relative_to(folder)}: {target}'
        for page in sorted(folder.rglob('*.html'))
        for target in _HREF.findall(page.read_text(encoding='utf-8'))
        if not (page.parent / target).exists()
    ]


def main(arguments: list[str]) -> int:
    """Build the pages; return 1 if a link is broken."""
    import pdoc

    folder = Path(arguments[0] if arguments else ROOT / 'docs' / 'api')
    found, missing = modules()
    pdoc.render.configure(docformat='google')
    pdoc.pdoc(*found, output_directory=folder)
    for line in missing:
        print(f'left out, because its library is not installed: {line}')
    broken = broken_links(folder)
    for line in broken:
        print(f'broken link: {line}', file=sys.stderr)
    print(f'{len(found)} modules: {folder / "index.html"}')
    return 1 if broken else 0


if __name__ == '__main__':
    sys.path[0] = str(ROOT)
    sys.exit(main(sys.argv[1:]))
