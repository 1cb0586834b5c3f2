# SPDX-License-Identifier: Apache-2.0
"""``metrics.jsonl``: one JSON object per line, with ``step`` and the metrics of that step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzero_core.runtime.atomic import atomic_text, naming

METRICS = 'metrics.jsonl'


def append_metrics(run: Path, values: Mapping[str, Any]) -> None:
    """Append one line to the run's metrics; numbers that are not finite become null."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
    with naming(run / METRICS), (run / METRICS).open('a', encoding='utf-8') as file:
        file.write(json.dumps(clean) + '\n')


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics; an incomplete line of a killed run is skipped."""
    found = []
    for line in (run / METRICS).read_text(encoding='utf-8').splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def forget_after(run: Path, step: int) -> None:
    """Remove the metrics of steps that a resumed run will repeat."""
    if (run / METRICS).is_file():
        kept = [values for values in read_metrics(run) if values['step'] <= step]
        atomic_text(run / METRICS, ''.join(json.dumps(values) + '\n' for values in kept))
