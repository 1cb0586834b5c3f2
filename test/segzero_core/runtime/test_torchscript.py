# SPDX-License-Identifier: Apache-2.0
import gc
import weakref
from functools import partial

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')

import torch

from segzero_core.runtime.torchscript import MAX_RECORDINGS, TracedFunction

pytestmark = pytest.mark.usefixtures('one_thread')


class Counted:
    """A network that counts how often Python runs it."""

    def __init__(self):
        self.calls = 0
        self.layer = torch.nn.Linear(4, 3).requires_grad_(False)

    def run(self, values):
        self.calls += 1
        return self.layer(values).relu(), values.sum()


@torch.inference_mode()
def test_what_comes_a_second_time_is_recorded_and_replayed_without_python():
    network = Counted()
    traced = TracedFunction(network.run, 'network')
    values = torch.randn(6, 5, 4)
    wanted = [network.run(each) for each in values]
    network.calls = 0
    for each, (first, second) in zip(values, wanted, strict=True):
        found = traced(each)
        assert torch.equal(found[0], first)
        assert torch.equal(found[1], second)
    assert network.calls == 2  # the first, and the recording
    with pytest.raises(RuntimeError):
        traced(torch.randn(5, 5))  # an error is one, recorded or not


@torch.inference_mode()
def test_each_shape_type_and_key_has_a_recording_of_its_own():
    network = Counted()
    traced = TracedFunction(network.run, 'network')
    for values, key in ((torch.randn(5, 4), 0), (torch.randn(2, 4), 0), (torch.randn(5, 4), 1)):
        before = network.calls
        for _ in range(4):
            assert torch.equal(traced(values, key=key)[0], network.layer(values).relu())
        assert network.calls == before + 2


@torch.inference_mode()
def test_one_recording_does_for_any_shape_where_none_is_looked_at():
    network = Counted()
    traced = TracedFunction(network.run, 'network', any_shape=True)
    for count in (3, 3, 5, 1, 7):
        values = torch.randn(count, 4)
        assert torch.equal(traced(values)[0], network.layer(values).relu())
    assert network.calls == 2


@torch.inference_mode()
def test_what_was_not_used_for_longest_is_forgotten():
    network = Counted()
    traced = TracedFunction(network.run, 'network')
    for count in range(1, MAX_RECORDINGS + 2):
        traced(torch.zeros(count, 4))
    assert network.calls == MAX_RECORDINGS + 1
    traced(torch.zeros(1, 4))  # as if it came the first time
    traced(torch.zeros(1, 4))
    traced(torch.zeros(1, 4))
    assert network.calls == MAX_RECORDINGS + 3
    assert len(traced.recordings) == MAX_RECORDINGS


@torch.inference_mode()
def test_what_cannot_be_recorded_goes_on_without(caplog):
    def odd(values):
        return [values.tolist(), 'no tensor']

    traced = TracedFunction(odd, 'odd one')
    for _ in range(4):
        assert traced(torch.zeros(2)) == [[0.0, 0.0], 'no tensor']
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith('cannot record the odd one, going on without: ')


@torch.inference_mode()
def test_a_recording_is_freed_with_its_weights():
    weights = np.ones((4, 3), np.float32)
    left = weakref.ref(weights)
    traced = TracedFunction(partial(torch.matmul, other=torch.from_numpy(weights)), 'network')
    for _ in range(3):
        traced(torch.zeros(2, 4))
    del traced, weights
    gc.collect()
    assert left() is None
