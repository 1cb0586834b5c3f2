# SPDX-License-Identifier: Apache-2.0
"""Scenes -> tensors: images, labels of every image token, and packed sentences.

Several sentences share one image. A sequence is the prompt up to the image, the image tokens, then
one segment per sentence: the rest of its prompt, and its reply. Positions and attention mask let
every segment see what it would see alone, so the image is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from segzero_core.prompts import PromptFamily
from segzero_core.synthetic import COLOURS, KINDS, SHAPES, SIZES, Query
from segzero_core.types import Box, Point
from training.tiny_recipe.scene_cache import Item, Scenes
from training.tiny_recipe.texts import ANSWER_START, find_named, mirror_sentence, write_reply

NO_LABEL = -100
_COLOURS, _SIZES = tuple(COLOURS), tuple(SIZES)
_COVERS = 0.15  # share of a token's square that an object must cover to be its label


class Segment(NamedTuple):
    """The tokens of one sentence after the image.

    Attributes:
        prompt: Tokens from the end of the image to the start of the reply.
        reply: Thinking, answer and the end of the turn.
        target: Index of the item that the sentence means.
        named: Index of the item that the sentence names by colour and shape: the target, or the
            reference of a relation; -1 if there is none.
    """

    prompt: list[int]
    reply: list[int]
    target: int
    named: int


@dataclass(frozen=True)
class Dense:
    """Labels of the N image tokens of B scenes.

    Attributes:
        owner: (B, N) int64 index of the item on the token; -1 for none.
        colour: (B, N) int64 index of its colour; 0 if there is no item.
        shape: (B, N) int64 index of its shape; 0 if there is no item.
        size: (B, N) int64 index of its size; 0 if there is no item.
        numbers: (B, N, 8) float32 box and two points of the item, pixels of the model's square.
    """

    owner: torch.Tensor
    colour: torch.Tensor
    shape: torch.Tensor
    size: torch.Tensor
    numbers: torch.Tensor

    @property
    def owned(self) -> torch.Tensor:
        """(B, N) bool, whether an object is on the token."""
        return self.owner >= 0


@dataclass(frozen=True)
class PackedSentences:
    """Token sequences of B scenes, each of length L.

    Attributes:
        ids: (B, L) int64 tokens.
        labels: (B, L) int64 next token, where it is part of a reply; else ``NO_LABEL``.
        targets: (B, L) int64 item that the reply is about; -1 outside of replies.
        named: (B, L) int64 item that the sentence names, from the end of the sentence to the start
            of the reply; -1 elsewhere.
        heard: (B, L) int64 row of ``texts`` that the state there should recall: the sentence from
            its end to the end of the thinking, the thinking during the answer; -1 elsewhere.
        texts: (n, vocabulary) float32 share of each token in every sentence and thought.
        positions: (3, B, L) int64 positions in time, height and width, as in the model's own code.
        mask: (B, 1, L, L) float32: 0 where a place attends to another, else a very low number.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    named: torch.Tensor
    heard: torch.Tensor
    texts: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor


class Batcher:
    """Draws batches of scenes for one tokenizer and patch size."""

    def __init__(
        self, scenes: Scenes, tokenizer: Any, family: PromptFamily, patch: int, merge: int
    ) -> None:
        """Take the scenes and the properties of the model.

        Args:
            scenes: The scenes to draw from.
            tokenizer: The model's tokenizer.
            family: Family of its prompts.
            patch: Side of a patch, pixels.
            merge: Patches along the side of an image token.
        """
        self.scenes, self.patch, self.merge = scenes, patch, merge
        self.grid = scenes.side // (patch * merge)
        self._tokenizer, self._family = tokenizer, family
        self._image, self._pad, self._end, self._answer = tokenizer.convert_tokens_to_ids(
            ['<|image_pad|>', '<|endoftext|>', '<|im_end|>', ANSWER_START]
        )
        self.head = self._ids(self._prompt('anything')[0])

    @property
    def tokens(self) -> slice:
        """The place of the image tokens in every sequence."""
        return slice(len(self.head), len(self.head) + self.grid**2)

    def draw(
        self,
        count: int,
        sentences: int,
        rng: np.random.Generator,
        kinds: Sequence[str] = KINDS,
    ) -> tuple[torch.Tensor, Dense, PackedSentences]:
        """Draw scenes, half of them mirrored, and sentences about them.

        Args:
            count: Number of scenes.
            sentences: Sentences per scene; with 0 the sequences end with the image.
            rng: Random generator.
            kinds: Kinds of sentences; a kind is drawn as often as it is listed.

        Returns:
            (B, 3, S, S) uint8 images, the labels of their tokens, and the sequences.
        """
        images, instances, segments = [], [], []
        items: list[list[Item]] = []
        for index in rng.integers(len(self.scenes), size=count):
            flip = rng.random() < 0.5
            step = -1 if flip else 1
            images.append(self.scenes.images[index][:, ::step])
            instances.append(self.scenes.instances[index][:, ::step])
            there = list(self.scenes.items[index])
            if flip:
                there = [mirror_item(item, self.scenes.side) for item in there]
            items.append(there)
            segments.append(self._segments(index, flip, there, sentences, rng, kinds))
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return pixels, self._dense(np.stack(instances), items), self._pack(segments)

    def _segments(
        self,
        index: int,
        flip: bool,
        items: list[Item],
        sentences: int,
        rng: np.random.Generator,
        kinds: Sequence[str],
    ) -> list[Segment]:
        found: dict[str, list[Query]] = {}
        for query in self.scenes.queries[index]:
            found.setdefault(query.kind, []).append(query)
        there = [kind for kind in kinds if kind in found]
        segments = []
        for _ in range(sentences if there else 0):
            of_kind = found[there[int(rng.random() * len(there))]]
            query = of_kind[int(rng.random() * len(of_kind))]
            text = mirror_sentence(query.text) if flip else query.text
            segments.append(self.segment(query._replace(text=text), items))
        return segments

    def segment(self, query: Query, items: Sequence[Item]) -> Segment:
        """Return the tokens of a sentence and of a reply that finds ``items[query.target]``."""
        reply = self._ids(write_reply(items[query.target], self.scenes.side))
        named = find_named(query, items)
        prompt = self._ids(self._prompt(query.text)[1])
        return Segment(prompt, [*reply, self._end], query.target, named)

    def _prompt(self, sentence: str) -> tuple[str, str]:
        """Return the prompt before and after the image."""
        text = self._tokenizer.apply_chat_template(
            self._family.conversation(sentence), tokenize=False, add_generation_prompt=True
        )
        before, after = text.split('<|image_pad|>')
        return before, after

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text).input_ids
        return ids

    def _dense(self, instances: npt.NDArray[np.uint8], items: list[list[Item]]) -> Dense:
        """Label each token with the object that covers most of it, or has its centre there."""
        cell = self.patch * self.merge
        shape = (len(instances), self.grid, cell, self.grid, cell)
        squares = instances.reshape(shape).swapaxes(2, 3).reshape(len(instances), -1, cell**2)
        most = max(map(len, items))
        counts = np.stack([(squares == i + 1).sum(-1) for i in range(most)], axis=-1)
        owner = np.where(counts.max(-1) >= _COVERS * cell**2, counts.argmax(-1), -1)
        table = np.zeros(
            (len(items), most + 1, 11), np.float32
        )  # the last row, index -1, is "none"
        for b, there in enumerate(items):
            for i, item in enumerate(there):
                x, y = (item.box.x1 + item.box.x2) / 2, (item.box.y1 + item.box.y2) / 2
                owner[b, int(y // cell) * self.grid + int(x // cell)] = i
                classes = (
                    _COLOURS.index(item.colour),
                    SHAPES.index(item.shape),
                    _SIZES.index(item.size),
                )
                table[b, i] = [*classes, *item.box, *item.points[0], *item.points[1]]
        found = torch.from_numpy(table[np.arange(len(items))[:, None], owner])
        classes = found[..., :3].long()
        return Dense(
            torch.from_numpy(owner),
            classes[..., 0],
            classes[..., 1],
            classes[..., 2],
            found[..., 3:],
        )

    def _pack(self, segments: list[list[Segment]]) -> PackedSentences:
        start = self.tokens.stop
        lengths = [sum(len(part.prompt) + len(part.reply) for part in row) for row in segments]
        rows, length = len(segments), start + max(lengths)
        ids = np.full((rows, length), self._pad)
        labels = np.full((rows, length), NO_LABEL)
        targets, named, heard = np.full((3, rows, length), -1)
        texts: list[list[int]] = []
        positions = np.zeros((3, rows, length), np.int64)
        part = np.full((rows, length), -1)  # 0: shared by all segments, -1: padding
        shared = len(self.head)
        ids[:, :shared], ids[:, self.tokens], part[:, :start] = self.head, self._image, 0
        positions[:, :, :shared] = np.arange(shared)
        place = np.arange(self.grid**2)
        for axis, offset in enumerate((0 * place, place // self.grid, place % self.grid)):
            positions[axis, :, self.tokens] = shared + offset
        for b, row in enumerate(segments):
            at = start
            for number, (prompt, reply, target, item) in enumerate(row, start=1):
                end = at + len(prompt) + len(reply)
                ids[b, at:end] = prompt + reply
                # The image takes as many positions as its longer side has tokens.
                positions[:, b, at:end] = shared + self.grid + np.arange(end - at)
                foretells = slice(at + len(prompt) - 1, end - 1)
                labels[b, foretells], targets[b, foretells] = reply, target
                said = at + prompt.index(self._end)
                answer = at + len(prompt) + reply.index(self._answer)
                named[b, said : at + len(prompt)] = item
                heard[b, said:answer], heard[b, answer:end] = len(texts), len(texts) + 1
                texts += [prompt[1 : said - at], reply[: answer - at - len(prompt)]]
                part[b, at:end] = number
                at = end
        belongs = torch.from_numpy((part[:, None] == part[..., None]) | (part[:, None] == 0))
        mask = belongs & torch.ones(length, length, dtype=torch.bool).tril()
        mask |= torch.eye(length, dtype=torch.bool)  # softmax needs at least one place
        hidden = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
        return PackedSentences(
            torch.from_numpy(ids),
            torch.from_numpy(labels),
            torch.from_numpy(targets),
            torch.from_numpy(named),
            torch.from_numpy(heard),
            _shares(texts, len(self._tokenizer)),
            torch.from_numpy(positions),
            hidden[:, None],
        )


def _shares(texts: Sequence[Sequence[int]], entries: int) -> torch.Tensor:
    counts = [np.bincount(text, minlength=entries) for text in texts]
    table = torch.from_numpy(np.array(counts, np.float32).reshape(-1, entries))
    return table / table.sum(-1, keepdim=True)


def mirror_item(item: Item, side: int) -> Item:
    """Return the item in the image mirrored left to right."""
    # The last column of the larger image that coordinates come from becomes its first.
    last = side - 0.5

    def across(point: Point) -> Point:
        return Point(last - point.x, point.y)

    box = Box(last - item.box.x2, item.box.y1, last - item.box.x1, item.box.y2)
    return item._replace(box=box, points=(across(item.points[0]), across(item.points[1])))
