# SPDX-License-Identifier: Apache-2.0
"""The accuracy of the embedded tiny models on held-out synthetic tabletops.

    python benchmarks/tiny_models.py [--scenes 100] [--objects 2 5] [--model tiny]

The scenes have 640 x 480 pixels and seeds from 1000000. One sentence of each kind is asked per
scene (if the scene has one). The reasoner uses greedy decoding. The segmenter (`--segmenter`, a
model of the engine sam2) is measured on the reasoner's answers and on exact boxes and points.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthetic_accuracy import sample

from segzero_core import SegZero
from segzero_core.errors import AnswerError
from segzero_core.geometry import box_iou, largest_inscribed_circles, mask_to_box
from segzero_core.metrics.masks import image_ious, overlap
from segzero_core.reasoners import load_reasoner
from segzero_core.segmenters import load_segmenter
from segzero_core.segmenters.base import Segmenter
from segzero_core.synthetic import KINDS, Query, Scene, make_scene
from segzero_core.types import Mask

FIRST_SEED = 1_000_000  # the tiny models were trained on lower seeds


@dataclass(frozen=True)
class Outcome:
    """The measurements of one sentence; each IoU is 0 if the answer could not be read.

    Attributes:
        kind: Kind of the sentence.
        parsed: Whether the answer could be read.
        box: IoU of the answer's box.
        mask: IoU of the answer's mask.
        exact: IoU of the mask made from the true box and points.
    """

    kind: str
    parsed: bool
    box: float
    mask: float
    exact: float


def ask(segzero: SegZero, segmenter: Segmenter, scene: Scene, query: Query) -> Outcome:
    """Ask one sentence and compare the answer with the truth."""
    truth = scene.mask(query.target)
    points = tuple(circle.center for circle in largest_inscribed_circles(truth))
    found = segmenter.segment(segmenter.embed(scene.image), mask_to_box(truth), points)
    exact = mask_iou(found.mask, truth)
    try:
        answer = segzero(scene.image, query.text)
    except AnswerError:
        return Outcome(query.kind, False, 0.0, 0.0, exact)
    box = box_iou(answer.box, mask_to_box(truth))
    return Outcome(query.kind, True, box, mask_iou(answer.mask, truth), exact)


def mask_iou(found: Mask, truth: Mask) -> float:
    """Return the IoU of two (H, W) bool masks."""
    return float(image_ious([overlap(found, truth)])[0])


def report(outcomes: list[Outcome]) -> None:
    """Print the table."""
    print(
        f'{"kind":12} {"asked":>6} {"parsed":>7} {"box IoU>0.5":>12} {"mask gIoU":>10} '
        f'{"from exact boxes":>17}'
    )
    for kind in (*KINDS, 'all'):
        some = [o for o in outcomes if kind in (o.kind, 'all')]
        parsed, right, mask, exact = (
            np.mean([value(o) for o in some])
            for value in (
                lambda o: o.parsed,
                lambda o: o.box > 0.5,
                lambda o: o.mask,
                lambda o: o.exact,
            )
        )
        print(
            f'{kind:12} {len(some):6} {parsed:7.1%} {right:12.1%} {mask:10.3f} {exact:17.3f}',
            flush=True,
        )


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scenes', type=int, default=100)
    parser.add_argument('--model', default='tiny', help='a reasoner: a name, folder or hub id')
    parser.add_argument('--objects', type=int, nargs=2, default=(2, 5), help='fewest and most')
    parser.add_argument('--segmenter', default='tiny_sam2', help='a SAM 2, likewise')
    options = parser.parse_args()
    outcomes = []
    reasoner = load_reasoner('transformers', model=options.model, device='cpu')
    segmenter = load_segmenter('sam2', model=options.segmenter, device='cpu')
    with SegZero(reasoner, segmenter) as segzero:
        for seed in range(FIRST_SEED, FIRST_SEED + options.scenes):
            scene, rng = (
                make_scene(seed, count=tuple(options.objects)),
                np.random.default_rng(seed),
            )
            outcomes += [ask(segzero, segmenter, scene, query) for query in sample(scene, rng)]
    print(f'{options.scenes} scenes of 640 x 480 from seed {FIRST_SEED}')
    report(outcomes)


if __name__ == '__main__':
    main()
