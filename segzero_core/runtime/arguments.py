# SPDX-License-Identifier: Apache-2.0
"""Command lines: a parser that knows renamed options, and sentences in any encoding."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from segzero_core.errors import QueryError
from segzero_core.renamed import new_name


class ArgumentParser(argparse.ArgumentParser):
    """``argparse.ArgumentParser``; an old name of an option is an error that says the new one."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong; exit with code 2."""
        kind, _, rest = message.partition(': ')
        if kind == 'unrecognized arguments':
            words = [word.split('=', 1)[0] for word in rest.split()]
            names = {word: new_name(word) for word in words if word.startswith('-')}
            for old, new in names.items():
                if new is not None:
                    message += f'; {old} is now called {new}'
            if names and not any(names.values()):
                message += '; words that begin with a dash go after --'
        super().error(message)


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
