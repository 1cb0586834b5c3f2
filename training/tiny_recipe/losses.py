# SPDX-License-Identifier: Apache-2.0
"""Losses of the tiny reasoner: labels of the image tokens, and the reply to every sentence."""

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
_NUMBERS = 8  # numbers of a reply: the box and two points
_SHARP = 4.0  # a small model's embeddings are short, so their products need a scale


class DenseHeads(nn.Module):
    """Linear read-outs of hidden states, discarded after training.

    At the output of the vision tower: object or table, colour, shape, size, and the object's box
    relative to the token. The tower has no absolute positions, so it cannot know more. Inside the
    language model: the position of the token, and name and coordinates of the object, read through
    the embeddings of the words and numbers that express them. Finding what a sentence names then
    is a comparison of embeddings, and answering is copying them. Two more read-outs support that:
    after a sentence or a thought, all its words (so there is something to compare), and where a
    reply is about to write a number, all its numbers (so attention to the right token brings what
    that token knows).
    """

    def __init__(self, width: int, grid: int) -> None:
        """Create heads for tokens of width ``width`` on a ``grid`` x ``grid`` image."""
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
        near: (S, S) float32: row k is the target distribution of number k, a narrow bell around k.
    """

    def __init__(self, names: Sequence[Sequence[int]], numbers: Sequence[int]) -> None:
        """Take the tokens of the classes of colour, shape and size, and of 0, 1, ..."""
        self.names = [torch.tensor(ids) for ids in names]
        self.numbers = torch.tensor(numbers)
        value = torch.arange(len(numbers), dtype=torch.float32)
        self.near = torch.softmax(-((value[:, None] - value) ** 2) / 2, dim=-1)

    @classmethod
    def of(cls, tokenizer: Any, side: int) -> Vocabulary:
        """Look up the tokens in a tokenizer that has one token for each."""
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
        """Return coordinates as the whole numbers that replies write."""
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
    """Return the losses of the dense read-outs, and their accuracy as ``hit/...``.

    Args:
        heads: The read-outs.
        seen: (B, N, width) output of the tower.
        read: (B, N, width) states in the middle of the language model.
        truth: Labels of the tokens.
        vocabulary: Tokens of names and coordinates.
        table: (vocabulary, width) embeddings of the language model.
        cell: Side of an image token, pixels.
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
    """Return the losses at the tower's output, and the (n, 4) boxes read there."""
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
    """Return the losses of the replies' words and coordinates, and the share of right boxes.

    Args:
        scores: (n, vocabulary) logits at the n labelled places, in order.
        labels: (n,) next tokens.
        vocabulary: Tokens of coordinates. Every reply has eight of them, the box first.
    """
    scores = functional.log_softmax(scores.float(), dim=-1)
    value = _values(labels, vocabulary, scores.shape[-1])
    counts = value >= 0
    # Normalised over all words, because sampling uses a number's own probability.
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
    """Return the loss of reading all numbers of a reply where one of them is written.

    Args:
        heads: The read-outs.
        states: (n, width) states at the n labelled places, after the layer whose gaze is trained.
        labels: (n,) next tokens.
        vocabulary: Tokens of coordinates.
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
    """Return the loss of recalling the words of the text before each state.

    Args:
        heads: The read-outs.
        states: (n, width) states in the middle of the language model.
        texts: (n, vocabulary) share of each token in the text before a state.
        table: (vocabulary, width) embeddings of the language model.
    """
    scores = _SHARP * heads.recall(heads.recall_norm(states)) @ table.T
    said = functional.log_softmax(scores.float(), dim=-1)
    return functional.kl_div(said, texts, reduction='batchmean')


def _values(labels: torch.Tensor, vocabulary: Vocabulary, entries: int) -> torch.Tensor:
    """Return the number of each token; ``NO_LABEL`` for tokens that are not numbers."""
    value = torch.full((entries,), NO_LABEL, device=labels.device)
    numbers = vocabulary.numbers
    value[numbers] = torch.arange(len(numbers), device=labels.device)
    return value[labels]


def gaze_losses(
    gaze: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of attention to the meant item, and the share of right maxima.

    Args:
        gaze: (n, N) attention scores of image tokens, before softmax.
        targets: (n,) the meant item.
        owner: (n, N) the item on each token.
    """
    right = owner == targets[:, None]
    there = right.any(-1)  # a small item may be the label of no token
    right, gaze = right[there], gaze[there]
    shares = functional.log_softmax(gaze.float(), dim=-1)
    on_target = shares.masked_fill(~right, -torch.inf).logsumexp(-1)
    best = gaze.argmax(-1, keepdim=True)
    most = max(1, len(gaze))  # a batch may have no such sentence
    return -on_target.sum() / most, right.gather(1, best).float().sum() / most


def hits(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the share of (n, 4) boxes whose IoU with the true boxes is over 0.5."""
    low = torch.maximum(found[:, :2], truth[:, :2])
    high = torch.minimum(found[:, 2:], truth[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (found, truth)]
    return (2 * both > areas[0] + areas[1] - both).float().mean()


def _presence(scores: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(scores, there.float())
