# SPDX-License-Identifier: Apache-2.0
"""The program ``segzero``, also ``python -m segzero_core``. See ``command_line``."""

from __future__ import annotations

import sys

from segzero_core.runtime.program import run_program


def main() -> int:
    """Run the command line; return the exit code."""
    return run_program('segzero', 'segzero_core.command_line:main')


if __name__ == '__main__':
    sys.exit(main())
