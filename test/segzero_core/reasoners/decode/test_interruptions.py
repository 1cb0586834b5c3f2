# SPDX-License-Identifier: Apache-2.0
"""Whatever interrupts the decoder, and wherever, the next answer is a new engine's."""

import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segzero_core.reasoners.decode import engine as engine_module
from segzero_core.reasoners.decode.kv_cache import KVCache
from segzero_core.reasoners.decode.prefill import PromptEmbedder
from segzero_core.reasoners.decode.prompt_lookup import PromptLookup
from segzero_core.reasoners.decode.text_model import DecoderLayer, TextModel
from segzero_core.reasoners.decode.tree_batch import TreeBatch
from segzero_core.reasoners.transformers import TransformersReasoner
from segzero_core.synthetic import make_scene

pytestmark = pytest.mark.usefixtures('one_thread')

QUERIES = ['find the bottle', 'pick up the ring', 'the red thing on the left, please']
SCENES = [make_scene(seed).image for seed in (1_000_001, 1_000_002)]
OUT_OF_MEMORY = RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')
ERRORS = [
    MemoryError('no room'),
    OUT_OF_MEMORY,
    KeyboardInterrupt(),
    ZeroDivisionError('a bug'),
]
each_error = pytest.mark.parametrize('error', ERRORS, ids=lambda error: type(error).__name__)


class FailAt(TorchDispatchMode):
    """Raises instead of computing the operator with a given number."""

    def __init__(self, number: int, error: BaseException | None) -> None:
        super().__init__()
        self.count, self._number, self._error = 0, number, error

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self._number and self._error is not None:
            raise self._error
        return function(*args, **(kwargs or {}))


def load():
    # Long enough for the first numbers, which no reply to another sentence has.
    return TransformersReasoner('tiny', device='cpu', max_new_tokens=16)


@pytest.fixture(scope='module')
def engine(one_thread):
    return load()


@pytest.fixture(scope='module')
def fresh(one_thread):
    """The answers of new engines."""
    answers = {
        (scene, query): load().reason(SCENES[scene], query).text
        for scene in (0, 1)
        for query in QUERIES
    }
    assert len(set(answers.values())) > 3
    return answers


def check(engine, fresh, work):
    """Ask the interrupted sentence again, others about both frames, and several at once."""
    asked = [(0, QUERIES[1]), (0, QUERIES[0]), (1, QUERIES[0])]
    for scene, query in asked[::-1] if work is another_frame else asked:
        assert engine.reason(SCENES[scene], query).text == fresh[scene, query]
    replies = engine.reason_batch([SCENES[0], SCENES[1], SCENES[0]], QUERIES)
    wanted = [fresh[scene, query] for scene, query in zip((0, 1, 0), QUERIES, strict=True)]
    assert [reply.text for reply in replies] == wanted


def interrupted(engine, error, work, number):
    """Run ``work`` with ``error`` at that operator."""
    # TorchScript makes a RuntimeError of it, and transformers a ValueError.
    with pytest.raises((type(error), RuntimeError, ValueError)), FailAt(number, error):
        work(engine)


def second_sentence(engine):
    engine.reason(SCENES[0], QUERIES[1])


def another_frame(engine):
    engine.reason(SCENES[1], QUERIES[0])


def several(engine):
    engine.reason_batch([SCENES[0], SCENES[1], SCENES[0]], QUERIES)


@each_error
@pytest.mark.parametrize('work', [second_sentence, another_frame, several])
def test_at_any_operator(engine, fresh, work, error, monkeypatch):
    monkeypatch.setattr(engine.engine.cache, 'step', engine.engine.cache.text.step)
    for _ in range(2):  # the second time, drafts are better and there are fewer operators
        engine.reason(SCENES[0], QUERIES[0])
        with FailAt(0, None) as mode:
            work(engine)
    for share in (0.0, 0.3, 0.7):  # of the operators that were computed
        engine.reason(SCENES[0], QUERIES[0])
        interrupted(engine, error, work, 1 + int(share * mode.count))
        check(engine, fresh, work)


STEPS = {
    'the image is encoded': (TransformersReasoner, 'encode'),
    'the image is embedded': (PromptEmbedder, '__call__'),
    'the buffers grow': (KVCache, 'reserve'),
    'a layer is prefilled': (DecoderLayer, 'project'),
    'tokens are computed': (None, 'step'),
    'logits are computed': (TextModel, 'logits'),
    'a draft is proposed': (PromptLookup, 'propose'),
    'tokens are remembered for drafts': (PromptLookup, 'add'),
    'a draft is verified': (engine_module, 'verify'),
    'a row is opened': (TreeBatch, 'open_row'),
    'a branch is added': (TreeBatch, 'add'),
    'branches are extended': (TreeBatch, 'extend'),
    'a branch is truncated': (TreeBatch, 'truncate'),
}


ONLY_NEW_FRAMES = (
    'the image is encoded',
    'the image is embedded',
    'a layer is prefilled',
    'logits are computed',  # without a recording, which has no Python
)


@pytest.mark.parametrize(
    ('error', 'after'),
    [*((error, False) for error in ERRORS), *((error, True) for error in ERRORS[1:3])],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseException) else str(each),
)
@pytest.mark.parametrize('step', STEPS)
def test_at_every_step(engine, fresh, step, after, error, monkeypatch):
    """The error comes before the step's work, or after it, before anything is returned."""
    owner, name = STEPS[step]
    owner = owner or engine.engine.cache
    original = getattr(owner, name)

    def fail(*args, **kwargs):
        if after:
            original(*args, **kwargs)
        raise error

    works = [several] if owner is TreeBatch else [second_sentence, another_frame, several]
    if error is not OUT_OF_MEMORY or after:  # no code asks which error it is
        works = works[-1:]
    for work in works:
        engine.reason(SCENES[0], QUERIES[0])
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            if work is second_sentence and step in ONLY_NEW_FRAMES:
                work(engine)
                continue
            with pytest.raises(type(error)):
                work(engine)
        check(engine, fresh, work)


@each_error
def test_where_the_text_is_read(engine, fresh, error):
    for stop in (1, 5):
        pieces = []

        def read(piece, pieces=pieces, stop=stop):
            pieces.append(piece)
            if len(pieces) == stop:
                raise error

        with pytest.raises(type(error)):
            engine.reason(SCENES[0], QUERIES[0], read)
        assert fresh[0, QUERIES[0]].startswith(''.join(pieces))
        check(engine, fresh, second_sentence)


def test_buffers_that_could_not_grow_are_those_of_before(monkeypatch):
    engine = load()
    engine.reason(SCENES[0], QUERIES[0])
    buffers = engine.engine.cache.cache
    before, keys = buffers.capacity, buffers.keys.clone()
    zeros, made = torch.Tensor.new_zeros, []

    def second_fails(*args, **kwargs):
        made.append(args)
        if len(made) == 2:
            raise MemoryError
        return zeros(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, 'new_zeros', second_fails)
        with pytest.raises(MemoryError):
            buffers.reserve(before + 1, buffers.keys)
    assert buffers.capacity == before
    assert torch.equal(buffers.keys, keys)
    buffers.reserve(before + 1, buffers.keys)
    assert buffers.capacity > before
    assert torch.equal(buffers.keys[:, :, :before], keys)
