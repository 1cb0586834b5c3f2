# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of ``docs/reference.md`` that come from the code: ``python docs/generate.py``.

Each table stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. A test compares the
page with the code, so that neither can change alone.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'reference.md'
_BLOCK = re.compile(r'(<!-- generated: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


def parameters() -> str:
    """Return the node's parameters as a Markdown table: name, default, meaning, when to set."""
    from segzero_ros.settings import PARAMETERS

    rows = ['| parameter | default | meaning | may be | set |', '|---|---|---|---|---|']
    for name, spec in PARAMETERS.items():
        when = 'at start' if spec.read_only else 'at any time' if spec.live else 'before configure'
        rows.append(
            f'| `{name}` | {_shown(spec.default)} | {_cell(spec.description)} | '
            f'{_allowed(spec)} | {when} |'
        )
    return '\n'.join(rows)


def warnings() -> str:
    """Return the kinds of warnings as a Markdown table."""
    from segzero_core.types import WARNING_KINDS

    rows = ['| kind | meaning |', '|---|---|']
    rows += [f'| `{kind}` | {_cell(meaning)} |' for kind, meaning in WARNING_KINDS.items()]
    return '\n'.join(rows)


def errors() -> str:
    """Return every error as a Markdown table: its kinds, its class and when it is raised."""
    rows = ['| kind | error | when |', '|---|---|---|']
    for error in sorted(_errors(), key=lambda each: each.__name__):
        kinds = getattr(error, 'KINDS', (error.kind,))
        said = ', '.join(f'`{kind}`' for kind in kinds)
        rows.append(f'| {said} | `{error.__name__}` | {_cell(_summary(error))} |')
    return '\n'.join(rows)


TABLES: dict[str, Callable[[], str]] = {
    'parameters': parameters,
    'warnings': warnings,
    'errors': errors,
}


def filled(page: str) -> str:
    """Return ``page`` with every generated table as the code has it now."""
    return _BLOCK.sub(lambda block: f'{block[1]}{TABLES[block[2]]()}\n{block[3]}', page)


def _errors() -> Iterator[Any]:
    """Yield every class of error that the node or the core raises, wherever it is defined."""
    from segzero_core.errors import SegZeroError

    for package in ('segzero_core', 'segzero_ros'):
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, f'{package}.'):
            # Modules of engines that are not installed raise none of their own errors.
            if 'errors' in found.name or package == 'segzero_ros':
                importlib.import_module(found.name)
    waiting = [SegZeroError]
    seen = set()
    while waiting:
        error = waiting.pop()
        if error not in seen:
            seen.add(error)
            waiting.extend(error.__subclasses__())
            yield error


def _summary(thing: Any) -> str:
    return (thing.__doc__ or '').strip().split('\n\n')[0].replace('\n', ' ')


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return '`true`' if value else '`false`'
    return f'`{value!r}`' if value != '' else "`''`"


def _allowed(spec: Any) -> str:
    if spec.choices is not None:
        return ', '.join(f'`{choice}`' if choice else "`''`" for choice in sorted(spec.choices()))
    return f'{spec.low:g} to {spec.high:g}' if math.isfinite(spec.low) else ''


def _cell(text: str) -> str:
    return ' '.join(text.split()).replace('|', '\\|')


def main() -> int:
    """Write the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.path[0] = str(ROOT)
    sys.exit(main())
