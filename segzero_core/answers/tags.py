# SPDX-License-Identifier: Apache-2.0
"""Tell thinking and answer apart by their tags.

A clean reply is ``<think>...</think><answer>...</answer>``. Thoughts quote the format they were
asked for, chat templates open thoughts in the prompt (so that the reply has ``</think>`` only),
and some replies have no tags at all. The rules:

* ``<think>`` and ``</think>`` are matched like brackets. A ``</think>`` that no ``<think>`` before
  it opens ends a thought that began at the start of the reply: everything before it is thought,
  with all the tags in it, if an answer follows.
* ``<think>a</think><answer>A</answer><think>b</think><answer>B</answer>`` is two turns; the first
  answer counts.
* Where there is no ``</think>``, the thought ends at the first ``<answer>``.
* Where there is no ``</think>``, ``</thinking>`` and the like end thoughts that quote an answer.
* ``<think><think>`` at the start opens one thought: the model repeats what its template wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

TAGS = {
    name: re.compile(f'<{name}>', re.IGNORECASE)
    for name in ('think', '/think', 'answer', '/answer')
}
_THINK = re.compile('<(/?)think>', re.IGNORECASE)
# The tags of other models, which count only where there is no </think>.
_OTHER = re.compile(
    r'<(/?)(?:thinking|thoughts?|reasoning|seed:think)>|\[(/?)think\]', re.IGNORECASE
)
_LEADING = re.compile(r'\s*<think>(?:\s*<think>)*', re.IGNORECASE)
# The beginning of an answer: its tag, or an object with one of its keys.
_ANSWER_BEGINS = re.compile(r'<answer>|\{\s*["\']?\s*(?:bbox|box|point)', re.IGNORECASE)


class Block(NamedTuple):
    """A place where an answer may stand.

    Attributes:
        text: Between the tags.
        repairs: Names of the faults of the tags.
    """

    text: str
    repairs: tuple[str, ...] = ()


class Parts(NamedTuple):
    """A reply, split.

    Attributes:
        thinking: The thoughts, without their tags.
        blocks: The places where the answer may stand, the likeliest first; at least one.
        tagged: Whether an answer tag says so.
        closed: Whether the thoughts are known to be over before the first block: a ``</think>``
            ends them, or nothing opened any.
        complete: Whether ``</answer>`` ends the first block.
    """

    thinking: str
    blocks: tuple[Block, ...]
    tagged: bool
    closed: bool
    complete: bool


def split_reply(text: str) -> Parts:
    """Split a reply into thoughts and the places where its answer may stand.

    Takes time linear in the length of the text.
    """
    if _quotes_in_other_tags(text):
        text = _with_think_tags(text)
    start, limit, after, closed = _thought(text)
    thinking = text[start:limit]
    # The text before a thought that has its own tag; all of the thought where it has none.
    tag = TAGS['think'].search(text)
    before = text[: tag.start()] if tag and tag.end() == start else thinking
    for part in (text[after:], before):
        blocks = list(_blocks(part))
        if blocks:
            complete = TAGS['/answer'].search(part) is not None
            return Parts(thinking, tuple(blocks), True, closed, complete)
    repairs = ['there were no <answer> tags']
    place = text[after:] if text[after:].strip() else before
    if not place.strip():
        place = thinking
        repairs.append('the answer was taken from the thinking')
    return Parts(thinking, (Block(place, tuple(repairs)),), False, closed, False)


def thinking_is_over(text: str, opened: bool | None) -> bool:
    """Return whether the thoughts of a reply that is still being written have ended.

    Args:
        text: The reply so far, without the part that the chat template wrote.
        opened: Whether the chat template opened a thought; ``None`` = unknown. Then only a
            ``</think>`` says that thoughts are over, unless the reply opens them itself.
    """
    text = _with_think_tags(text)
    leading = _LEADING.match(text)
    depth = int(opened or leading is not None)
    ended = opened is False or (opened is None and leading is not None)
    for tag in _THINK.finditer(text, leading.end() if leading else 0):
        if not tag[1]:
            depth += 1
            continue
        ended = ended or depth == int(opened or False)
        depth = max(0, depth - 1)
    return ended and depth == 0


def _with_think_tags(text: str) -> str:
    """Return ``text`` with the tags of other models as ``<think>`` and ``</think>``."""
    return text if TAGS['/think'].search(text) else _OTHER.sub(r'<\1\2think>', text)


def _quotes_in_other_tags(text: str) -> bool:
    """Return whether thoughts between the tags of other models quote an answer before another."""
    first = TAGS['answer'].search(text)
    ends = [tag.end() for tag in _OTHER.finditer(text) if '/' in tag[0]]
    if first is None or not ends or ends[-1] < first.end():
        return False
    return TAGS['answer'].search(text, ends[-1]) is not None


def _thought(text: str) -> tuple[int, int, int, bool]:
    """Return where the thought begins and ends, where the rest begins, and if it is closed."""
    first_tag = TAGS['think'].search(text)
    begins = first_tag.end() if first_tag else 0
    ends = _ends(text)
    if not ends:
        answer = TAGS['answer'].search(text, begins)
        limit = answer.start() if answer else (len(text) if first_tag else 0)
        return begins, limit, limit, first_tag is None
    chosen = next((end for end in ends if _ANSWER_BEGINS.search(text, end.end())), ends[-1])
    if first_tag and first_tag.start() > chosen.start():
        begins = 0
    elif first_tag and chosen is not ends[-1] and text[: first_tag.start()].strip():
        begins = 0  # that tag is only quoted: the template opened the thought
    limit = chosen.start()
    if chosen is not ends[-1] and not text[ends[-1].end() : limit].strip():
        limit = ends[-1].start()  # written twice
    return begins, limit, chosen.end(), True


def _ends(text: str) -> list[re.Match[str]]:
    """Return the tags that may end the thought, the likeliest first, the first of all last.

    The likeliest is the last one that nothing opened, because a thought that began before the
    reply goes on until there; unless it stands in an answer, and no other answer follows. The next
    is the one that closes the first thought.
    """
    leading = _LEADING.match(text)
    depth = int(leading is not None)
    matched: re.Match[str] | None = None
    unmatched: re.Match[str] | None = None
    first: re.Match[str] | None = None
    for tag in _THINK.finditer(text, leading.end() if leading else 0):
        if not tag[1]:
            depth += 1
            continue
        first = first or tag
        if depth == 0:
            unmatched = tag
        elif depth == 1:
            matched = matched or tag
        depth = max(0, depth - 1)
    if first is None:
        return []
    if unmatched and not TAGS['answer'].search(text, unmatched.end()):
        begun = TAGS['answer'].search(text, first.end(), unmatched.start())
        unmatched = None if begun else unmatched
    return [tag for tag in (unmatched, matched) if tag not in (None, first)] + [first]


def _blocks(text: str) -> Iterator[Block]:
    """Yield the answer blocks of ``text`` in order; none if there is no answer tag at all."""
    starts = [match.end() for match in TAGS['answer'].finditer(text)]
    ends = [match.start() for match in TAGS['/answer'].finditer(text)]
    several = ('one of several <answer> blocks was used',) if len(starts) > 1 else ()
    if not ends:
        if starts:
            # Of several starts without any end, the first block stops at the second start.
            second = TAGS['answer'].search(text, starts[0])
            block = text[starts[0] : second.start() if second else len(text)]
            yield Block(block, (*several, 'there was no </answer> tag'))
        return
    place, last = 0, 0
    for end in ends:
        # The latest start before this end; starts are in order.
        within = place
        while place < len(starts) and starts[place] <= end:
            place += 1
        if place > within:
            yield Block(text[starts[place - 1] : end], several)
        elif last == 0:
            yield Block(text[:end], (*several, 'there was no <answer> tag'))
        last = end
