# SPDX-License-Identifier: Apache-2.0
"""The answer format as a regular expression, for servers and engines with structured output."""

from __future__ import annotations

from segzero_core.reasoners.streaming import THINK, StreamedReply
from segzero_core.task import Task

_PIXELS = r'\d{1,5}(\.\d{1,3})?'
_THOUSANDTHS = r'(1000|\d{1,3})'
_THOUGHTS = '[^<]+</think>'


def answer_pattern(task: Task) -> str:
    """Return the pattern of an answer with its closing tag, in the form ``task`` asks for.

    ``Task.read`` reads every text that matches without repairs, if its box lies in the image and
    has its corners in order. Families that ask for JSON without tags have no closing tag.
    """
    number = _THOUSANDTHS if task.family.space == 'thousandths' else _PIXELS
    box, point = _list(number, 4), _list(number, 2)
    if not task.family.tagged:
        return rf'\{{"bbox_2d": {box}\}}'
    pairs = [f'"bbox": {box}'] if task.box else []
    if task.points:
        pairs += [f'"points_1": {point}', f'"points_2": {point}']
    return rf'\{{{", ".join(pairs)}\}}</answer>'


def pattern_after(reply: StreamedReply, task: Task) -> str | None:
    """Return the pattern of everything that may follow in a reply.

    Args:
        reply: The reply as far as it is written.
        task: The task of the checkpoint.

    Returns:
        A regular expression; ``None`` for families whose answers are words.
    """
    if task.family.asks == 'words':
        return None
    if not task.family.tagged:
        return answer_pattern(task)
    text = reply.text.lower()
    tag = '' if '<answer>' in text else '<answer>'
    if not task.think or '</think>' in text or not tag:
        return tag + answer_pattern(task)
    return ('' if text else THINK) + _THOUGHTS + tag + answer_pattern(task)


def _list(number: str, count: int) -> str:
    return rf'\[{number}(, ?{number}){{{count - 1}}}\]'
