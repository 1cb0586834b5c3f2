# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a process."""

from __future__ import annotations

import re
from pathlib import Path


def peak_megabytes(process: int | str = 'self') -> float:
    """Return the peak of a process's resident memory in MiB, 0 where it has ended (proc(5)).

    Not its ``ru_maxrss``: that also counts the memory of the process it was started from.
    """
    found = re.search(r'VmHWM:\s*(\d+) kB', Path(f'/proc/{process}/status').read_text())
    return int(found.group(1)) / 2**10 if found else 0.0
