# SPDX-License-Identifier: Apache-2.0
"""Sets text of any script in lines that fit a width, and draws them.

A text becomes *clusters* (a letter with its marks), clusters become *units* between which a line
may break (words, or single letters of scripts that are written without spaces), units become
lines, and a line becomes *runs* of one font and one direction, in the order in which they are
seen. Letters that no font has are written as their code points, ``U+6771``.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from segzero_core.fonts import (
    DEFAULT_FONT,
    Font,
    FontFile,
    FontFinder,
    load_font,
    machine_fonts,
)

Colour = tuple[int, int, int]

_JOINER = '\u200d'
_KEPT = (_JOINER, '\u200c', '\ufe0e', '\ufe0f')  # invisible, but they change their neighbours
_NOT_FIRST = ('Pe', 'Pf', 'Po')  # punctuation that never begins a line
# Whether letters of a class run from right to left; numbers do not.
_STRONG = {'L': False, 'R': True, 'AL': True, 'EN': False, 'AN': False}
_MIRRORED = str.maketrans('()[]{}<>«»', ')(][}{><»«')


class Cluster(NamedTuple):
    """A letter with its marks, and the font that has it."""

    text: str
    font: FontFile


class Run(NamedTuple):
    """A piece of a line in one font and one direction."""

    text: str
    font: FontFile
    rtl: bool


class TextLine(NamedTuple):
    """Runs from left to right; ``rtl`` lines begin at the right edge."""

    runs: tuple[Run, ...]
    rtl: bool


class _Unit(NamedTuple):
    clusters: tuple[Cluster, ...]
    spaced: bool  # a space stands before it, unless it begins a line


_SPACE = Cluster(' ', DEFAULT_FONT)


def clusters(text: str) -> Iterator[str]:
    """Yield the letters as a reader sees them, with their marks, joiners and modifiers."""
    held = ''
    for letter in text:
        follows = (
            unicodedata.category(letter).startswith('M')
            or letter in _KEPT
            or '\U0001f3fb' <= letter <= '\U0001f3ff'  # skin tones
            or held.endswith(_JOINER)
            or (_is_flag(letter) and len(held) == 1 and _is_flag(held))
        )
        if held and not follows:
            yield held
            held = ''
        held += letter
    if held:
        yield held


def wrap(
    text: str, size: float, width: float, most: int, finder: FontFinder | None = None
) -> list[TextLine]:
    """Break ``text`` into lines.

    Args:
        text: Of any script; white space is collapsed.
        size: Height of the letters, pixels.
        width: Of a line, pixels.
        most: Lines to make; if there are more, the last one is ``...``.
        finder: Where fonts come from; the machine's if None.
    """
    finder = finder or machine_fonts()
    text = unicodedata.normalize('NFC', text)  # fonts have more composed letters than marks
    units = _units(text, finder)
    rtl = _is_rtl(text)
    rows = list(itertools.islice(_fill(units, size, width, rtl), most + 1))
    if len(rows) > most:
        rows = [*rows[: most - 1], [Cluster('...', DEFAULT_FONT)]]
    return [TextLine(tuple(_runs(row, rtl)), rtl) for row in rows]


def draw_line(
    canvas: PilImage.Image, line: TextLine, size: float, corner: tuple[float, float], right: float,
    colour: Colour,
) -> None:  # fmt: skip
    """Draw a line whose baseline begins at ``corner`` (x, y) and ends at ``right``, in pixels."""
    draw = ImageDraw.Draw(canvas)
    x, baseline = corner
    if line.rtl:
        x = right - sum(_width(run, size) for run in line.runs)
    for run in line.runs:
        if run.font.bitmap_size:
            _draw_bitmaps(canvas, run, x, baseline, size)
        else:
            font = load_font(run.font, size)
            text, direction = _directed(run, font)
            draw.text((x, baseline), text, colour, font, anchor='ls', direction=direction)
        x += _width(run, size)


def _is_flag(letter: str) -> bool:
    return '\U0001f1e6' <= letter <= '\U0001f1ff'


def _units(text: str, finder: FontFinder) -> Iterator[_Unit]:
    for word in text.split():
        held: list[Cluster] = []
        spaced = True
        for cluster in clusters(word):
            if _is_hidden(cluster):
                continue
            for each, breaks in _with_font(cluster, finder):
                if held and breaks and not _closes(each):
                    yield _Unit(tuple(held), spaced)
                    held, spaced = [], False
                held.append(each)
        if held:
            yield _Unit(tuple(held), spaced)


def _closes(cluster: Cluster) -> bool:
    return unicodedata.category(cluster.text[0]) in _NOT_FIRST


def _is_hidden(cluster: str) -> bool:
    # Among them are marks that turn the direction of what follows.
    return unicodedata.category(cluster[0]) in ('Cf', 'Cc')


def _with_font(cluster: str, finder: FontFinder) -> Iterator[tuple[Cluster, bool]]:
    """Yield a cluster, or its code points, and whether a line may break before it."""
    font = finder.find(cluster)
    if font is not None:
        wide = unicodedata.east_asian_width(cluster[0]) in 'WF'
        yield Cluster(cluster, font), wide
        return
    for letter in cluster:
        yield Cluster(f' U+{ord(letter):04X} ', DEFAULT_FONT), True


def _fill(units: Iterable[_Unit], size: float, width: float, rtl: bool) -> Iterator[list[Cluster]]:
    """Yield lines of clusters; a unit wider than a line is broken between clusters."""
    row: list[Cluster] = []
    used = 0.0
    space = _measure([_SPACE], size, rtl)
    for unit in units:
        room = _measure(unit.clusters, size, rtl)
        gap = space if row and unit.spaced else 0.0
        if row and used + gap + room > width:
            yield row
            row, used, gap = [], 0.0, 0.0
        if gap:
            row.append(_SPACE)
        if room <= width:
            row += unit.clusters
            used += gap + room
            continue
        for cluster in unit.clusters:
            if row and _measure([*row, cluster], size, rtl) > width:
                yield row
                row = []
            row.append(cluster)
        used = _measure(row, size, rtl)
    if row:
        yield row


def _measure(row: Sequence[Cluster], size: float, rtl: bool) -> float:
    return sum(_width(run, size) for run in _runs(row, rtl))


@functools.lru_cache(maxsize=8192)
def _width(run: Run, size: float) -> float:
    font = load_font(run.font, size)
    text, direction = _directed(run, font)
    scale = size / run.font.bitmap_size if run.font.bitmap_size else 1.0
    return scale * font.getlength(text, direction=direction)


def _directed(run: Run, font: Font) -> tuple[str, str | None]:
    """Return a run's text, and the direction to draw it in if Pillow handles directions."""
    if font.layout_engine == ImageFont.Layout.RAQM:
        return run.text, 'rtl' if run.rtl else 'ltr'
    if run.rtl:
        return ''.join(reversed(list(clusters(run.text)))).translate(_MIRRORED), None
    return run.text, None


def _is_rtl(text: str) -> bool:
    """Return whether the first letter that has a direction is written from right to left."""
    strong = (unicodedata.bidirectional(letter) for letter in text)
    return next((kind for kind in strong if kind in ('L', 'R', 'AL')), 'L') != 'L'


def _runs(row: Sequence[Cluster], rtl: bool) -> list[Run]:
    """Join clusters of one font and direction, and put the runs in the order they are seen in.

    This is the part of the Unicode bidirectional algorithm that a text without embeddings needs.
    """
    joined = zip(row, _directions(row, rtl), strict=True)
    runs = [
        Run(''.join(each.text for each, _ in group), font, direction)
        for (font, direction), group in itertools.groupby(
            joined, key=lambda pair: (pair[0].font, pair[1])
        )
    ]
    seen: list[Run] = []  # from the side where the text begins
    for other, group in itertools.groupby(runs, key=lambda run: run.rtl != rtl):
        part = list(group)
        seen += reversed(part) if other else part
    return seen[::-1] if rtl else seen


def _directions(row: Sequence[Cluster], rtl: bool) -> list[bool]:
    """Return for each cluster whether it is written from right to left.

    Spaces and punctuation go with their neighbours if these agree, and with the text if not. A
    pair of brackets goes with what it encloses if that continues what stands before.
    """
    kinds = [_STRONG.get(unicodedata.bidirectional(each.text.strip()[:1] or ' ')) for each in row]
    for first, last in _bracket_pairs(row):
        inside = set(kinds[first:last]) - {None}
        if inside and rtl not in inside:
            context = next((kind for kind in kinds[first::-1] if kind is not None), rtl)
            kinds[first] = kinds[last] = context
    before, after = _carried(kinds), _carried(kinds[::-1])[::-1]
    return [
        kind if kind is not None else (one if one is not None and one == two else rtl)
        for kind, one, two in zip(kinds, before, after, strict=True)
    ]


def _bracket_pairs(row: Sequence[Cluster]) -> Iterator[tuple[int, int]]:
    """Yield the positions of brackets that belong together."""
    opened: list[int] = []
    for position, cluster in enumerate(row):
        category = unicodedata.category(cluster.text[0])
        if category == 'Ps':
            opened.append(position)
        elif category == 'Pe' and opened:
            yield opened.pop(), position


def _carried(kinds: Iterable[bool | None]) -> list[bool | None]:
    """Return for each place the last value that is not None."""
    held: list[bool | None] = []
    for kind in kinds:
        held.append(held[-1] if kind is None and held else kind)
    return held


def _draw_bitmaps(
    canvas: PilImage.Image, run: Run, x: float, baseline: float, size: float
) -> None:
    """Draw coloured bitmaps (emoji), scaled to ``size``."""
    font = load_font(run.font, size)
    text, direction = _directed(run, font)
    side = run.font.bitmap_size
    width = round(font.getlength(text, direction=direction))
    sheet = PilImage.new('RGBA', (max(1, width), side * 5 // 4))
    ImageDraw.Draw(sheet).text(
        (0, side), text, font=font, anchor='ls', direction=direction, embedded_color=True
    )
    scale = size / side
    small = sheet.resize((max(1, round(sheet.width * scale)), max(1, round(sheet.height * scale))))
    canvas.paste(small, (round(x), round(baseline - size)), small)
