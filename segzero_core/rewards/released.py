# SPDX-License-Identifier: Apache-2.0
"""The rewards as the released training code computes them, including its quirks.

For any text, every function here returns exactly the result of the code that trained the released
checkpoints (dvlab-research/Seg-Zero at 77f9ea5, verl/utils/reward_score/seg.py and
seg_restrict.py). Its quirks, none of which the hardened rewards have:

* The first ``{...}`` anywhere counts, even in the thinking, and it ends at its first ``}``.
* Empty thinking and a second answer block are well formed; a leading space is not.
* Only lengths are checked: the soft format accepts text instead of lists, and both accept null.
* Areas are one pixel larger in each direction, and boxes may be reversed.
* The mean of the four differences, not their sum, must be under 10.
* "Point L1" is the mean Euclidean distance of the better pairing, after truncating the prediction
  to whole numbers, and the points must be inside the predicted box.
* The soft format counts keys that contain ``point``, the soft point reward only ``points``.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

_SEAM = re.compile(r'</think>\s*<answer>')

# Errors of arithmetic on arbitrary JSON values. Each of them means no reward.
UNUSABLE = (TypeError, ValueError, LookupError, ArithmeticError)


def think_format(text: str) -> bool:
    """Return whether the text is one thinking block and one answer block, and nothing else."""
    if not (text.startswith('<think>') and text.endswith('</answer>')):
        return False
    return _SEAM.search(text, len('<think>')) is not None


@functools.lru_cache(maxsize=256)  # several rewards of one text in a row
def read(text: str) -> dict[str, Any] | None:
    """Return the object in the first ``{...}`` that is not empty, or ``None``."""
    start = text.find('{')
    while start >= 0 and text.startswith('{}', start):
        start = text.find('{', start + 1)
    end = text.find('}', start + 1)
    if start < 0 or end < 0:
        return None
    try:
        data: dict[str, Any] = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    return data


def soft_format(data: dict[str, Any], want_box: bool, want_points: bool) -> bool:
    """Return whether a key with ``bbox`` has length 4, and two with ``point`` have length 2."""
    box_key = next((key for key in data if 'bbox' in key.lower()), None)
    point_keys = [key for key in data if 'point' in key.lower() and key != box_key][:2]
    try:
        box_fits = not want_box or (box_key is not None and len(data[box_key]) == 4)
        points_fit = len(point_keys) == 2 and all(len(data[key]) == 2 for key in point_keys)
    except TypeError:
        return False
    return box_fits and (points_fit or not want_points)


def strict_format(data: dict[str, Any], want_box: bool, want_points: bool) -> bool:
    """Return whether the exact keys exist and have lists of the right lengths."""
    lengths = {'bbox': 4} if want_box else {}
    lengths |= {'points_1': 2, 'points_2': 2} if want_points else {}
    return all(
        isinstance(data.get(key), list) and len(data[key]) == length
        for key, length in lengths.items()
    )


def find_box(data: dict[str, Any], strict: bool) -> Any:
    """Return the value that counts as the box, anything of length 4, or ``None``."""
    key = 'bbox' if strict else next((key for key in data if 'bbox' in key.lower()), None)
    value: Any = None if key is None else data.get(key)
    try:
        return value if len(value) == 4 else None
    except TypeError:
        return None


def find_points(data: dict[str, Any], strict: bool) -> list[list[int]] | None:
    """Return the two points, truncated to whole numbers, or ``None``."""
    keys = ['points_1', 'points_2'] if strict else [k for k in data if 'points' in k.lower()][:2]
    if len(keys) != 2:
        return None
    try:
        return [[int(data[key][0]), int(data[key][1])] for key in keys]
    except UNUSABLE:
        return None


def box_iou(box: Any, truth: Sequence[float]) -> float:
    """Return the IoU with areas one pixel larger; for reversed boxes it can be any number.

    Raises:
        TypeError, ValueError, LookupError, ArithmeticError: ``box`` is not four numbers.
    """
    left, top = max(box[0], truth[0]), max(box[1], truth[1])
    right, bottom = min(box[2], truth[2]), min(box[3], truth[3])
    overlap = left < right and top < bottom
    shared = (right - left + 1) * (bottom - top + 1) if overlap else 0
    total = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
    total = total + (truth[2] - truth[0] + 1) * (truth[3] - truth[1] + 1) - shared
    return float(shared) / total


def box_l1(box: Any, truth: Sequence[float]) -> float:
    """Return the mean of the four absolute differences; raises as ``box_iou`` does."""
    # Written out: sum() rounds differently from Python 3.12 on.
    first, second = abs(box[0] - truth[0]), abs(box[1] - truth[1])
    third, fourth = abs(box[2] - truth[2]), abs(box[3] - truth[3])
    return (first + second + third + fourth) / 4


def euclidean(a: Any, b: Any) -> float:
    """Return the distance of two points; raises as ``box_iou`` does."""
    return math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2)


def paired(points: Any, truth: Any, distance: Callable[[Any, Any], float]) -> float:
    """Return the mean distance of two points from two others, for the better pairing."""
    straight = distance(points[0], truth[0]) + distance(points[1], truth[1])
    crossed = distance(points[0], truth[1]) + distance(points[1], truth[0])
    return min(straight, crossed) / 2


def inside(point: Any, box: Any) -> bool:
    """Return whether a point is in a box or on its edge; raises as ``box_iou`` does."""
    return bool(box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])


def non_repeat(text: str) -> bool:
    """Return whether fewer than two sentences are exact repetitions (VisionReasoner's reward).

    The whole text counts, including the answer; a sentence ends at a full stop.
    """
    sentences = [sentence.strip() for sentence in text.split('.')]
    sentences = [sentence for sentence in sentences if sentence]
    return len(sentences) - len(set(sentences)) < 2
