# SPDX-License-Identifier: Apache-2.0
"""The text of a message on ``~/query``: a plain sentence, or a JSON object.

* ``the red mug``
* ``{"query": "the red mug", "id": "7", "stamp": {"sec": 12, "nanosec": 5}}``: ``id`` and ``stamp``
  are optional. The result carries the ``id``; the sentence is about the frame of that ``stamp``,
  as an earlier result named it, instead of the newest.
* ``{"cancel": "7"}`` cancels the sentence with that ``id``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from builtin_interfaces.msg import Time

from segzero_core.errors import QueryError, quoted
from segzero_core.prompts import check_query

MAX_ID_CHARACTERS = 200
KEYS = ('query', 'id', 'stamp', 'cancel')


@dataclass(frozen=True)
class QueryRequest:
    """One message, read.

    Attributes:
        query: The sentence, as it came; '' if there is none.
        id: Chosen by the asker; ``None`` if there is none.
        stamp: Of the frame that the sentence is about; ``None`` = the newest.
        cancel: The id of the sentence to cancel; ``None`` for a sentence.
        problem: Why the request cannot be used; ``None`` if it can.
        rejected: Whether the problem is the JSON object, and not the sentence.
    """

    query: str = ''
    id: str | None = None
    stamp: Time | None = None
    cancel: str | None = None
    problem: QueryError | None = None
    rejected: bool = False


def read_request(text: str) -> QueryRequest:
    """Return the request in the text of a message; it never raises."""
    if not text.lstrip().startswith('{'):
        return QueryRequest(text, problem=_problem_of_sentence(text))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else 'it is nested too deeply'
        return QueryRequest(
            text,
            problem=QueryError(f'the sentence begins like a JSON object but is none: {reason}'),
            rejected=True,
        )
    return _read_object(content)


def _read_object(content: dict[str, Any]) -> QueryRequest:
    given_id, query = content.get('id'), content.get('query')
    known_id = given_id if _is_id(given_id) else None
    # JSON can hold half of a surrogate pair, which no message can carry.
    sentence = query.encode('utf-8', 'replace').decode() if isinstance(query, str) else ''

    def refuse(message: str) -> QueryRequest:
        return QueryRequest(sentence, known_id, problem=QueryError(message), rejected=True)

    if unknown := [key for key in content if key not in KEYS]:
        names = ', '.join(quoted(key) for key in unknown[:5])
        return refuse(f'unknown keys in the query: {names}; known are {", ".join(KEYS)}')
    for key in ('id', 'cancel'):
        if key in content and not _is_id(content[key]):
            return refuse(
                f'{key} must be a string of at most {MAX_ID_CHARACTERS} characters, not '
                f'{quoted(content[key])}'
            )
    if 'cancel' in content:
        if len(content) > 1:
            return refuse('cancel stands alone: {"cancel": "ID"}')
        return QueryRequest(cancel=content['cancel'])
    if not isinstance(query, str):
        return refuse(f'query must be a string, not {quoted(query)}')
    stamp = None
    if 'stamp' in content:
        stamp = _read_stamp(content['stamp'])
        if stamp is None:
            return refuse(
                'stamp must be {"sec": S, "nanosec": N} as in a result, not '
                f'{quoted(content["stamp"])}'
            )
    return QueryRequest(sentence, known_id, stamp, problem=_problem_of_sentence(sentence))


def _problem_of_sentence(text: str) -> QueryError | None:
    try:
        check_query(text)
    except QueryError as error:
        return error
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_ID_CHARACTERS


def _read_stamp(value: Any) -> Time | None:
    if not isinstance(value, dict) or value.keys() != {'sec', 'nanosec'}:
        return None
    sec, nanosec = value['sec'], value['nanosec']
    whole = type(sec) is int and type(nanosec) is int
    if not whole or not -(2**31) <= sec < 2**31 or not 0 <= nanosec < 10**9:
        return None
    return Time(sec=sec, nanosec=nanosec)
