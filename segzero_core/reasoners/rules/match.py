# SPDX-License-Identifier: Apache-2.0
"""Decides which visible thing fits a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segzero_core.geometry import mask_to_box
from segzero_core.reasoners.rules.colours import colour_scores
from segzero_core.reasoners.rules.grammar import Request
from segzero_core.reasoners.rules.outlines import measure, shape_scores
from segzero_core.types import Box, Image, Mask

_FITS = 0.3  # lowest score of a candidate in a comparison
_NOTHING = 0.015  # if the best score is lower than this, nothing matches

# Distances on the table are estimated for a typical camera above a table: a pitch of 42 degrees
# and a focal length of 0.94 image widths.
_FOCAL, _TILT = 0.94, np.radians(42.0)


@dataclass(frozen=True)
class DetectedObject:
    """A visible thing and its measurements.

    Attributes:
        region: (h, w) mask of the thing.
        box: Box around the mask, pixels.
        colours: How well each colour name fits.
        shapes: How well each shape name fits.
        centre: (x, y) centre of the mask, as shares of the image's width.
        ground: (right, ahead) position of the foot on the table, in camera heights.
        height: Height of the thing as a share of the image's width, corrected for its distance.
            This is the part of the box's height that the depth of a round foot does not explain.
        area: Area of the mask as a share of the image's width squared, corrected for its distance.
    """

    region: Mask
    box: Box
    colours: dict[str, float]
    shapes: dict[str, float]
    centre: tuple[float, float]
    ground: tuple[float, float]
    height: float
    area: float

    @property
    def colour(self) -> str:
        """The colour name that fits best."""
        return max(self.colours, key=self.colours.__getitem__)

    @property
    def shape(self) -> str:
        """The shape name that fits best."""
        return max(self.shapes, key=self.shapes.__getitem__)


def describe(image: Image, region: Mask) -> DetectedObject:
    """Measure one region of a picture."""
    height, width = region.shape
    box = mask_to_box(region)
    rows, columns = np.nonzero(region)
    across, down = box.x2 - box.x1 + 1, box.y2 - box.y1 + 1
    # The middle of the foot is above the lowest pixel by half the depth of the foot.
    foot = box.y2 - min(0.25 * across, 0.4 * down)
    ground, distance = _ground(
        ((box.x1 + box.x2) / 2 - width / 2) / width, (foot - height / 2) / width
    )
    return DetectedObject(
        region=region,
        box=box,
        colours=colour_scores(image, region),
        shapes=shape_scores(measure(image, region)),
        centre=(float(columns.mean()) / width, float(rows.mean()) / width),
        ground=ground,
        height=(down - across * np.sin(_TILT)) / np.cos(_TILT) / width * distance,
        area=len(rows) / width**2 * distance**2,
    )


def _ground(x: float, y: float) -> tuple[tuple[float, float], float]:
    """Project a point (in image widths from the middle) to the table; also return its depth."""
    tan = np.tan(_TILT)
    drop = max(0.05, y / _FOCAL + tan)  # below the horizon
    depth = 1 / (np.cos(_TILT) * drop)
    ahead = depth * (np.cos(_TILT) - y / _FOCAL * np.sin(_TILT))
    return (x / _FOCAL * depth, float(ahead)), float(depth)


@dataclass(frozen=True)
class Decision:
    """A decision and its reasons.

    Attributes:
        chosen: Index of the chosen thing, or ``None``.
        steps: The reasoning, sentence by sentence.
    """

    chosen: int | None
    steps: tuple[str, ...]


def decide(request: Request, things: list[DetectedObject]) -> Decision:
    """Choose the thing that fits a request."""
    if not request.understood:
        words = ', '.join(repr(word) for word in request.unknown)
        return Decision(None, (f'I do not know what {words or "that"} means.',))
    scores = np.array([_fit(request, thing) for thing in things])
    steps = []
    if request.relation and request.anchor is not None:
        anchor = decide(request.anchor, things)
        if anchor.chosen is None:
            return Decision(None, (*anchor.steps, 'So there is nothing to compare with.'))
        steps.append(f'The thing it is compared with is {_name(things, anchor.chosen)}.')
        scores = scores * _related(request, things, anchor.chosen)
    if scores.max(initial=0) < _NOTHING:
        return Decision(None, (*steps, 'None of them fits what is asked for.'))
    wanted = request.extreme or request.size
    fitting = np.flatnonzero(scores >= max(_FITS * scores.max(), _NOTHING))
    if len(fitting) > 1:
        steps.append('These come into question: ' + _list(things, fitting) + '.')
    if wanted and len(fitting) > 1:
        measures = np.array([_extent(wanted, things[i]) for i in fitting])
        chosen = int(fitting[measures.argmax()])
        steps.append(f'Of these, {_name(things, chosen)} is the {_WORDS[wanted]}.')
    else:
        chosen = int(scores.argmax())
        steps.append(f'The best fit is {_name(things, chosen)}.')
    return Decision(chosen, tuple(steps))


_WORDS = {
    'left': 'leftmost',
    'right': 'rightmost',
    'near': 'nearest to the camera',
    'far': 'farthest from the camera',
    'tall': 'tallest',
    'short': 'shortest',
    'large': 'largest',
    'small': 'smallest',
}


def _extent(wanted: str, thing: DetectedObject) -> float:
    """Return the amount of the requested quality that a thing has."""
    return {
        'left': -thing.centre[0],
        'right': thing.centre[0],
        'near': -thing.ground[1],
        'far': thing.ground[1],
        'tall': thing.height,
        'short': -thing.height,
        'large': thing.area,
        'small': -thing.area,
    }[wanted]


def _fit(request: Request, thing: DetectedObject) -> float:
    """Return how well the attributes of a thing fit, 0 to 1, without its relations."""
    fit = 1.0
    if request.colours:
        fit *= max(thing.colours[name] for name in request.colours)
    if request.shapes:
        fit *= max(thing.shapes[name] for name in request.shapes)
    if request.purpose:
        fit *= sum(thing.shapes[name] * share for name, share in request.serves.items())
    for exclusion in request.excluded:
        alike = 1.0
        if exclusion.colours:
            alike *= max(thing.colours[name] for name in exclusion.colours)
        if exclusion.shapes:
            alike *= max(thing.shapes[name] for name in exclusion.shapes)
        fit *= 1 - alike
    return fit


def _related(request: Request, things: list[DetectedObject], anchor: int) -> np.ndarray:
    """Return how well each thing fits the relation to the anchor, 0 to 1, preferring near ones."""
    base = things[anchor]
    fits = np.zeros(len(things))
    for i, thing in enumerate(things):
        if i == anchor:
            continue
        right = thing.centre[0] - base.centre[0]
        ahead = thing.ground[1] - base.ground[1]
        apart = float(np.hypot(thing.ground[0] - base.ground[0], ahead))
        holds = {'left': right < 0, 'right': right > 0, 'front': ahead < 0, 'behind': ahead > 0}
        if request.relation in holds:
            # If several things are on that side, the nearer one gets a slight preference.
            fits[i] = (0.8 + 0.2 / (1 + apart)) if holds[request.relation] else 0.0
        else:
            fits[i] = 1 / (1 + apart / 0.1) if request.relation == 'near' else apart
    if request.relation in ('near', 'away'):
        fits = (fits >= fits.max()) * 1.0
    if request.opposite:
        fits = (fits == 0) * 1.0
        fits[anchor] = 0
    return fits


def _name(things: list[DetectedObject], i: int) -> str:
    return f'({i + 1}) the {things[i].colour} {things[i].shape}'


def _list(things: list[DetectedObject], which: np.ndarray) -> str:
    return ', '.join(_name(things, int(i)) for i in which)
