# SPDX-License-Identifier: Apache-2.0
"""What is learned: what is on every image token, and the reply to every sentence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from segzero_core.synthetic import COLOURS, SHAPES, SIZES
from training.grounding.batches import NO_LABEL, Dense

_CLASSES = (len(COLOURS), len(SHAPES), len(SIZES))


class DenseHeads(nn.Module):
    """Linear readings of image tokens, thrown away after training.

    At the tower's output: object or table, colour, shape, size, and the object's box relative to
    the token. The tower has no absolute positions, so no more can be asked of it. Inside the
    language model: the same, where the token itself is, and the box in image coordinates, read
    through the embeddings of the numbers, so that copying it is all that is left to an answer.
    """

    def __init__(self, width: int, grid: int) -> None:
        """Make heads for tokens of ``width`` on a ``grid`` by ``grid`` image."""
        super().__init__()
        self.grid = grid
        self.seen = nn.Linear(width, 1 + sum(_CLASSES) + 4)
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, 1 + sum(_CLASSES))
        self.place = nn.Linear(width, 2 * grid)
        self.box = nn.Linear(width, 4 * width)


@dataclass(frozen=True)
class Numbers:
    """The coordinates as tokens.

    Attributes:
        ids: (S,) int64 tokens of 0, 1, ..., S - 1.
        near: (S, S) row k is what is aimed at for k: k itself, and a little its neighbours.
    """

    ids: torch.Tensor
    near: torch.Tensor

    @classmethod
    def of(cls, ids: list[int]) -> Numbers:
        """Make it for tokens of 0, 1, ..."""
        value = torch.arange(len(ids), dtype=torch.float32)
        near = torch.softmax(-((value[:, None] - value) ** 2) / 2, dim=-1)
        return cls(torch.tensor(ids), near)

    def loss(self, scores: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the divergence of (n, S) log-probabilities from (n,) int64 values' targets."""
        return functional.kl_div(scores, self.near[values], reduction='batchmean')


def dense_losses(
    heads: DenseHeads,
    seen: torch.Tensor,
    read: torch.Tensor,
    truth: Dense,
    numbers: Numbers,
    embeddings: torch.Tensor,
    cell: int,
) -> dict[str, torch.Tensor]:
    """Return the losses of the dense readings, and (``hit/...``) how good they are.

    Args:
        heads: The readings.
        seen: (B, N, width) from the tower.
        read: (B, N, width) from the middle of the language model.
        truth: What is there.
        numbers: Coordinates as tokens.
        embeddings: (vocabulary, width) of the language model.
        cell: Side of an image token, in pixels.
    """
    owned, box = truth.owned, truth.box[truth.owned]
    tower = heads.seen(seen)
    losses = _classes('seen', tower, truth)
    place = torch.arange(heads.grid**2, device=seen.device)
    place = torch.stack([place % heads.grid, place // heads.grid], dim=-1)
    centre = ((place + 0.5) * cell).repeat(1, 2).expand(len(seen), -1, -1)[owned]
    near = tower[owned][:, -4:]
    losses['seen/box'] = functional.smooth_l1_loss(near, (box - centre) / cell, beta=0.1)
    state = heads.norm(read)
    losses |= _classes('read', heads.read(state), truth)
    own = heads.place(state).view(-1, heads.grid)
    losses['read/place'] = functional.cross_entropy(own, place.repeat(len(seen), 1).flatten())
    corners = heads.box(state[owned]).view(-1, seen.shape[-1])
    scores = functional.log_softmax(4 * corners @ embeddings[numbers.ids].T, dim=-1)
    values = box.round().long().clamp(0, len(numbers.ids) - 1)
    losses['read/box'] = numbers.loss(scores, values.flatten())
    with torch.no_grad():
        losses['hit/seen'] = hits(near * cell + centre, box)
        losses['hit/read'] = hits(scores.argmax(-1).view(-1, 4), box)
    return losses


def reply_losses(
    scores: torch.Tensor, labels: torch.Tensor, numbers: Numbers
) -> dict[str, torch.Tensor]:
    """Return the losses of the replies' words and coordinates, and the rate of right boxes.

    Args:
        scores: (n, vocabulary) at the n labelled places, in order.
        labels: (n,) tokens that follow.
        numbers: Coordinates as tokens. Every reply holds eight, the box first.
    """
    scores = functional.log_softmax(scores.float(), dim=-1)
    value = torch.full((scores.shape[-1],), NO_LABEL, device=labels.device)
    value[numbers.ids] = torch.arange(len(numbers.ids), device=labels.device)
    value = value[labels]
    counts = value >= 0
    written, aim = scores[counts][:, numbers.ids], value[counts]
    losses = {
        'words': functional.nll_loss(scores[~counts], labels[~counts]),
        'numbers': numbers.loss(written, aim),
    }
    with torch.no_grad():
        boxes = (written.argmax(-1).view(-1, 8)[:, :4], aim.view(-1, 8)[:, :4])
        losses['hit/reply'] = hits(*boxes)
    return losses


def gaze_losses(
    gaze: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the loss of not looking at what is meant, and how often the best look is right.

    Args:
        gaze: (n, N) attention scores of image tokens, where a reply is being written.
        targets: (n,) the item meant.
        owner: (n, N) the item on each token.
    """
    right = owner == targets[:, None]
    there = right.any(-1)  # a small thing can be crowded out of all tokens
    right, gaze = right[there], gaze[there]
    shares = functional.log_softmax(gaze, dim=-1)
    on_target = shares.masked_fill(~right, -torch.inf).logsumexp(-1)
    best = gaze.argmax(-1, keepdim=True)
    return {'gaze': -on_target.mean(), 'hit/gaze': right.gather(1, best).float().mean()}


def hits(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the share of (n, 4) boxes whose IoU with the true ones is over 0.5."""
    low = torch.maximum(found[:, :2], truth[:, :2])
    high = torch.minimum(found[:, 2:], truth[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (found, truth)]
    return (2 * both > areas[0] + areas[1] - both).float().mean()


def _classes(name: str, scores: torch.Tensor, truth: Dense) -> dict[str, torch.Tensor]:
    owned = truth.owned
    there = functional.binary_cross_entropy_with_logits(scores[..., 0], owned.float())
    losses = {f'{name}/object': there}
    parts = scores[owned][:, 1 : 1 + sum(_CLASSES)].split(_CLASSES, dim=-1)
    for what, part in zip(('colour', 'shape', 'size'), parts, strict=True):
        losses[f'{name}/{what}'] = functional.cross_entropy(part, getattr(truth, what)[owned])
    return losses
