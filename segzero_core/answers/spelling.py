# SPDX-License-Identifier: Apache-2.0
"""Respell JSON that people read at a glance and ``lenient_json`` does not.

Typographic, full-width and invisible characters, entities and comments of HTML, Markdown, escaped
quotes, calls of Python constructors, units, lists in quotes, keys without braces around them. Only
for texts that cannot be read as they are: inside a string, a typographic quote is just a letter.
"""

from __future__ import annotations

import html
import re
import unicodedata

_DOUBLE_QUOTES = '\u201c\u201d\u201e\u201f\u00ab\u00bb\u301d\u301e\u2033'
_SINGLE_QUOTES = '\u2018\u2019\u201a\u201b\u2039\u203a\u2032'
_MINUS_SIGNS = '\u2212\u2010\u2011\u2012\u2013\u2014'  # the minus sign, hyphens and dashes
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
_UNIT = re.compile(r'(?<=\d)\s?(?:px|pixels?)(?=["\']?\s*[,;\])}])', re.IGNORECASE)
_NUMBER = r'[-+]?(?:\d+(?:\.\d*)?|\.\d+)'
_PERCENT = re.compile(rf'(?<![\w.])({_NUMBER})\s?%')
_PLAIN_NUMBER = re.compile(rf'[\[(,]\s*["\']?\s*{_NUMBER}\s*["\']?\s*(?=[,\])])')
_HTML_COMMENT = re.compile(r'<!--[^<>]*-->')
_ARROW = re.compile(r'=>|\u2192|\u21d2')
# Markdown: **bold**, `code`, an escaped bracket or underscore, the bullet before a key.
_BOLD = re.compile(r'\*\*|(?<!\\)\\(?=[\[\]{}_])')
_CODE = re.compile(r'(?<!`)`([\w -]{1,40})`(?!`)')
_BULLET = re.compile(r'^[ \t]{0,8}[-*+][ \t]{1,4}(?=["\']?[A-Za-z])', re.MULTILINE)
_QUOTED_LIST = re.compile(r'(["\'])\s*(?P<list>[\[(][^\[\](){}"\']*[\])])\s*\1')
_QUOTED_NUMBERS = re.compile(rf'(["\'])\s*({_NUMBER}(?:(?:\s*,\s*|\s+){_NUMBER})+)\s*\1')
_SPACED_LIST = re.compile(rf'\[\s*({_NUMBER}(?:[ \t]+{_NUMBER})+)\s*\]')
_INVISIBLE = re.compile(r'(?<!\d)[\u200b-\u200d\u2060\u00ad]|[\u200b-\u200d\u2060\u00ad](?!\d)')
_BARE_KEY = re.compile(
    r'["\']?\b(?:bbox(?:_2d)?|bounding[ _]box|box|points?[ _]?[12]?)["\']?\s*[:=]\s*[\[({]',
    re.IGNORECASE,
)


def respell(text: str) -> tuple[str, list[str]]:
    """Return ``text`` as plainer JSON, and the names of what was respelled.

    Takes time linear in the length of the text.
    """
    repairs = []
    written = _HTML_COMMENT.sub('', text)
    if written != text:
        repairs.append('comments were left out')
    plain = ''.join(map(_plain, _INVISIBLE.sub('', html.unescape(written)).translate(_CHARACTERS)))
    if plain != written:
        repairs.append('typographic characters were read as plain ones')
    unmarked = _BULLET.sub('', _CODE.sub(r'"\1"', _BOLD.sub('', plain)))
    if unmarked != plain:
        repairs.append('Markdown was left out')
    plain = _ARROW.sub(':', unmarked)
    if plain != unmarked:
        repairs.append('arrows were read as colons')
    if '{\\"' in plain or "{\\'" in plain:
        plain = plain.replace('\\"', '"').replace("\\'", "'")
        repairs.append('escaped quotes were read as quotes')
    called = _DICTIONARY.sub('{', _CONSTRUCTOR.sub('', plain))
    if called != plain:
        repairs.append('calls of Python were read as what they make')
    measured = _UNIT.sub('', called)
    if measured != called:
        repairs.append('the unit px was left out')
    measured = _with_lists(_with_shares(measured, repairs), repairs)
    if '{' not in measured and (key := _BARE_KEY.search(measured)):
        measured = '{' + measured[key.start() :] + '}'
        repairs.append('there were no braces around the keys')
    return measured, repairs


def _with_shares(text: str, repairs: list[str]) -> str:
    """Return ``text`` with per cent as shares of 1, unless other numbers are in its lists."""
    if _PLAIN_NUMBER.search(text):
        return text
    shares = _PERCENT.sub(lambda match: f'{float(match[1]) / 100:.10g}', text)
    if shares != text:
        repairs.append('per cent were read as shares')
    return shares


def _with_lists(text: str, repairs: list[str]) -> str:
    """Return ``text`` with lists in quotes, or without commas, as plain lists."""
    unquoted = _QUOTED_NUMBERS.sub(r'[\2]', _QUOTED_LIST.sub(r'\g<list>', text))
    if unquoted != text:
        repairs.append('lists written as text were read as lists')
    spaced = _SPACED_LIST.sub(lambda match: f'[{", ".join(match[1].split())}]', unquoted)
    if spaced != unquoted:
        repairs.append('missing commas were added')
    return spaced


def _plain(character: str) -> str:
    """Return a digit of any script as the ASCII digit, any other character as it is."""
    if character.isascii() or not character.isdecimal():
        return character
    return str(unicodedata.decimal(character))
