# SPDX-License-Identifier: Apache-2.0
"""Networks that run without Python, on a CPU.

Between two operators of a small network more time goes into Python than into the operators, and
whoever runs beside it in another thread waits for the interpreter. What is always computed in the
same way can be recorded once and replayed without it (TorchScript's tracing: it needs no compiler
on the robot, which ``torch.compile`` would).
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

_LOG = logging.getLogger(__name__)
_MOST = 8  # recordings, or what may become one; those not used for longest are forgotten


class Traced:
    """A function of tensors that is recorded when it comes a second time, and then replayed.

    Recording takes several times as long as the function does: what comes but once, such as an
    image of some odd size, is not recorded. On other devices than a CPU it is called as it is:
    there, launching kernels takes the time, which is what ``torch.compile`` is for. The results
    are the same, bit for bit.
    """

    def __init__(self, function: Callable[..., Any], what: str, any_shape: bool = False) -> None:
        """Record ``function``, called ``what`` in the log.

        Args:
            function: Takes tensors and returns a tensor or a tuple of them. What it does must
                depend on their shapes and on ``key`` only.
            what: The network's name.
            any_shape: It does not look at shapes either: one recording holds for all of them.
        """
        self._function, self._what, self._any_shape = function, what, any_shape
        self._known: OrderedDict[Hashable, Callable[..., Any] | None] = OrderedDict()
        self._possible = True
        self._knowing = threading.Lock()  # two threads may call it, a mask's and the reasoner's

    def __call__(self, *tensors: torch.Tensor, key: Hashable = None) -> Any:
        """Return what the function returns.

        Args:
            *tensors: Its arguments.
            key: Other than the kinds of ``tensors``, what a recording holds for.
        """
        if not self._possible or any(each.device.type != 'cpu' for each in tensors):
            return self._function(*tensors)
        kinds = ((None if self._any_shape else each.shape, each.dtype) for each in tensors)
        replay = self._look_up((key, *kinds), tensors)
        # Without optimisation, which takes as long as recording, and finds nothing to do.
        with torch.jit.optimized_execution(False):
            return replay(*tensors)

    def _look_up(self, key: Hashable, tensors: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
        """Return the recording for ``key``, or the function itself if it comes the first time."""
        with self._knowing:
            if key not in self._known:
                self._known[key] = None
                if len(self._known) > _MOST:
                    self._known.popitem(last=False)
                return self._function
            self._known.move_to_end(key)
            replay = self._known[key] = self._known[key] or self._record(tensors)
            return replay

    def _record(self, tensors: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
        """Return the recording, or the function itself if it cannot be recorded."""
        try:
            with warnings.catch_warnings():
                # TorchScript is deprecated, and values of tensors become constants: see ``key``.
                warnings.simplefilter('ignore')
                # What ``torch.jit.trace`` returns is kept by torch until the process ends, and the
                # weights with it. These are its two steps; the result belongs to nobody else.
                graph, _ = torch._C._create_graph_by_tracing(
                    self._function, tensors, lambda _: '', True, False
                )
                recording: Callable[..., Any] = torch._C._create_function_from_graph(
                    'recording', graph
                )
                return recording
        except (AttributeError, RuntimeError, TypeError) as error:
            _LOG.warning('cannot trace the %s, it goes on without: %s', self._what, error)
            self._possible = False
            return self._function
