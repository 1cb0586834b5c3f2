# SPDX-License-Identifier: Apache-2.0
"""After any interruption of a segmenter at any point, the next mask is that of a new engine."""

import contextlib

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')
pytest.importorskip('transformers', reason='needs transformers: see requirements/models.txt')

from torch.nn import LayerNorm
from torch.utils._python_dispatch import TorchDispatchMode

from segzero_core.segmenters import load_segmenter
from segzero_core.types import Box, Point

pytestmark = pytest.mark.usefixtures('one_thread')

PROMPTS = [(Box(40, 30, 120, 90), [Point(60, 50)]), (Box(5, 5, 60, 60), []), (None, [Point(9, 9)])]
ERRORS = [
    MemoryError('no room'),
    RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'),
    KeyboardInterrupt(),
    ZeroDivisionError('a bug'),
]


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (121, 167, 3), dtype=np.uint8)


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


def masks(engine, image):
    found = engine.segment_all(engine.embed(image), PROMPTS)
    return [(each.mask.tobytes(), each.score) for each in found]


@pytest.fixture(scope='module')
def engine(one_thread):
    return load_segmenter('sam2', model='tiny_sam2', device='cpu')


@pytest.fixture(scope='module')
def fresh(one_thread):
    """The masks of new engines."""
    return [
        masks(load_segmenter('sam2', model='tiny_sam2', device='cpu'), picture(seed))
        for seed in (0, 1)
    ]


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: type(error).__name__)
def test_at_any_operator(engine, fresh, error):
    kept = engine.embed(picture(0))
    for _ in range(2):
        masks(engine, picture(0))  # the second call records everything
    with FailAt(0, None) as mode:
        masks(engine, picture(1))
    for share in (0.0, 0.4, 0.8, 0.95):  # of the operators that were computed
        # TorchScript makes a RuntimeError of what a recorded operator raises.
        with (
            pytest.raises((type(error), RuntimeError)),
            FailAt(1 + int(share * (mode.count - 1)), error),
        ):
            masks(engine, picture(1))
        assert masks(engine, picture(1)) == fresh[1]
        assert masks(engine, picture(0)) == fresh[0]
        # An earlier embedding is still valid.
        found = engine.segment_all(kept, PROMPTS)
        assert [(each.mask.tobytes(), each.score) for each in found] == fresh[0]


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize('number', [1, 25], ids=['image encoder', 'mask decoder'])
def test_while_it_is_recorded(fresh, error, number, monkeypatch):
    """The second image records the networks; an error must not leave an incomplete recording."""
    engine = load_segmenter('sam2', model='tiny_sam2', device='cpu')
    masks(engine, picture(0))
    normalize, calls = LayerNorm.forward, []

    def fail(*args):
        calls.append(args)
        if len(calls) == number:
            raise error
        return normalize(*args)

    with monkeypatch.context() as patch:
        patch.setattr(LayerNorm, 'forward', fail)
        with contextlib.suppress(ZeroDivisionError, KeyboardInterrupt, RuntimeError, MemoryError):
            masks(engine, picture(1))
    assert len(calls) >= number
    for _ in range(2):
        assert masks(engine, picture(1)) == fresh[1]
        assert masks(engine, picture(0)) == fresh[0]
