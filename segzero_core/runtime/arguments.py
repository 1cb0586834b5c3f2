# SPDX-License-Identifier: Apache-2.0
"""Command lines: a parser that knows renamed options, and sentences in any encoding."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from segzero_core.errors import QueryError
from segzero_core.renamed import new_name


class ArgumentParser(argparse.ArgumentParser):
    """``argparse.ArgumentParser``; an old name of an option is an error that says the new one."""

    _dashed: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Remember the words of the command line for ``error``."""
        words = sys.argv[1:] if args is None else list(args)
        self._dashed = [word.split('=', 1)[0] for word in words if str(word).startswith('-')]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong; exit with code 2."""
        strangers = [word for word in self._dashed if word not in self._option_string_actions]
        renamed = {word: new for word in strangers if (new := new_name(word)) is not None}
        for old, new in renamed.items():
            message += f'; {old} is now called {new}'
        about_words = message.startswith(('unrecognized arguments', 'the following arguments'))
        takes_words = any(not action.option_strings for action in self._actions)
        if about_words and takes_words and strangers and not renamed and '--' not in strangers:
            message += '; words that begin with a dash go after --'
        super().error(message)


def positive(text: str) -> float:
    """Return the finite number above zero that ``text`` is; for ``type=`` of an argument.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f'must be a number above 0, not {text!r}')
    return number


def sentence(words: list[str]) -> str:
    """Return the words of a command line as one sentence.

    Python reads arguments in the locale's encoding. If that is not UTF-8, the bytes it could not
    read are read again as UTF-8.

    Raises:
        QueryError: The bytes are not UTF-8.
    """
    text = ' '.join(words)
    if not any('\udc80' <= letter <= '\udcff' for letter in text):
        return text
    try:
        return os.fsencode(text).decode('utf-8')
    except UnicodeError:
        raise QueryError(f'the query {text!r} is not UTF-8: write it in UTF-8') from None
