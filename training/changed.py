# SPDX-License-Identifier: Apache-2.0
"""What differs between the settings a folder's work was begun with and those of now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return each setting that differs in words, with both values."""
    return [
        f'{key} ({before.get(key)!r}, now {now.get(key)!r})'
        for key in dict.fromkeys((*now, *before))
        if before.get(key) != now.get(key)
    ]
