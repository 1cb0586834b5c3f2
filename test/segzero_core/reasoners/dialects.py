# SPDX-License-Identifier: Apache-2.0
"""Streams of model servers, byte for byte, in the dialects of OpenAI's chat protocol."""

from __future__ import annotations

import json
from typing import Any

ANSWER = (
    '<think>The red mug ☕ is left.</think>'
    '<answer>{"bbox": [84, 140, 420, 700], "points_1": [210, 280], "points_2": [315, 420]}'
    '</answer>'
)


def pieces(text: str) -> list[str]:
    return [text[i : i + 3] for i in range(0, len(text), 3)]


THOUGHTS, REST = ANSWER.removeprefix('<think>').split('</think>')


def line(delta: Any, reason: str | None = None, **others: Any) -> str:
    choice = {'index': 0, 'delta': delta, 'finish_reason': reason}
    # As vLLM writes it: not only ASCII.
    return f'data: {json.dumps({"choices": [choice], **others}, ensure_ascii=False)}'


def field(name: str) -> list[str]:
    """Thoughts in the field ``name``, then the answer."""
    deltas = [{'role': 'assistant', 'content': ''}]
    deltas += [{name: piece, 'content': None} for piece in pieces(THOUGHTS)]
    deltas += [{'content': piece} for piece in pieces(REST)]
    return [*(line(delta) + '\n\n' for delta in deltas), line({}, 'stop') + '\n\n']


def parts() -> list[dict[str, Any]]:
    thinking = {'type': 'thinking', 'thinking': [{'type': 'text', 'text': THOUGHTS}]}
    return [{'content': [thinking]}, {'content': [{'type': 'text', 'text': REST}]}]


DONE = 'data: [DONE]\n\n'
SAID = line({'content': ANSWER})
WHOLE = {'choices': [{'message': {'content': ANSWER}, 'finish_reason': 'stop'}]}
# Legal streams, and such as are met. All of them bring ANSWER.
DIALECTS: dict[str, list[str]] = {
    'id lines': ['id: 1\n', SAID, '\n\n', ': keep-alive\n\n', line({}, 'stop'), '\n\n', DONE],
    'event lines': ['event: message\n', SAID, '\n\n', 'event: done\n', DONE],
    'retry alone': ['retry: 3000\n\n', SAID, '\n\n', DONE],
    'unknown field': ['x-trace: 7\n', SAID, '\n\n', 'end\n\n', DONE],
    'null delta': [SAID, '\n\n', line(None, 'stop'), '\n\n', DONE],
    'null choices': [SAID, '\n\n', 'data: {"choices": null, "usage": {}}\n\n', DONE],
    'only usage': [SAID, '\n\n', 'data: {"usage": {"total_tokens": 3}}\n\n', DONE],
    'no blank': [SAID.replace('data: ', 'data:'), '\n\n', 'data:[DONE]'],
    'no last line end': [SAID, '\n\n', line({}, 'stop')],
    'null error': [line({'content': ANSWER}, error=None), '\n\n', DONE],
    'carriage returns': [SAID, '\r\n\r\n', 'data: [DONE]\r\n\r\n'],
    'bare carriage returns': [SAID, '\r\r', 'data: [DONE]\r\r'],
    'byte order mark': ['\ufeff', SAID, '\n\n', DONE],
    'no empty lines': [*(line({'content': p}) + '\n' for p in pieces(ANSWER)), 'data: [DONE]\n'],
    'two data lines': [SAID.replace('"delta"', '\ndata: "delta"'), '\n\n', DONE],
    'reasoning_content': [*field('reasoning_content'), DONE],
    'reasoning': [*field('reasoning'), DONE],
    'thinking': [*field('thinking'), DONE],
    'both fields': [
        f'{line({"reasoning": THOUGHTS, "reasoning_content": THOUGHTS})}\n\n',
        f'{line({"content": REST})}\n\n',
        DONE,
    ],
    'parts': [*(line(part) + '\n\n' for part in parts()), DONE],
    'one delta': [line({'reasoning': THOUGHTS, 'content': REST}), '\n\n', DONE],
    'document': [json.dumps(WHOLE, indent=1)],
    'document in one line': [json.dumps(WHOLE)],
}
DIALECTS['no thoughts'] = [f'{line({"content": REST})}\n\n', DONE]
# Errors inside a response of status 200.
DIALECTS |= {
    'error text': ['data: {"error": "the engine died"}\n\n'],
    'error object': ['data: {"object": "error", "message": "the engine died"}\n\n', DONE],
    'error event': ['event: error\n', 'data: {"message": "the engine died"}\n\n'],
    'error without data': ['{"error": {"message": "the\\nengine died", "code": 500}}'],
    'document error': [json.dumps({'error': {'message': 'the engine died'}}, indent=1)],
    'error late': [
        line({'content': '<think>The'}),
        '\n\n',
        'data: {"error": "the engine died"}\n',
    ],
    'error detail': ['data: {"detail": [{"msg": "the engine died"}]}\n\n'],
}
