# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a process."""

from __future__ import annotations

import re
from pathlib import Path


def peak_megabytes(process: int | str = 'self') -> float:
    """Return the peak resident memory of a process in MiB; 0 if the process has ended (proc(5)).

    ``ru_maxrss`` is not used, because it includes the memory of the parent process at the fork.
    """
    found = re.search(r'VmHWM:\s*(\d+) kB', Path(f'/proc/{process}/status').read_text())
    return int(found.group(1)) / 2**10 if found else 0.0
