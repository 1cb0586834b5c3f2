# SPDX-License-Identifier: Apache-2.0
"""A model behind a server that speaks OpenAI's chat protocol: vLLM, SGLang, llama.cpp, ..."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from segzero_core.errors import EngineOptionError, ModelLoadError, ServerError
from segzero_core.prompts import get_family
from segzero_core.reasoners.answer_regex import pattern_after
from segzero_core.reasoners.base import FinishReason, Reply
from segzero_core.reasoners.chat_client import ModelServer
from segzero_core.reasoners.chat_events import ChatDelta
from segzero_core.reasoners.image_input import ImageFormat, data_url, frame_key, model_picture
from segzero_core.reasoners.streaming import StreamedReply
from segzero_core.reasoners.thinking import Thinking
from segzero_core.registry import look_up
from segzero_core.runtime.checkpoint_metadata import (
    FAMILY_OF_MODEL_TYPE,
    checkpoint_task,
    read_json,
    synthetic_only,
)
from segzero_core.task import Task
from segzero_core.types import Image, image_size

_LOG = logging.getLogger(__name__)
_LONGEST_TOKEN = 64  # characters per token on average; a server that sends more is out of order

# Model types by the name of a model, such as 'Qwen/Qwen2.5-VL-7B-Instruct'.
_TYPE_IN_NAME = (
    (re.compile(r'qwen[-_]?2[._-]?5[-_]?vl|seg[-_]?zero', re.IGNORECASE), 'qwen2_5_vl'),
    (re.compile(r'qwen[-_]?2[-_]?vl', re.IGNORECASE), 'qwen2_vl'),
    (re.compile(r'qwen[-_]?3[-_]?vl', re.IGNORECASE), 'qwen3_vl'),
)


class OpenAIReasoner:
    """Asks a model server, greedily and streaming; needs no model library on this machine.

    The image is sent once per sentence, at the size that the model sees, before the question, so
    that a server with prefix caching computes it only for the first sentence about a frame. The
    connection is closed as soon as the answer is complete or cancelled, and the server then stops
    generating. Several threads may ask at the same time.

    Attributes:
        task: Content and form of the prompts and answers.
        model: The server's name of the model.
        synthetic_only: Whether the checkpoint knows synthetic scenes only.
    """

    def __init__(
        self,
        model: str = '',
        url: str = 'http://127.0.0.1:8000/v1',
        family: str = '',
        answer: str = '',
        think: bool | None = None,
        max_new_tokens: int = 1024,
        timeout: float = 60.0,
        startup_timeout: float = 5.0,
        retries: int = 3,
        thinking: str = 'free',
        max_think_tokens: int = 0,
        structured_output: bool = False,
        image_format: str = 'png',
        api_key_variable: str = 'OPENAI_API_KEY',
    ) -> None:
        """Connect to a server and choose one of its models.

        Args:
            model: The server's name of the model; '' = the only one it has.
            url: Address of the server, up to and including ``/v1``.
            family: Prompt family; '' = by the folder the server loaded, if it is on this machine,
                else by the model's name.
            answer: ``box_points``, ``box`` or ``points``; '' = by the folder the server loaded,
                if it is on this machine, else ``box_points``.
            think: Whether the model thinks before it answers; ``None`` = by that folder, else
                it does.
            max_new_tokens: Maximum length of a reply.
            timeout: Seconds for one sentence, retries included.
            startup_timeout: Seconds to wait for a server that has not started yet.
            retries: Repetitions of a request that failed before any text came.
            thinking: See ``Thinking.mode``; any but ``free`` needs a vLLM server.
            max_think_tokens: See ``Thinking.limit``; needs a vLLM server.
            structured_output: Constrain decoding to the answer format; needs a vLLM server.
            image_format: ``png`` (exact) or ``jpeg`` (smaller, for a slow network).
            api_key_variable: Environment variable that holds the API key, if there is one.

        Raises:
            EngineOptionError: An option has a value that cannot be used, or the family cannot be
                told from the model's name.
            UnknownNameError: There is no such family, image format or way of thinking.
            ModelLoadError: The server does not answer, or has no such model.
        """
        if max_new_tokens < 1:
            raise EngineOptionError(f'max_new_tokens must be at least 1, got {max_new_tokens}')
        self._format: ImageFormat = (
            'png' if look_up('image_format', image_format, ('png', 'jpeg')) == 'png' else 'jpeg'
        )
        key = os.environ.get(api_key_variable, '')
        self._server = ModelServer(url, key, timeout, retries)
        self._max_new_tokens, self._structured_output = max_new_tokens, structured_output
        self._thinking = Thinking(thinking, max_think_tokens)
        try:
            served = _choose_model(self._server.models(startup_timeout), model, url)
            self.task = _task_of(served, family, answer, think)
        except ServerError as error:
            self._server.close()
            raise ModelLoadError(str(error)) from error
        except BaseException:
            self._server.close()
            raise
        self.model: str = served['id']
        folder = _folder_of(served)
        self.synthetic_only = folder is not None and synthetic_only(folder)
        self._warned = False  # that replies hold no thoughts
        self._encoded: tuple[bytes, str] = (b'', '')  # key of the newest frame, its data URL

    def reason(
        self,
        image: Image,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reply:
        """Write the answer to ``query`` about ``image``; see ``Reasoner.reason``.

        Raises:
            CancelledError: ``cancel`` was set; raised within a token.
            ServerError: The server cannot be reached, hangs, refuses, or breaks the protocol.
        """
        # The chat template is the server's: whether it opens a thought is unknown.
        reply = StreamedReply(on_text, cancel, self.task, opened=None)
        reply.check_cancel()
        messages = self._messages(image, query)

        def ask(written: str, tokens: int) -> Iterator[Reply]:
            request = self._request(messages, written, tokens)
            if self._structured_output and (pattern := pattern_after(reply, self.task)):
                request['structured_outputs'] = {'regex': pattern}
            return self._pieces(request, written, cancel)

        self._thinking.write(reply, ask, self._max_new_tokens)
        result = reply.result()
        if self.task.think and result.text and '<think>' not in result.text:
            self._warn_of_missing_thoughts()
        return result

    def reason_batch(self, images: Sequence[Image], queries: Sequence[str]) -> list[Reply]:
        """Ask several sentences at the same time; the server batches them.

        Raises:
            ServerError: The server failed on one of them.
        """
        with ThreadPoolExecutor(max(1, len(queries)), thread_name_prefix='segzero-ask') as askers:
            return list(askers.map(self.reason, images, queries))

    def close(self) -> None:
        """Close the connections to the server, which keeps its model."""
        self._server.close()

    def _warn_of_missing_thoughts(self) -> None:
        """Say once that there will be no reasoning."""
        if not self._warned:
            self._warned = True
            _LOG.warning(
                'model server %s: the reply of %r holds no thoughts, so there is no reasoning. '
                'The model wrote none, or the server keeps them back: look for its option that '
                'returns the reasoning',
                self._server.url,
                self.model,
            )

    def _pieces(
        self, request: dict[str, Any], written: str, cancel: threading.Event | None
    ) -> Iterator[Reply]:
        """Yield the pieces of the reply; closing the iterator closes the connection."""
        tokens = request['max_tokens']
        room = _LONGEST_TOKEN * tokens
        with contextlib.closing(self._server.chat(request, cancel)) as deltas:
            for piece in tagged(deltas, written):
                yield piece
                room -= len(piece.text)
                if room < 0:
                    raise self._server.broken(f'it goes on writing beyond {tokens} tokens')

    def _messages(self, image: Image, query: str) -> list[dict[str, Any]]:
        messages = []
        for message in self.task.conversation(query):
            parts = [
                {'type': 'image_url', 'image_url': {'url': self._image_url(image)}}
                if part['type'] == 'image'
                else part
                for part in message['content']
            ]
            messages.append({'role': message['role'], 'content': parts})
        return messages

    def _request(
        self, messages: list[dict[str, Any]], written: str, tokens: int
    ) -> dict[str, Any]:
        request = {
            'model': self.model,
            'messages': messages,
            'max_tokens': tokens,
            'temperature': 0,
            'stream_options': {'include_usage': True},
        }
        if written:
            begun = {'role': 'assistant', 'content': written}
            request |= {
                'messages': [*messages, begun],
                'add_generation_prompt': False,
                'continue_final_message': True,
            }
        return request

    def _image_url(self, image: Image) -> str:
        size = self.task.input_size(image_size(image))
        key = frame_key(image, size)
        known, url = self._encoded
        if key != known:
            url = data_url(model_picture(image, size), self._format)
            self._encoded = key, url
        return url


def tagged(deltas: Iterable[ChatDelta], written: str = '') -> Iterator[Reply]:
    """Yield the pieces of a reply, its thoughts between ``<think>`` and ``</think>``.

    Args:
        deltas: The steps of a reply. Servers that separate the thoughts leave out the tags.
        written: The beginning of the reply, before the first step.
    """
    opened = '<think>' in written and '</think>' not in written.lower()
    thinking = False  # the newest text came in a field for thoughts
    reason: FinishReason = ''
    counted = total = 0
    for delta in deltas:
        text = ''
        if delta.thoughts:
            text += delta.thoughts if opened or thinking else f'<think>{delta.thoughts}'
            thinking = True
        if delta.text:
            # Some servers put white space between the two, and some leave the tag.
            if thinking and delta.text.strip():
                text += '' if delta.text.lstrip().lower().startswith('</think>') else '</think>'
                thinking, opened = False, False
            text += delta.text
        if text:
            counted += 1
            yield Reply(text, '', 1)
        total = max(total, delta.tokens)
        if delta.finish_reason:
            reason = delta.finish_reason
    # A step is a token on most servers; the count that comes at the end is right on all.
    yield Reply('', reason, total - counted if total else 0)


def _choose_model(served: list[dict[str, Any]], model: str, url: str) -> dict[str, Any]:
    """Return the server's entry for ``model``; '' = the only one."""
    names = ', '.join(repr(entry['id']) for entry in served) or 'none'
    if not model and len(served) == 1:
        return served[0]
    for entry in served:
        if entry['id'] == model:
            return entry
    wanted = f'no model {model!r}' if model else 'not exactly one model, so option model must say'
    raise ModelLoadError(f'model server {url} has {wanted}. It has: {names}')


def _folder_of(served: dict[str, Any]) -> Path | None:
    """Return the folder that the server loaded, if it is on this machine."""
    folder = Path(str(served.get('root') or served['id']))
    return folder if folder.is_absolute() and (folder / 'config.json').is_file() else None


def _task_of(served: dict[str, Any], family: str, answer: str, think: bool | None) -> Task:
    root = str(served.get('root') or served['id'])
    folder = _folder_of(served)
    if folder is not None:
        model_type = str(read_json(folder / 'config.json').get('model_type'))
        if model_type in FAMILY_OF_MODEL_TYPE:
            return checkpoint_task(folder, model_type, family, answer, think)
    found = get_family(family or _family_by_name(served, root))
    return Task(family=found).reworked(answer, think)


def _family_by_name(served: dict[str, Any], root: str) -> str:
    for name in (root, served['id']):
        for pattern, model_type in _TYPE_IN_NAME:
            if pattern.search(name):
                return FAMILY_OF_MODEL_TYPE[model_type]
    raise EngineOptionError(
        f'cannot tell from the name {served["id"]!r} how this model is to be asked: give option '
        "family, for instance 'seg_zero' for pixels or 'thousandths'"
    )
