# SPDX-License-Identifier: Apache-2.0
"""The contract as a regular expression, for servers and engines that can hold a model to one."""

from __future__ import annotations

_NUMBER = r'\d{1,5}(\.\d{1,3})?'
_LIST = {n: rf'\[{_NUMBER}(, ?{_NUMBER}){{{n - 1}}}\]' for n in (2, 4)}
# Text that ``answer.parse_answer`` reads without repairs, if the box lies in the image.
ANSWER_PATTERN = (
    rf'\{{"bbox": {_LIST[4]}, "points_1": {_LIST[2]}, "points_2": {_LIST[2]}\}}</answer>'
)


def pattern_after(written: str) -> str:
    """Return what may follow ``written``, the beginning of a reply, as a regular expression."""
    start = '' if written else '<think>'
    thoughts = '' if '</think>' in written else '[^<]+</think>'
    opened = '' if '<answer>' in written else '<answer>'
    return start + thoughts + opened + ANSWER_PATTERN
