# SPDX-License-Identifier: Apache-2.0
"""Finds a font on the machine that has the letters of a text.

Pillow's own font has Latin letters only. For other scripts the fonts that fontconfig lists and the
usual folders are searched. A font has a letter if it draws it differently from a code point that
no font has.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont, features

_LOG = logging.getLogger(__name__)

FOLDERS = (
    '/usr/share/fonts',
    '/usr/local/share/fonts',
    '~/.local/share/fonts',
    '~/.fonts',
    '/System/Library/Fonts',
    '/Library/Fonts',
    '~/Library/Fonts',
    r'C:\Windows\Fonts',
)
SUFFIXES = ('.ttf', '.otf', '.ttc', '.otc')
# Debian packages by the first word of the letters' Unicode names; the rest is in `OTHERS`.
PACKAGES = {
    **dict.fromkeys(('CJK', 'HIRAGANA', 'KATAKANA', 'HANGUL', 'BOPOMOFO'), 'fonts-noto-cjk'),
    'EMOJI': 'fonts-noto-color-emoji',
}
OTHERS = 'fonts-noto-core'
# Scripts whose letters change shape or order with their neighbours. Pillow needs libraqm for that.
SHAPED = frozenset(
    {
        *('ARABIC', 'SYRIAC', 'THAANA', 'NKO', 'MONGOLIAN', 'TIBETAN', 'MYANMAR', 'KHMER'),
        *('DEVANAGARI', 'BENGALI', 'GURMUKHI', 'GUJARATI', 'ORIYA', 'TAMIL', 'TELUGU', 'KANNADA'),
        *('MALAYALAM', 'SINHALA', 'BALINESE', 'JAVANESE'),
    }
)
INVISIBLE = '\u200c\u200d\ufe0e\ufe0f'  # joiners and variation selectors
_PROBE_SIZE = 20
_BITMAP_SIZE = 109  # the only size of Noto Color Emoji
_NO_LETTER = '\U0010ffff'  # a noncharacter, drawn as the box for a missing letter
_PRETENDERS = ('lastresort', 'blank')  # fonts that claim every letter and have none
_WORSE = ('bold', 'italic', 'oblique', 'black', 'light', 'thin', 'condensed', 'mono', 'serif')


class FontFile(NamedTuple):
    """A font; an empty ``path`` is Pillow's own.

    Attributes:
        path: Of the file.
        bitmap_size: Only size of a font of coloured bitmaps; 0 for an outline font.
    """

    path: str = ''
    bitmap_size: int = 0


DEFAULT_FONT = FontFile()
Font = ImageFont.FreeTypeFont


class FontFinder:
    """Finds fonts for letters; logs once for each script that no font has. Thread-safe."""

    def __init__(self, files: Iterable[str] | None = None) -> None:
        """Remember where to look.

        Args:
            files: Font files, best first; None stands for the fonts of this machine, which are
                listed when the first letter is not in Pillow's font.
        """
        self._files = iter(_machine_fonts() if files is None else files)
        self._opened: list[tuple[FontFile, Font]] = []
        self._found: dict[str, FontFile | None] = {}
        self._missed: set[str] = set()
        self._lock = threading.Lock()

    def find(self, cluster: str) -> FontFile | None:
        """Return a font for one letter with its marks; None, and a log line, if none has it.

        Args:
            cluster: The characters that a reader sees as one letter; see ``text_layout.clusters``.
        """
        with self._lock:
            if cluster not in self._found:
                self._found[cluster] = self._search(cluster)
            return self._found[cluster]

    def _search(self, cluster: str) -> FontFile | None:
        name = script(cluster)
        if name in SHAPED and not can_shape():
            self._warn(name, 'libraqm0 and libfribidi0')
            return None
        if name == 'UNKNOWN':  # no letter: private, unassigned or half of one
            return None
        seen = [letter for letter in cluster if letter not in INVISIBLE]
        for file, font in self._fonts():
            if all(has_letter(font, letter) for letter in seen):
                return file
        self._warn(name, PACKAGES.get(name, OTHERS))
        return None

    def _fonts(self) -> Iterator[tuple[FontFile, Font]]:
        """Yield Pillow's font and those of the machine; each is opened once."""
        yield DEFAULT_FONT, _open(DEFAULT_FONT, _PROBE_SIZE, ImageFont.Layout.BASIC)
        yield from self._opened
        for path in self._files:
            for size in (0, _BITMAP_SIZE):
                file = FontFile(path, size)
                try:
                    # Without shaping, which would decompose letters and add others.
                    font = _open(file, _PROBE_SIZE, ImageFont.Layout.BASIC)
                except (OSError, ValueError):  # no font, or not of this size
                    continue
                self._opened.append((file, font))
                yield file, font
                break

    def _warn(self, name: str, package: str) -> None:
        if name not in self._missed:
            self._missed.add(name)
            _LOG.warning(
                'no font of this machine has %s letters, so pictures show their code points: '
                'install one, for example with: apt install %s',
                name.lower(),
                package,
            )


@functools.cache
def machine_fonts() -> FontFinder:
    """Return the one finder for the fonts of this machine."""
    return FontFinder()


@functools.cache
def can_shape() -> bool:
    """Return whether Pillow can join and reorder letters (Arabic, Devanagari, ...)."""
    return bool(features.check('raqm') and features.check('fribidi'))


@functools.lru_cache(maxsize=64)
def load_font(file: FontFile, size: float) -> Font:
    """Return a font of ``size`` pixels; of bitmaps, of their only size.

    Raises:
        OSError: The file is no font, or is not there.
    """
    return _open(file, size, None)


def has_letter(font: Font, letter: str) -> bool:
    """Return whether ``font`` draws something of its own for ``letter``."""
    drawn, missing = font.getmask(letter), font.getmask(_NO_LETTER)
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)


def _open(file: FontFile, size: float, engine: ImageFont.Layout | None) -> Font:
    if file.path:
        return ImageFont.truetype(file.path, file.bitmap_size or size, layout_engine=engine)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def script(cluster: str) -> str:
    """Return the script of a letter: ``LATIN``, ``CJK``, ``EMOJI``, ... or ``UNKNOWN``."""
    letter = cluster[0]
    if '\U0001f000' <= letter <= '\U0001faff' or '\ufe0f' in cluster:
        return 'EMOJI'
    return unicodedata.name(letter, 'UNKNOWN').split()[0].split('-')[0]


def _machine_fonts() -> Iterator[str]:
    """Yield the machine's font files, upright sans-serif ones first."""
    found: dict[str, None] = {}
    try:
        listed = subprocess.run(
            ['fc-list', '--format', '%{file}\\n'], capture_output=True, timeout=10, check=True
        )
        found |= dict.fromkeys(os.fsdecode(listed.stdout).splitlines())
    except (OSError, subprocess.SubprocessError):
        pass  # without fontconfig there are the folders
    for folder in FOLDERS:
        for root, _, names in os.walk(os.path.expanduser(folder)):
            found |= dict.fromkeys(str(Path(root, name)) for name in sorted(names))
    yield from sorted((path for path in found if _usable(path)), key=_rank)


def _usable(path: str) -> bool:
    name = Path(path).name.lower()
    return name.endswith(SUFFIXES) and not any(word in name for word in _PRETENDERS)


def _rank(path: str) -> tuple[int, bool, str]:
    name = Path(path).stem.lower()
    worse = sum(word in name.replace('sansserif', '') for word in _WORSE)
    return worse, not name.startswith(('noto', 'dejavu')), path
