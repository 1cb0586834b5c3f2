# SPDX-License-Identifier: Apache-2.0
"""Networks that run without Python, on a CPU.

Between two operators of a small network more time goes into Python than into the operators, and
another thread has to wait for the interpreter meanwhile. A function that always computes the same
operators is recorded once and replayed without Python (TorchScript's tracing; it needs no compiler
on the robot, which ``torch.compile`` does).
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

from segzero_core.runtime.memory import is_out_of_memory

_LOG = logging.getLogger(__name__)
MAX_RECORDINGS = 8  # per function, signatures seen once included; the least recently used go


class TracedFunction:
    """A function of tensors that is recorded at its second call and replayed from then on.

    Recording takes several times as long as a call, so a signature that comes only once, such as
    an image of an unusual size, is not recorded. On other devices than a CPU the function is
    called as it is: there the time goes into launching kernels, which recording does not change.
    The results are the same, bit for bit. Thread-safe.

    Attributes:
        enabled: Whether it records and replays; else it only calls the function.
    """

    def __init__(self, function: Callable[..., Any], name: str, any_shape: bool = False) -> None:
        """Record ``function``, called ``name`` in the log.

        Args:
            function: Takes tensors and returns a tensor or a tuple of tensors. The operators it
                computes must depend only on the shapes of its arguments and on ``key``.
            name: Of the network.
            any_shape: The operators do not depend on shapes either: one recording does for all.
        """
        self._function, self._name, self._any_shape = function, name, any_shape
        self._known: OrderedDict[Hashable, Callable[..., Any] | None] = OrderedDict()
        self.enabled = True
        self._lock = threading.Lock()

    @property
    def recordings(self) -> list[bool]:
        """For each known signature, the least recently used first, whether it is recorded."""
        return [each is not None for each in self._known.values()]

    def __call__(self, *tensors: torch.Tensor, key: Hashable = None) -> Any:
        """Return the result of the function.

        Args:
            *tensors: Its arguments.
            key: Whatever else than the tensors' shapes and dtypes a recording depends on.
        """
        if not self.enabled or any(each.device.type != 'cpu' for each in tensors):
            return self._function(*tensors)
        kinds = ((None if self._any_shape else each.shape, each.dtype) for each in tensors)
        replay = self._look_up((key, *kinds), tensors)
        # Optimisation takes as long as recording, and finds nothing to do.
        with torch.jit.optimized_execution(False):
            return replay(*tensors)

    def _look_up(self, key: Hashable, tensors: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
        """Return the recording for ``key``, or the function itself at the first call."""
        with self._lock:
            if key not in self._known:
                self._known[key] = None
                if len(self._known) > MAX_RECORDINGS:
                    self._known.popitem(last=False)
                return self._function
            self._known.move_to_end(key)
            replay = self._known[key] = self._known[key] or self._record(tensors)
            return replay

    def _record(self, tensors: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
        """Return the recording, or the function itself if it cannot be recorded."""
        # Values of tensors become constants, which is what ``key`` is for.
        warnings.filterwarnings('ignore', category=torch.jit.TracerWarning)
        try:
            # torch keeps what ``torch.jit.trace`` returns until the process ends, and the weights
            # with it. These are its two steps; the result has no other user.
            graph, _ = torch._C._create_graph_by_tracing(
                self._function, tensors, lambda _: '', True, False
            )
            recording: Callable[..., Any] = torch._C._create_function_from_graph(
                'recording', graph
            )
            return recording
        except (AttributeError, RuntimeError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            _LOG.warning('cannot record the %s, going on without: %s', self._name, error)
            self.enabled = False
            return self._function
