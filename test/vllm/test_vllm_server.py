# SPDX-License-Identifier: Apache-2.0
"""The ``openai`` reasoner against a real vLLM server, a process of its own."""

import ast
import json
import re
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('vllm', reason='needs vLLM: make test-vllm')

from segzero_core import load_reasoner
from segzero_core.errors import CancelledError, ServerError
from segzero_core.reasoners.answer_regex import answer_pattern
from segzero_core.reasoners.vllm_engine import ngram_speculation
from segzero_core.task import Task

# The engine takes a minute to start on two cores, and more on a busy machine.
pytestmark = pytest.mark.timeout(600)
ANSWER = (
    '<think>The red mug ☕ stands left of the box.</think>'
    '<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}</answer>'
)


SENTENCES = ['the red mug', 'a blue box on the left', 'the third cone from the right']
IMAGES = [
    np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8) for seed in range(3)
]


def launched_command(model, port):
    """The command with which launch starts a server."""
    file = Path(__file__).resolve().parents[2] / 'launch' / 'segzero.launch.py'
    found = re.search(r'^SERVER = \((.*?)^\)', file.read_text('utf-8'), re.MULTILINE | re.DOTALL)
    words = shlex.split(ast.literal_eval(f'({found[1]})').format(model=model, port=port))
    assert words[0] == 'python3'
    return [sys.executable, *words[1:]]


@pytest.fixture(scope='module')
def server(penalised_reasoner_dir):
    """The address of a server, and the process that supervises it."""
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'segzero_ros.run_server']
    command += launched_command(penalised_reasoner_dir, port)
    command += ['--max-model-len', '2048', '--enforce-eager']
    # Without a size it would try the largest image there is.
    command += ['--limit-mm-per-prompt.image', '{"count": 1, "width": 112, "height": 112}']
    command += ['--dtype', 'float32']
    command += ['--speculative-config', json.dumps(ngram_speculation(4))]
    with subprocess.Popen(command) as process:
        try:
            yield f'http://127.0.0.1:{port}/v1', process
        finally:
            process.kill()


@pytest.fixture(scope='module')
def expected(penalised_reasoner_dir):
    """The answer of the transformers engine, with the checkpoint's repetition penalty."""
    other = load_reasoner('transformers', model=str(penalised_reasoner_dir), device='cpu')
    texts = [reply.text for reply in other.reason_batch(IMAGES, SENTENCES)]
    assert ANSWER not in texts
    assert len(set(texts)) > 1
    return texts


@pytest.fixture(scope='module')
def reasoner(server):
    """Waits until the server answers, or the test's time limit ends both."""
    return load_reasoner('openai', url=server[0], startup_timeout=550)


def test_it_knows_the_family_by_the_folder_and_answers_as_other_engines_do(reasoner, expected):
    assert (reasoner.task.family.name, reasoner.task.family.image_size) == ('seg_zero', 112)
    pieces = []
    reply = reasoner.reason(IMAGES[0], SENTENCES[0], pieces.append)
    assert reply.text == ''.join(pieces) == expected[0]
    assert reply.finish_reason == 'stop'
    assert len(pieces) > 10


def test_several_sentences_at_once(reasoner, expected):
    assert [reply.text for reply in reasoner.reason_batch(IMAGES, SENTENCES)] == expected


def test_the_limit_of_tokens_is_named_and_counted(server):
    short = load_reasoner('openai', url=server[0], max_new_tokens=7)
    reply = short.reason(IMAGES[0], SENTENCES[0])
    assert (reply.finish_reason, reply.tokens) == ('length', 7)


def test_cancelling_stops_at_the_next_piece(reasoner, expected):
    cancel, pieces = threading.Event(), []

    def on_text(piece):
        pieces.append(piece)
        cancel.set()

    with pytest.raises(CancelledError):
        reasoner.reason(IMAGES[0], SENTENCES[0], on_text, cancel)
    assert len(pieces) == 1
    assert reasoner.reason(IMAGES[0], SENTENCES[0]).text == expected[0]


def test_a_refusal_of_vllm_reaches_the_user(server):
    greedy = load_reasoner('openai', url=server[0], max_new_tokens=5000)
    with pytest.raises(ServerError, match=r'HTTP 400 .*2048') as caught:
        greedy.reason(IMAGES[0], SENTENCES[0])
    assert caught.value.kind == 'server_refused'
    assert '\n' not in str(caught.value)


def test_thinking_and_format_can_be_ruled(server):
    url = server[0]
    short = load_reasoner('openai', url=url, thinking='prefilled', max_think_tokens=4)
    free = load_reasoner('openai', url=url, thinking='prefilled')
    thoughts = re.match('<think>(.*?)</think><answer>', short.reason(IMAGES[0], SENTENCES[0]).text)
    assert thoughts is not None
    assert thoughts[1]
    assert free.reason(IMAGES[0], SENTENCES[0]).text.startswith(f'<think>{thoughts[1]}')
    guided = load_reasoner('openai', url=url, thinking='none', structured_output=True)
    text = guided.reason(IMAGES[0], SENTENCES[0]).text
    assert re.fullmatch('<think></think><answer>' + answer_pattern(Task()), text)


def test_a_supervisor_that_is_killed_takes_all_of_vllm_along(server, reasoner):
    _, process = server
    running = descendants(process.pid)
    assert len(running) >= 3  # the keeper, the server, its engine
    process.kill()
    process.wait()
    while any(Path(f'/proc/{pid}').exists() for pid in running):  # the time limit ends this
        pass
    with pytest.raises(ServerError) as caught:
        reasoner.reason(IMAGES[0], SENTENCES[0])
    assert caught.value.kind == 'server_unreachable'


def descendants(pid):
    found = []
    for task in Path(f'/proc/{pid}/task').iterdir():
        for child in (task / 'children').read_text().split():
            found += [child, *descendants(child)]
    return found
