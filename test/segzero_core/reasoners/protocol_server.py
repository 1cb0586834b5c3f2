# SPDX-License-Identifier: Apache-2.0
"""A server that speaks OpenAI's chat protocol, run as a process of its own; has no model.

    python protocol_server.py PORT MODEL...

Prints its port. Each sentence names what is to happen to it, faults included: see ``Handler``.
``/seen`` tells what was asked and which answers were broken off by the client.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from dialects import ANSWER, DIALECTS, pieces

FOREVER_S = 600


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path  # a proxy is asked for a whole address
        if path == '/seen':
            self.reply(200, self.server.seen)
        elif path == '/v1/models':
            listed = {'data': [{'id': name} for name in self.server.models]}
            self.reply(200, ['no list'] if self.server.models == ['rubbish'] else listed)
        else:
            self.reply(404, {'detail': 'Not Found'})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        text = next(p['text'] for p in request['messages'][-1]['content'] if p['type'] == 'text')
        found = re.search(r"find '(.*)' with", text)
        assert found is not None, text
        wish = found[1]
        self.server.seen['asked'].append(
            {'wish': wish, 'key': self.headers.get('Authorization'), 'request': request}
        )
        self.server.counts[wish] += 1
        name, _, argument = wish.partition(' ')
        getattr(self, f'play_{name}')(argument, self.server.counts[wish])

    def play_answer(self, _: str, __: int) -> None:
        self.stream([*pieces(ANSWER), ' That is all.'])

    def play_form(self, argument: str, _: int) -> None:
        """Answer in one form: ``form box_points think``, ``form box``, ``form points``, ..."""
        answer, _, think = argument.partition(' ')
        found = re.findall(r'"(\w+)": (\[[^]]*\])', ANSWER)
        kept = [
            f'"{key}": {value}'
            for key, value in found
            if any(word in key and word in answer for word in ('box', 'points'))
        ]
        thought = '<think>It is left.</think>' if think else ''
        self.stream(pieces(f'{thought}<answer>{{{", ".join(kept)}}}</answer>'))

    def play_cut(self, _: str, __: int) -> None:
        """End regularly before the answer does, as at the limit of tokens."""
        self.stream(pieces(ANSWER[:40]), reason='length')

    def play_endless(self, _: str, __: int) -> None:
        def more() -> Any:
            while True:
                yield 'x' * 1000

        self.stream(more())

    def play_slow(self, _: str, __: int) -> None:
        def more() -> Any:
            for number in range(FOREVER_S * 20):
                yield f'{number} '
                time.sleep(0.05)

        self.stream(more())

    def play_status(self, argument: str, count: int) -> None:
        """Refuse with a status, ``times`` times or always: ``status 503 2``."""
        status, _, times = argument.partition(' ')
        if times and count > int(times):
            self.stream(pieces(ANSWER))
        else:
            self.reply(int(status), {'error': {'message': 'no such luck'}})

    def play_later(self, argument: str, _: int) -> None:
        """Reply with a Retry-After header of the given seconds."""
        self.reply(503, {'error': {'message': 'all busy'}}, {'Retry-After': argument})

    def play_drop(self, argument: str, count: int) -> None:
        """Close the connection without a reply, the given number of times."""
        if count > int(argument):
            self.stream(pieces(ANSWER))
        else:
            self.close_connection = True

    def play_silent(self, _: str, __: int) -> None:
        time.sleep(FOREVER_S)

    def play_stall(self, _: str, __: int) -> None:
        """Begin, then only keep the connection alive."""
        self.begin()
        self.chunk(event({'content': '<think>The'}))
        while True:
            self.chunk(b': keep-alive\n\n')
            time.sleep(0.05)

    def play_break(self, _: str, __: int) -> None:
        """Begin, then close the connection in the middle of a chunk."""
        self.begin()
        self.chunk(event({'content': '<think>The'}))
        self.wfile.write(b'ff\r\ndata: {"cho')
        self.close_connection = True

    def play_raw(self, argument: str, _: int) -> None:
        """Send one line instead of events."""
        self.begin()
        self.chunk(RUBBISH[argument])
        self.chunk(b'')

    def play_dialect(self, argument: str, _: int) -> None:
        """Send one of ``DIALECTS`` as it is, and end the response."""
        self.begin('application/json' if argument.startswith('document') else None)
        for line in DIALECTS[argument]:
            self.chunk(line.encode())
        self.chunk(b'')

    def play_die(self, _: str, __: int) -> None:
        self.begin()
        self.chunk(event({'content': '<think>The'}))
        self.wfile.flush()
        self.server.die()

    def stream(self, texts: Any, reason: str = 'stop') -> None:
        try:
            self.begin()
            self.chunk(event({'role': 'assistant', 'content': ''}))
            for text in texts:
                self.chunk(event({'content': text}))
            self.chunk(event({}, reason))
            self.chunk(b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\n')
            self.chunk(b'data: [DONE]\n\n')
            self.chunk(b'')
        except OSError:
            self.server.seen['broken_off'] += 1
            self.close_connection = True

    def begin(self, kind: str | None = None) -> None:
        self.send_response(200)
        self.send_header('Content-Type', kind or 'text/event-stream')
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()

    def chunk(self, content: bytes) -> None:
        self.wfile.write(b'%x\r\n%b\r\n' % (len(content), content))

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


RUBBISH = {
    'html': b'<html>It works!</html>\n',
    'bytes': bytes(range(128, 250)) + b'\n',
    'json': b'data: {"choices": [{"delta": \n\n',
    'keys': b'data: {"object": "chat.completion.chunk"}\n\n',
    'types': b'data: {"choices": [{"delta": {"content": 7}}]}\n\n',
    'error': b'data: {"error": {"message": "the engine died"}}\n\n',
}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, models: list[str]) -> None:
        super().__init__(('127.0.0.1', port), Handler)
        self.models = models
        self.seen: dict[str, Any] = {'asked': [], 'broken_off': 0}
        self.counts: Counter[str] = Counter()

    def handle_error(self, *_: Any) -> None:
        """Say nothing about clients that left."""

    def die(self) -> None:
        threading.Thread(target=self.shutdown).start()
        time.sleep(FOREVER_S)


def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {'index': 0, 'delta': delta, 'finish_reason': reason}
    return b'data: %b\n\n' % json.dumps({'choices': [choice]}).encode()


def main() -> None:
    server = Server(int(sys.argv[1]), sys.argv[2:])
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == '__main__':
    main()
