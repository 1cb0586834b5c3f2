# SPDX-License-Identifier: Apache-2.0
"""Respell JSON that people read at a glance and ``lenient_json`` does not.

Typographic and full-width characters, entities of HTML, escaped quotes, calls of Python
constructors, keys without braces around them. Only for texts that cannot be read as they are:
inside a string, a typographic quote is just a letter.
"""

from __future__ import annotations

import html
import re
import unicodedata

_DOUBLE_QUOTES = '\u201c\u201d\u201e\u201f\u00ab\u00bb\u301d\u301e\u2033'
_SINGLE_QUOTES = '\u2018\u2019\u201a\u201b\u2039\u203a\u2032'
_MINUS_SIGNS = '\u2212\u2013'  # the minus sign and the en dash
_COMMAS = '\u3001\u060c'  # the ideographic and the Arabic comma
_SIGNS = {
    **dict.fromkeys(_DOUBLE_QUOTES, '"'),
    **dict.fromkeys(_SINGLE_QUOTES, "'"),
    **dict.fromkeys(_MINUS_SIGNS, '-'),
    **dict.fromkeys(_COMMAS, ','),
    '\u066b': '.',  # the Arabic decimal separator
    **dict.fromkeys('\u3010\u3014', '['),
    **dict.fromkeys('\u3011\u3015', ']'),
}
# The full-width forms of the ASCII characters, U+FF01 to U+FF5E.
_WIDE = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_CHARACTERS = str.maketrans({**_WIDE, **_SIGNS})
_CONSTRUCTOR = re.compile(
    r'\b(?:np\.|numpy\.|torch\.)?(?:array|asarray|tensor|float\d*|int\d*|tuple|list|box|point)(?=[(\[])',
    re.IGNORECASE,
)
_DICTIONARY = re.compile(r'\bdict\s*\(', re.IGNORECASE)
_UNIT = re.compile(r'(?<=\d)\s?px(?=\s*[,\])}])', re.IGNORECASE)
_BARE_KEY = re.compile(
    r'["\']?\b(?:bbox(?:_2d)?|bounding[ _]box|box|points?[ _]?[12]?)["\']?\s*[:=]\s*[\[(]',
    re.IGNORECASE,
)


def respell(text: str) -> tuple[str, list[str]]:
    """Return ``text`` as plainer JSON, and the names of what was respelled.

    Takes time linear in the length of the text.
    """
    repairs = []
    plain = ''.join(map(_plain, html.unescape(text).translate(_CHARACTERS)))
    if plain != text:
        repairs.append('typographic characters were read as plain ones')
    if '{\\"' in plain or "{\\'" in plain:
        plain = plain.replace('\\"', '"').replace("\\'", "'")
        repairs.append('escaped quotes were read as quotes')
    called = _DICTIONARY.sub('{', _CONSTRUCTOR.sub('', plain))
    if called != plain:
        repairs.append('calls of Python were read as what they make')
    measured = _UNIT.sub('', called)
    if measured != called:
        repairs.append('the unit px was left out')
    if '{' not in measured and (key := _BARE_KEY.search(measured)):
        measured = '{' + measured[key.start() :] + '}'
        repairs.append('there were no braces around the keys')
    return measured, repairs


def _plain(character: str) -> str:
    """Return a digit of any script as the ASCII digit, any other character as it is."""
    if character.isascii() or not character.isdecimal():
        return character
    return str(unicodedata.decimal(character))
