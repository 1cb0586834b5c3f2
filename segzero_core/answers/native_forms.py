# SPDX-License-Identifier: Apache-2.0
"""Boxes and points in the forms that base models were trained to write, which are not JSON.

Box tokens of Qwen2-VL and InternVL, ``<box>`` and ``<points>`` of the released datasets, XML
points in the manner of Molmo, and, where a box alone was asked for, the bare corners that are left
of them when a server removes special tokens.
"""

from __future__ import annotations

import re

from segzero_core.answers.lenient_json import Pairs

_NUMBER = r'[-+]?\d+(?:\.\d*)?'
_ONE = re.compile(_NUMBER)
_BRACKETS = r'[\s,;()\[\]{}]'
_TAGGED = re.compile(
    r'<\|?(?P<name>box|bbox|points?(?:_?[12])?)(?:_start)?\|?>'
    rf'(?P<numbers>{_BRACKETS}*{_NUMBER}(?:{_BRACKETS}+{_NUMBER}){{1,7}}{_BRACKETS}*)'
    r'<(?:/(?P=name)|\|(?P=name)_end\|)>',
    re.IGNORECASE,
)
# <point x="10" y="20" alt="mug">, <points x1="10" y1="20" x2="30" y2="40">
_XML = re.compile(
    r'<points?(?P<attributes>(?:\s+[\w-]{1,20}\s*=\s*(?:"[^"<>]*"|\'[^\'<>]*\'))+)\s*/?>',
    re.IGNORECASE,
)
_ATTRIBUTE = re.compile(rf'\b([xy])(\d*)\s*=\s*["\']\s*({_NUMBER})\s*["\']', re.IGNORECASE)
_PAIR = rf'\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)'
_CORNERS = rf'{_PAIR}\s*,\s*{_PAIR}'
_LABEL = r'[^()\[\]{}]{0,80}'  # what is left of <|object_ref_start|>the mug<|object_ref_end|>
_BARE_CORNERS = re.compile(rf'(?:{_LABEL}{_CORNERS})+\W*')
_BARE_LIST = re.compile(rf'\W{{0,3}}\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*\]\W{{0,3}}')


def read_native(text: str, bare: bool) -> list[Pairs]:
    """Return the objects that ``text`` names by tokens or tags, each as keys and numbers.

    Takes time linear in the length of the text.

    Args:
        text: The place where the answer stands.
        bare: Whether four numbers alone, as two corners or as one list, are a box.

    Returns:
        One object for each box, which has the points that follow it; points without a box make an
        object of their own. Empty if there is none of these forms in the text.
    """
    objects: list[Pairs] = []
    points: list[list[float]] = []
    matches = [*_TAGGED.finditer(text), *_XML.finditer(text)]
    for match in sorted(matches, key=lambda match: match.start()):
        if match.re is _XML:
            points += _xml_points(match['attributes'])
            continue
        numbers = [float(number) for number in _ONE.findall(match['numbers'])]
        if match['name'].lower() not in ('box', 'bbox'):
            points += [numbers[at : at + 2] for at in range(0, len(numbers), 2)]
            continue
        if objects:
            _add_points(objects[-1], points)
            points = []
        objects.append(Pairs([('bbox', numbers)]))
    if points and not objects:
        objects.append(Pairs())
    if points:
        _add_points(objects[-1], points)
    return objects or (_bare_boxes(text.strip()) if bare else [])


def _bare_boxes(text: str) -> list[Pairs]:
    if _BARE_LIST.fullmatch(text):
        corners = [text]
    elif _BARE_CORNERS.fullmatch(text):
        corners = re.findall(_CORNERS, text)
    else:
        return []
    boxes = [[float(number) for number in _ONE.findall(each)] for each in corners]
    return [Pairs([('bbox', box)]) for box in boxes]


def _xml_points(attributes: str) -> list[list[float]]:
    """Return the points of one tag, in the order of their numbers."""
    places: dict[str, dict[str, float]] = {}
    for axis, number, value in _ATTRIBUTE.findall(attributes):
        places.setdefault(number, {})[axis.lower()] = float(value)
    return [[place['x'], place['y']] for place in places.values() if place.keys() == {'x', 'y'}]


def _add_points(owner: Pairs, points: list[list[float]]) -> None:
    owner.extend((f'points_{number}', point) for number, point in enumerate(points, start=1))
