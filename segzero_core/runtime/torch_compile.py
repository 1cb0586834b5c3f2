# SPDX-License-Identifier: Apache-2.0
"""Going on without ``torch.compile`` where it fails: no compiler, no headers, a bug."""

from __future__ import annotations

import logging

from segzero_core.runtime.memory import is_out_of_memory

_LOG = logging.getLogger(__name__)


def go_on_without(what: str, error: RuntimeError) -> None:
    """Log that ``what`` runs without compilation.

    Raises:
        RuntimeError: ``error`` itself, if the device is out of memory, because that has nothing to
            do with the compiler.
    """
    if is_out_of_memory(error):
        raise error
    # The first line says where, the second what.
    reason = ' '.join(str(error).split('\n')[:2])
    _LOG.warning('cannot compile the %s, it goes on without: %s', what, reason)
