# SPDX-License-Identifier: Apache-2.0
"""What is learned: what is on every image token, and the reply to every sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from segzero_core.synthetic import COLOURS, SHAPES, SIZES
from training.tiny_recipe.batches import NO_LABEL, Dense

_NAMES = ('colour', 'shape', 'size')
_CLASSES = (len(COLOURS), len(SHAPES), len(SIZES))
_NUMBERS = 8  # in a reply: the box and two points
_SHARP = 4.0  # a small model's embeddings are short, and scores of them would be all alike


class DenseHeads(nn.Module):
    """Linear readings that are thrown away after training.

    At the tower's output: object or table, colour, shape, size, and the object's box relative to
    the token. The tower has no absolute positions, so no more can be asked of it. Inside the
    language model: where the token itself is, and what and where the object is, read through the
    embeddings of the words and numbers that say so. To find what a sentence names is then to
    compare embeddings, and to answer is to copy them. Two readings see to that: after a
    sentence or a thought, of all its words, so that there is something to compare; and where a
    reply is about to write a number, of all its numbers, so that looking at the right token comes
    with taking along what it knows.
    """

    def __init__(self, width: int, grid: int) -> None:
        """Make heads for tokens of ``width`` on a ``grid`` by ``grid`` image."""
        super().__init__()
        self.grid = grid
        self.seen = nn.Linear(width, 1 + sum(_CLASSES) + 4)
        self.norm = nn.LayerNorm(width)
        self.object = nn.Linear(width, 1)
        self.place = nn.Linear(width, 2 * grid)
        self.names = nn.Linear(width, len(_NAMES) * width)
        self.numbers = nn.Linear(width, _NUMBERS * width)
        self.copy_norm = nn.LayerNorm(width)
        self.copy = nn.Linear(width, _NUMBERS * width)
        self.recall_norm = nn.LayerNorm(width)
        self.recall = nn.Linear(width, width)


class Vocabulary:
    """The words and numbers of replies, as tokens.

    Attributes:
        names: For colour, shape and size the (C,) int64 tokens of their classes.
        numbers: (S,) int64 tokens of 0, 1, ..., S - 1.
        near: (S, S) row k is what is aimed at for k: k itself, and a little its neighbours.
    """

    def __init__(self, names: Sequence[Sequence[int]], numbers: Sequence[int]) -> None:
        """Take the tokens of the classes of colour, shape and size, and of 0, 1, ..."""
        self.names = [torch.tensor(ids) for ids in names]
        self.numbers = torch.tensor(numbers)
        value = torch.arange(len(numbers), dtype=torch.float32)
        self.near = torch.softmax(-((value[:, None] - value) ** 2) / 2, dim=-1)

    @classmethod
    def of(cls, tokenizer: Any, side: int) -> Vocabulary:
        """Look the tokens up in a tokenizer that has each as one."""
        names = [
            tokenizer.convert_tokens_to_ids([f' {name}' for name in group])
            for group in (COLOURS, SHAPES, SIZES)
        ]
        return cls(names, tokenizer.convert_tokens_to_ids([str(n) for n in range(side)]))

    def read_names(self, vectors: torch.Tensor, table: torch.Tensor) -> list[torch.Tensor]:
        """Return scores of colours, shapes and sizes.

        Args:
            vectors: (n, 3 * width).
            table: (vocabulary, width) embeddings.
        """
        parts = vectors.chunk(len(_NAMES), dim=-1)
        return [_SHARP * part @ table[ids].T for part, ids in zip(parts, self.names, strict=True)]

    def read_numbers(self, vectors: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Return (n * 8, S) log-probabilities of numbers.

        Args:
            vectors: (n, 8 * width).
            table: (vocabulary, width) embeddings.
        """
        vectors = vectors.reshape(-1, table.shape[-1])
        return functional.log_softmax(_SHARP * vectors @ table[self.numbers].T, dim=-1)

    def loss(self, scores: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the divergence of (n, S) log-probabilities from (n,) int64 values' targets."""
        return functional.kl_div(scores, self.near[values], reduction='batchmean')

    def whole(self, values: torch.Tensor) -> torch.Tensor:
        """Return coordinates as the numbers that are written for them."""
        return values.round().long().clamp(0, len(self.numbers) - 1)


def dense_losses(
    heads: DenseHeads,
    seen: torch.Tensor,
    read: torch.Tensor,
    truth: Dense,
    vocabulary: Vocabulary,
    table: torch.Tensor,
    cell: int,
) -> dict[str, torch.Tensor]:
    """Return the losses of the dense readings, and (``hit/...``) how good they are.

    Args:
        heads: The readings.
        seen: (B, N, width) from the tower.
        read: (B, N, width) from the middle of the language model.
        truth: What is there.
        vocabulary: How things and coordinates are written.
        table: (vocabulary, width) embeddings of the language model.
        cell: Side of an image token, in pixels.
    """
    owned = truth.owned
    aim = truth.numbers[owned]
    losses, near = _tower_losses(heads, seen, truth, cell)
    state = heads.norm(read)
    losses['read/object'] = _presence(heads.object(state)[..., 0], owned)
    own = heads.place(state).view(-1, heads.grid)
    losses['read/place'] = functional.cross_entropy(own, _places(heads, seen).flatten())
    state = state[owned]
    scores = vocabulary.read_names(heads.names(state), table)
    for name, written in zip(_NAMES, scores, strict=True):
        losses[f'read/{name}'] = functional.cross_entropy(written, getattr(truth, name)[owned])
    numbers = vocabulary.read_numbers(heads.numbers(state), table)
    losses['read/numbers'] = vocabulary.loss(numbers, vocabulary.whole(aim).flatten())
    with torch.no_grad():
        losses['hit/seen'] = hits(near, aim[:, :4])
        losses['hit/read'] = hits(numbers.argmax(-1).view(-1, _NUMBERS)[:, :4], aim[:, :4])
    return losses


def _tower_losses(
    heads: DenseHeads, seen: torch.Tensor, truth: Dense, cell: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the losses at the tower's output, and the (n, 4) boxes it sees."""
    owned = truth.owned
    tower = heads.seen(seen)
    losses = {'seen/object': _presence(tower[..., 0], owned)}
    classes = tower[owned][:, 1:-4].split(_CLASSES, dim=-1)
    for name, scores in zip(_NAMES, classes, strict=True):
        losses[f'seen/{name}'] = functional.cross_entropy(scores, getattr(truth, name)[owned])
    centre = ((_places(heads, seen) + 0.5) * cell).repeat(1, 1, 2)[owned]
    near = tower[owned][:, -4:]
    offset = (truth.numbers[owned][:, :4] - centre) / cell
    losses['seen/box'] = functional.smooth_l1_loss(near, offset, beta=0.1)
    return losses, near * cell + centre


def _places(heads: DenseHeads, seen: torch.Tensor) -> torch.Tensor:
    """Return (B, N, 2) int64 column and row of every image token."""
    index = torch.arange(heads.grid**2, device=seen.device)
    places = torch.stack([index % heads.grid, index // heads.grid], dim=-1)
    return places.expand(len(seen), -1, -1)


def reply_losses(
    scores: torch.Tensor, labels: torch.Tensor, vocabulary: Vocabulary
) -> dict[str, torch.Tensor]:
    """Return the losses of the replies' words and coordinates, and the rate of right boxes.

    Args:
        scores: (n, vocabulary) at the n labelled places, in order.
        labels: (n,) tokens that follow.
        vocabulary: How coordinates are written. Every reply holds eight, the box first.
    """
    scores = functional.log_softmax(scores.float(), dim=-1)
    value = _values(labels, vocabulary, scores.shape[-1])
    counts = value >= 0
    # A number's own probability is what is sampled: it needs the share of all words.
    written, aim = scores[counts][:, vocabulary.numbers], value[counts]
    losses = {
        'words': functional.nll_loss(scores[~counts], labels[~counts]),
        'numbers': vocabulary.loss(written, aim),
    }
    with torch.no_grad():
        right = scores[~counts].argmax(-1) == labels[~counts]
        losses['hit/words'] = right.float().mean()
        boxes = (part.view(-1, _NUMBERS)[:, :4] for part in (written.argmax(-1), aim))
        losses['hit/reply'] = hits(*boxes)
    return losses


def copy_losses(
    heads: DenseHeads,
    states: torch.Tensor,
    labels: torch.Tensor,
    vocabulary: Vocabulary,
    table: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return the loss of not having all of a reply's numbers at hand where one is written.

    Args:
        heads: The readings.
        states: (n, width) at the n labelled places, after the layer that looks.
        labels: (n,) tokens that follow.
        vocabulary: How coordinates are written.
        table: (vocabulary, width) embeddings of the language model.
    """
    value = _values(labels, vocabulary, len(table))
    counts = value >= 0
    aim = value[counts].view(-1, 1, _NUMBERS).expand(-1, _NUMBERS, -1)
    vectors = heads.copy(heads.copy_norm(states[counts]))
    scores = vocabulary.read_numbers(vectors, table)
    return {'copy': vocabulary.loss(scores, aim.flatten())}


def recall_loss(
    heads: DenseHeads, states: torch.Tensor, texts: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """Return the loss of not knowing the words of a text that has just been read or written.

    Args:
        heads: The readings.
        states: (n, width) after the text, in the middle of the language model.
        texts: (n, vocabulary) shares of tokens in each one's text.
        table: (vocabulary, width) embeddings of the language model.
    """
    scores = _SHARP * heads.recall(heads.recall_norm(states)) @ table.T
    said = functional.log_softmax(scores.float(), dim=-1)
    return functional.kl_div(said, texts, reduction='batchmean')


def _values(labels: torch.Tensor, vocabulary: Vocabulary, entries: int) -> torch.Tensor:
    """Return the number each token stands for; -100 where it is none."""
    value = torch.full((entries,), NO_LABEL, device=labels.device)
    numbers = vocabulary.numbers
    value[numbers] = torch.arange(len(numbers), device=labels.device)
    return value[labels]


def gaze_losses(
    gaze: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of not looking at what is meant, and how often the best look is right.

    Args:
        gaze: (n, N) attention scores of image tokens.
        targets: (n,) the item meant.
        owner: (n, N) the item on each token.
    """
    right = owner == targets[:, None]
    there = right.any(-1)  # a small thing can be crowded out of all tokens
    right, gaze = right[there], gaze[there]
    shares = functional.log_softmax(gaze.float(), dim=-1)
    on_target = shares.masked_fill(~right, -torch.inf).logsumexp(-1)
    best = gaze.argmax(-1, keepdim=True)
    most = max(1, len(gaze))  # a batch without such sentences has nothing to learn from
    return -on_target.sum() / most, right.gather(1, best).float().sum() / most


def hits(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the share of (n, 4) boxes whose IoU with the true ones is over 0.5."""
    low = torch.maximum(found[:, :2], truth[:, :2])
    high = torch.minimum(found[:, 2:], truth[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (found, truth)]
    return (2 * both > areas[0] + areas[1] - both).float().mean()


def _presence(scores: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(scores, there.float())
