# SPDX-License-Identifier: Apache-2.0
"""Question -> conversation, one named family per kind of checkpoint.

A family keeps the settings that must match: the wording, the image size and the coordinate space
of the answers.
"""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from segzero_core.errors import QueryError
from segzero_core.registry import look_up
from segzero_core.types import Size

MAX_QUERY_CHARACTERS = 1000
_MOST_PIXELS = 16384 * 28 * 28  # the largest image that Qwen2.5-VL's processor does not reduce

# The markup of chat templates and of this project begins with `<`: <|im_end|>, <image>, </think>,
# <s>. A tokenizer that normalises text (NFKC) reads the full-width and the small sign as `<` too.
_MARKUP = re.compile(r'[<\uff1c\ufe64](?=\S)')
_JOINERS = '\u200c\u200d'  # needed by some scripts and by emoji, unlike other format characters


def check_query(text: str) -> str:
    """Return ``text`` ready for any prompt.

    White space and control characters become single spaces. Each ``<`` gets a space after it
    (``<|im_end|>`` becomes ``< |im_end|>``). A sentence therefore cannot contain a special token,
    which could end the turn, add an image or fake an answer. Format characters are removed, except
    for the joiners, because they can hide words from the user or change the order of words.

    Raises:
        QueryError: The text has no letter, digit or symbol, or is longer than
            ``MAX_QUERY_CHARACTERS``.
    """
    if len(text.strip()) > MAX_QUERY_CHARACTERS:
        raise QueryError(
            f'the query has {len(text.strip())} characters; '
            f'at most {MAX_QUERY_CHARACTERS} are allowed'
        )
    clean = _MARKUP.sub('< ', ' '.join(''.join(map(_kept, text)).split()))
    if not any(unicodedata.category(character)[0] in 'LNS' for character in clean):
        raise QueryError(f'the query {clean!r} is empty: say what to look for, e.g. "the red mug"')
    return clean


def _kept(character: str) -> str:
    """Return the replacement of a character: the character itself, a space, or ``''``."""
    category = unicodedata.category(character)
    if category in ('Cc', 'Cs'):
        return ' '
    return '' if category == 'Cf' and character not in _JOINERS else character


def _lower_case(question: str) -> str:
    """Clean a question like Seg-Zero's released training and evaluation code."""
    return question.lower().strip('.')


def _as_written(question: str) -> str:
    """Remove final full stops, because the template has its own.

    The case is kept because it can distinguish names and labels.
    """
    return question.rstrip('. ') or question


def _stepped(image: Size, step: int) -> Size:
    """Round both sides to multiples of ``step``, within Qwen2.5-VL's maximum number of pixels."""
    factor = min(1.0, math.sqrt(_MOST_PIXELS / (image.width * image.height)))
    rounding = round if factor == 1 else math.floor
    return Size(*(max(step, rounding(side * factor / step) * step) for side in image))


@dataclass(frozen=True)
class PromptFamily:
    """The prompt, image size and coordinate space of one kind of checkpoint.

    Attributes:
        name: Name of the family in options and files.
        template: The user turn; ``{question}`` is replaced by the sentence.
        image_size: Side in pixels of the square that the image is resized to; ``None`` keeps the
            size of the image.
        space: Unit of the answers: pixels of the image that the model saw, or thousandths of the
            width and height.
        system: The system turn; ``''`` for none.
        clean: Function that prepares the sentence for the template.
        step: If ``image_size`` is ``None``, both sides are rounded to multiples of ``step``
            pixels; 0 = no rounding. The image processor of a checkpoint that answers in pixels
            would round in the same way.
        patch: Side in pixels of the square that becomes one image token. The image processor
            rounds other sizes to multiples of ``patch``, and answers in pixels would be scaled
            wrongly.
        min_side: Side in pixels of the smallest square that the image processor does not enlarge.
        asks: Form of the answers. ``task``: as the checkpoint's ``Task`` says, between tags.
            ``box``: only a box, as JSON without tags. ``words``: a word or a phrase, which only
            the evaluation of question answering can read.
    """

    name: str
    template: str
    image_size: int | None = 840
    space: Literal['pixels', 'thousandths'] = 'pixels'
    system: str = ''
    clean: Callable[[str], str] = _as_written
    step: int = 0
    patch: int = 28
    min_side: int = 56
    asks: Literal['task', 'box', 'words'] = 'task'

    @property
    def tagged(self) -> bool:
        """Whether answers are asked for between ``<answer>`` tags."""
        return self.asks == 'task'

    def input_size(self, image: Size) -> Size:
        """Return the size to which an image of size ``image`` is resized for the model."""
        if self.image_size is not None:
            return Size(self.image_size, self.image_size)
        return _stepped(image, self.step) if self.step else image

    def answer_size(self, image: Size) -> Size:
        """Return the coordinate range (width, height) of answers about an image of this size."""
        return Size(1000, 1000) if self.space == 'thousandths' else self.input_size(image)

    def smaller(self) -> PromptFamily:
        """Return this family with images of about half the usual size: a quarter of the tokens.

        The new size is a multiple of ``patch`` and at least ``min_side``, so that the image
        processor does not resize the image again. If no smaller size fits, the size stays.
        """
        side = self.image_size or 840
        half = max(side // 2, self.min_side) // self.patch * self.patch
        least = half if half >= self.min_side else half + self.patch
        return dataclasses.replace(self, image_size=min(side, least))

    def prompt(self, query: str) -> str:
        """Return the text of the user turn.

        Args:
            query: The sentence, already checked by ``check_query``.
        """
        return self.template.replace('{question}', self.clean(query))

    def conversation(self, query: str) -> list[dict[str, Any]]:
        """Return the messages for a chat template: system (if any), then image and text.

        The image entry is only ``{'type': 'image'}``; the engine passes the pixels separately.

        Args:
            query: The sentence, already checked by ``check_query``.
        """
        user = [{'type': 'image'}, {'type': 'text', 'text': self.prompt(query)}]
        messages: list[dict[str, Any]] = [{'role': 'user', 'content': user}]
        if self.system:
            system = [{'type': 'text', 'text': self.system}]
            messages.insert(0, {'role': 'system', 'content': system})
        return messages


# The released checkpoints were trained on exactly these words: no space after the full stops,
# single quotes in the example. Source: dvlab-research/Seg-Zero at 77f9ea5,
# verl/utils/rl_dataset.py; the system turn is the default of verl/trainer/config.py (and of the
# Qwen2.5-VL chat template, which inference relies on).
_SEG_ZERO = (
    "Please find '{question}' with bbox and points."
    'Compare the difference between objects and find the most closely matched one.'
    'Output the thinking process in <think> </think> and final answer in <answer> </answer> tags.'
    'Output the one bbox and points of two largest inscribed circles inside the interested object '
    'in JSON format.'
    'i.e., <think> thinking process here </think>'
    "<answer>{'bbox': [10,100,200,210], 'points_1': [30,110], 'points_2': [35,180]}</answer>"
)

# Figure 4 of the paper (arXiv 2503.06520): the same request with its spaces, "center points" and
# keys with a space.
_SEG_ZERO_PAPER = (
    "Please find '{question}' with bbox and points. "
    'Compare the difference between objects and find the most closely matched one. '
    'Output the thinking process in <think> </think> and final answer in <answer> </answer> tags. '
    'Output the one bbox and center points of two largest inscribed circles inside the interested '
    'object in JSON format. '
    'i.e., <think> thinking process here </think> '
    "<answer>{'bbox': [10,100,200,210], 'points 1': [30,110], 'points 2': [35,180]}</answer>"
)

_JSON = (
    'Find the one object in the image that best matches this request: "{question}".\n'
    'First compare the objects that come into question and decide, between <think> and '
    '</think>. Then write one line of JSON between <answer> and </answer> with "bbox", the box '
    'around the object as [left, top, right, bottom], and "points_1" and "points_2", the centers '
    'of the two largest circles that fit inside the object as [x, y]. {unit}\n'
    'For example: <think>what you compare, and why you decide for one</think>'
    '<answer>{"bbox": [10, 100, 200, 210], "points_1": [30, 110], "points_2": [35, 180]}</answer>'
)

_GROUNDING = 'Locate "{question}" in the image, output its bbox coordinates in JSON format.'

FAMILIES = {
    family.name: family
    for family in (
        PromptFamily(
            'seg_zero',
            _SEG_ZERO,
            system='You are a helpful assistant.',
            clean=_lower_case,
        ),
        PromptFamily(
            'seg_zero_paper',
            _SEG_ZERO_PAPER,
            system='You are a helpful assistant.',
            clean=_lower_case,
        ),
        PromptFamily('json', _JSON.replace('{unit}', 'All numbers are pixels.')),
        # 896 is the multiple of both 28 (Qwen2-VL) and 32 (Qwen3-VL) pixels per token that is
        # nearest to 840, so that neither processor resizes the image again.
        PromptFamily(
            'thousandths',
            _JSON.replace(
                '{unit}',
                'All numbers are thousandths of the width (x) and height (y) of the image, '
                'whole numbers from 0 to 1000.',
            ),
            image_size=896,
            space='thousandths',
        ),
        # The baseline: Qwen's own request for a box, at the original resolution of the image.
        # Qwen2.5-VL answers in pixels, Qwen2-VL and Qwen3-VL in thousandths.
        PromptFamily('grounding', _GROUNDING, image_size=None, step=28, asks='box'),
        PromptFamily(
            'grounding_thousandths',
            _GROUNDING,
            image_size=None,
            space='thousandths',
            asks='box',
        ),
        # A question to be answered in words.
        PromptFamily(
            'question',
            '{question}\nAnswer the question using a single word or phrase.',
            image_size=None,
            clean=str.strip,
            asks='words',
        ),
        # The embedded model was trained for this one request and needs no instructions.
        PromptFamily(
            'tiny', '{question}', image_size=128, clean=_lower_case, patch=16, min_side=16
        ),
    )
}

# The families whose answers name a place in the image.
PLACE_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.asks != 'words')


def get_family(name: str) -> PromptFamily:
    """Return the family called ``name``.

    Raises:
        UnknownNameError: There is no such family; the message lists all families.
    """
    return FAMILIES[look_up('prompt family', name, FAMILIES)]
