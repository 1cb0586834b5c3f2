# SPDX-License-Identifier: Apache-2.0
"""Small engines that follow the sentence, for tests of the code around the engines.

As a program it is the segzero node with these engines added.
"""

import re
import sys
import threading
from collections import Counter
from typing import ClassVar

import numpy as np

from segzero_core.answers.parse import Answer, format_answer
from segzero_core.errors import CancelledError
from segzero_core.prompts import get_family
from segzero_core.reasoners import REASONERS
from segzero_core.reasoners.base import Reply
from segzero_core.registry import EngineEntry
from segzero_core.segmenters import SEGMENTERS, MaskResult
from segzero_core.task import Task
from segzero_core.types import Box, Point

LONG = 60.0  # seconds; only a broken node takes so long

# In the 840 x 840 square the family `json` answers in: the middle quarter of any image.
BOX, POINTS = Box(210, 210, 630, 630), (Point(420, 420), Point(315, 420))


def out_of_memory():
    """Return the error that torch raises."""
    import torch  # loaded by nothing else here

    return torch.cuda.OutOfMemoryError('Tried to allocate 2 GiB')


class ScriptedReasoner:
    """A reasoner that follows its sentence.

    ``model`` 'broken' cannot be loaded, 'huge' does not fit, 'endless' loads until released, 'box'
    and 'points' answer with these alone.
    """

    loaded = 0
    seen: ClassVar = []  # the images it was asked about
    asked: ClassVar = Counter()  # how often each sentence was
    started = threading.Event()  # set when it begins to wait
    release = threading.Event()  # ends 'ignore' and 'endless'

    def __init__(self, model=''):
        if model == 'broken':
            raise ValueError('the weights are corrupt')
        if model == 'huge':
            raise out_of_memory()
        if model == 'endless':
            print('scripted loads', flush=True)
            self.started.set()
            self.release.wait(LONG)
        answer = model if model in ('box', 'points') else 'box_points'
        self.task = Task(answer, family=get_family('json'))
        type(self).loaded += 1

    def reason(self, image, query, on_text=None, cancel=None):
        type(self).seen.append(image)
        if query == 'raise':
            raise RuntimeError('the model broke')
        if query == 'babble':
            return Reply('no answer at all', 'stop')
        if query == 'nothing' or (query == 'something bright' and image.mean() < 50):
            return Reply('<think>There is none.</think><answer>{}</answer>', 'stop')
        if query == 'no memory' or (
            query == 'little memory' and self.task.family.image_size > 420
        ):
            raise out_of_memory()
        if query in ('wait', 'ignore'):
            on_text('I start. ')
        self.asked[query] += 1
        if query == 'wait' or (query == 'once' and self.asked['once'] > 1):
            self.started.set()
            if cancel.wait(LONG):
                on_text('TOO LATE')
                raise CancelledError('as asked')
        if query == 'ignore':
            self.started.set()
            self.release.wait(LONG)
        scale = self.task.family.image_size / 840
        box = Box(*(scale * value for value in BOX))
        points = tuple(Point(scale * x, scale * y) for x, y in POINTS)
        text = format_answer(Answer(box, points, f'I see {query}.', ()))
        if not self.task.points:
            text = re.sub(r', "points_1.*}', '}', text)
        if not self.task.box:
            text = re.sub(r'"bbox": \[[^]]*\], ', '', text)
        if query == 'open end':
            text = text.removesuffix('</answer>')
        for letter in text:
            on_text(letter)
        return Reply(text, 'stop')

    def close(self):
        type(self).loaded -= 1


class BoxSegmenter:
    """A segmenter whose mask is the box.

    ``model`` 'broken' raises in ``segment``, 'empty' finds nothing, 'flat' makes no image, 'stuck'
    does not return from ``embed``.
    """

    embedded: ClassVar = []  # the sizes of the images, as often as one was

    def __init__(self, model=''):
        self.model = model

    def embed(self, image):
        self.embedded.append(image.shape[:2])
        if self.model == 'stuck':
            threading.Event().wait(LONG)
        return image.shape[:2]

    def segment(self, embedding, box, points):
        if self.model == 'broken':
            raise RuntimeError('the segmenter broke')
        mask = np.zeros(embedding, bool)
        if self.model != 'empty':
            if box is None:  # around the points
                box = Box(points[0].x - 5, points[0].y - 5, points[0].x + 5, points[0].y + 5)
            rows, columns = (
                slice(round(box.y1), round(box.y2)),
                slice(round(box.x1), round(box.x2)),
            )
            mask[rows, columns] = True
        if self.model == 'flat':
            mask = mask.ravel()
        return MaskResult(mask, 0.75)

    def close(self):
        pass


ENGINES = (
    (REASONERS, 'scripted', EngineEntry('scripted_engines:ScriptedReasoner', 'core')),
    (SEGMENTERS, 'box', EngineEntry('scripted_engines:BoxSegmenter', 'core')),
)

if __name__ == '__main__':
    from segzero_ros.node import main

    for registry, name, engine in ENGINES:
        registry[name] = engine
    sys.exit(main())
