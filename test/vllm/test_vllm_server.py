# SPDX-License-Identifier: Apache-2.0
"""The ``openai`` reasoner against a real vLLM server, a process of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip('vllm', reason='needs vLLM: make test-vllm')

from segzero_core import load_reasoner
from segzero_core.errors import CancelledError, ServerError
from segzero_core.reasoners.answer_regex import ANSWER_PATTERN
from segzero_core.reasoners.vllm_drafts import speculation

# The engine takes a minute to start on two cores, and more beside other work.
pytestmark = pytest.mark.timeout(600)
ANSWER = (
    '<think>The red mug ☕ stands left of the box.</think>'
    '<answer>{"bbox": [28, 30, 84, 90], "points_1": [50, 56], "points_2": [62, 60]}</answer>'
)


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def server(overfit_reasoner_dir):
    """The address of a server, and its process."""
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'vllm.entrypoints.openai.api_server']
    command += ['--model', str(overfit_reasoner_dir), '--host', '127.0.0.1', '--port', str(port)]
    command += ['--max-model-len', '2048', '--enforce-eager', '--generation-config', 'vllm']
    # Without a size it would try the largest image there is.
    command += ['--limit-mm-per-prompt.image', '{"count": 1, "width": 112, "height": 112}']
    command += ['--limit-mm-per-prompt.video', '0', '--dtype', 'float32']
    command += ['--speculative-config', json.dumps(speculation(8))]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            yield f'http://127.0.0.1:{port}/v1', process
        finally:
            # The engine's processes outlive a server that was killed.
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope='module')
def reasoner(server):
    """Waits until the server answers, or the test's time limit ends both."""
    return load_reasoner('openai', url=server[0], startup_timeout=550)


def test_it_knows_the_family_by_the_folder_and_gets_the_answer(reasoner):
    assert (reasoner.task.family.name, reasoner.task.family.image_size) == ('seg_zero', 112)
    pieces = []
    assert reasoner.reason(picture(), 'the red mug', pieces.append).text == ANSWER
    assert ''.join(pieces) == ANSWER
    assert len(pieces) > 20


def test_several_sentences_at_once(reasoner):
    images = [picture(seed) for seed in range(6)]
    assert [reply.text for reply in reasoner.reason_batch(images, ['the red mug'] * 6)] == [
        ANSWER
    ] * 6


def test_cancelling_stops_at_the_next_piece(reasoner):
    cancel, pieces = threading.Event(), []

    def on_text(piece):
        pieces.append(piece)
        cancel.set()

    with pytest.raises(CancelledError):
        reasoner.reason(picture(), 'the red mug', on_text, cancel)
    assert len(pieces) == 1
    assert reasoner.reason(picture(), 'the red mug').text == ANSWER


def test_thinking_and_format_can_be_ruled(server, reasoner):
    url = server[0]
    short = load_reasoner('openai', url=url, thinking='prefilled', max_think_tokens=4)
    thoughts = re.match(
        r'<think>(.*?)</think><answer>', short.reason(picture(), 'the red mug').text
    )
    assert thoughts is not None
    assert ANSWER.startswith(f'<think>{thoughts[1]}')
    assert 0 < len(thoughts[1]) < len('The red mug ☕ stands left of the box.')
    guided = load_reasoner('openai', url=url, thinking='none', structured_output=True)
    text = guided.reason(picture(), 'the red mug').text
    assert re.fullmatch('<think></think><answer>' + ANSWER_PATTERN, text)


def test_a_server_that_was_killed_is_an_error(server, reasoner):
    _, process = server
    process.kill()
    process.wait()
    with pytest.raises(ServerError) as caught:
        reasoner.reason(picture(), 'the red mug')
    assert caught.value.kind == 'server_unreachable'
