# SPDX-License-Identifier: Apache-2.0
"""The faults of the soak: the plan, and engines that fail as planned."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from harness import InstantReasoner, InstantSegmenter

from segzero_core.errors import CancelledError
from segzero_core.reasoners import Reply

# Events per sentence: their frequency, and the allowed final statuses on a valid frame.
KINDS = {
    'answer': (40, {'ok'}),
    'raise': (8, {'error'}),
    'segmenter raises': (6, {'error'}),
    'babble': (8, {'error'}),
    'nothing': (8, {'nothing_found'}),
    'no words': (5, {'error'}),
    'cancel': (8, {'cancelled'}),
    'cancel what goes on': (4, {'cancelled'}),
    'replace': (8, {'replaced'}),
    'burst': (5, {'ok', 'replaced'}),
    'deactivate': (4, {'cancelled'}),
    'clean up': (2, {'cancelled'}),
}


class FaultyReasoner(InstantReasoner):
    """A reasoner that follows the first words of the sentence."""

    def reason(
        self,
        image: Any,
        query: str,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reply:
        """Answer, or fail as planned."""
        assert on_text is not None
        assert cancel is not None
        kind, _, number = query.rpartition(' ')
        FaultySegmenter.broken = kind == 'segmenter raises'
        if kind == 'raise':
            raise RuntimeError('as planned')
        if kind == 'babble':
            return Reply('I would rather talk about something else.', 'stop')
        if kind == 'nothing':
            return Reply('<think>There is none.</think><answer>{}</answer>', 'stop')
        if kind in ('cancel', 'replace', 'deactivate', 'clean up'):
            on_text(f'waiting {number}')
            cancel.wait()
            raise CancelledError('as planned')
        if kind == 'cancel what goes on':
            on_text(f'waiting {number}')
            cancel.wait()
            time.sleep(0.1)  # and it continues nevertheless
        return super().reason(image, query, on_text, cancel)


class FaultySegmenter(InstantSegmenter):
    """A segmenter that raises an error if the sentence asked for one."""

    broken = False

    def segment(self, *arguments: Any) -> Any:
        """Return the mask, or fail as planned."""
        if self.broken:
            raise RuntimeError('as planned')
        return super().segment(*arguments)


def make_plan(seed: int, frames: int, queries: int) -> list[tuple[int, str]]:
    """Return the kind of sentence to ask at each chosen frame; every kind occurs."""
    rng = random.Random(seed)
    kinds = list(KINDS) + rng.choices(
        list(KINDS), [often for often, _ in KINDS.values()], k=max(queries - len(KINDS), 0)
    )
    rng.shuffle(kinds)
    at = sorted(rng.randrange(frames // 50, frames) for _ in kinds)
    return list(zip(at, kinds, strict=True))
