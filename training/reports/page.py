# SPDX-License-Identifier: Apache-2.0
"""A page of the worst and best samples of a run: one HTML file that includes its pictures."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from segzero_core.data import read_samples
from segzero_core.data.rle import Rle
from segzero_core.data.samples import Sample
from segzero_core.errors import DataError, ImageError
from segzero_core.overlay import ACCENT
from segzero_core.types import Image, Mask, Size
from training.evaluation.merging import read_rows
from training.evaluation.summary import STATUS, counts_of, ious_of
from training.reports.runs import EvaluatedRun, system_of
from training.reports.tables import OVERVIEW

_SIDE = 420  # pixels; larger pictures are reduced to this side
_FAR = 10 * _SIDE
_TRUTH = (0, 170, 90)
_IGNORED = (130, 130, 130)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; color: #1b2430; }
article { border-top: 1px solid #d5dbe3; padding: 1rem 0; }
.pictures { display: flex; gap: .6rem; flex-wrap: wrap; }
figure { margin: 0; } figcaption { color: #5b6775; font-size: .85rem; } img { display: block; }
.query { font-weight: 600; } .fact { color: #5b6775; } pre { white-space: pre-wrap; }
p, pre { overflow-wrap: anywhere; }
th { text-align: left; font-weight: normal; color: #5b6775; padding-right: 1rem; }
"""


def make_page(run: EvaluatedRun, count: int, root: str = '') -> str:
    """Return the HTML of a page that needs neither a server nor other files.

    Args:
        run: A finished run whose dataset still exists.
        count: Number of worst and of best samples, from as many images as possible.
        root: Folder of a dataset that is known by name; '' = where the run found it.

    Raises:
        DataError: The dataset does not exist any more, or has changed.
    """
    settings = run.settings
    samples = read_samples(
        settings['dataset'],
        root or settings.get('root', ''),
        settings['level'],
        settings['limit'],
    )
    scores = _scores(run)
    if len(samples) != len(scores):
        raise DataError(
            f'{settings["dataset"]!r} has {len(samples)} rows now, the run in {run.folder} '
            f'measured {len(scores)}: give the dataset it was measured on'
        )
    order = sorted(range(len(scores)), key=lambda row: scores[row])
    worst = _choose(order, samples.image_ids, count)
    best = _choose([row for row in order[::-1] if row not in worst], samples.image_ids, count)
    chosen = {'Worst': worst, 'Best': best}
    wanted = {row for rows in chosen.values() for row in rows}
    full = {row['row']: row for row in read_rows(run.folder) if row['row'] in wanted}
    parts = [
        f'<h2>{name}</h2>'
        + ''.join(_article(full[row], samples[row], scores[row]) for row in rows)
        for name, rows in chosen.items()
        if rows
    ]
    title = html.escape(f'{run.dataset}: {system_of(run)}')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f'<title>{title}</title><style>{_STYLE}</style></head><body>'
        f'<h1>{title}</h1><p class="fact">{len(scores)} rows; percent and 95 % interval</p>'
        f'<table>{_figures(run)}</table>{"".join(parts)}</body></html>\n'
    )


def _figures(run: EvaluatedRun) -> str:
    """Return the rows of a table of all metrics and of the number of answers by status."""
    found = {name: cell for (_, name), cell in run.figures().items()}
    rows = [(words, str(found[name])) for name, words in OVERVIEW.items() if name in found]
    counts = run.summary['counts']
    rows.append(('answers', ', '.join(f'{counts[name]} {name}' for name in STATUS)))
    return ''.join(f'<tr><th>{words}</th><td>{figure}</td></tr>' for words, figure in rows)


def _choose(order: Sequence[int], images: Sequence[str], count: int) -> list[int]:
    """Return the first rows of ``order``; an image's second row only after all first rows."""
    seen: Counter[str] = Counter()
    turns = []
    for row in order:
        turns.append(seen[images[row]])
        seen[images[row]] += 1
    chosen = sorted(range(len(order)), key=lambda place: turns[place])[:count]
    return [order[place] for place in sorted(chosen)]


def _scores(run: EvaluatedRun) -> list[float]:
    """Return the IoU of each row, or the accuracy of its answer in words."""
    protocol = run.settings['protocol']
    return [
        float(row['correct']) if 'correct' in row else _iou(row, protocol)
        for row in read_rows(run.folder)
    ]


def _iou(row: dict[str, Any], protocol: Any) -> float:
    return float(ious_of([row], protocol)[0])


def _article(row: dict[str, Any], sample: Any, score: float) -> str:
    scored = 'correct' if 'correct' in row else 'IoU'
    facts = [row['id'], f'{scored} {100 * score:.1f}', row['status'], *row.get('repairs', ())]
    if row['error']:
        facts.append(row['error']['message'])
    if 'released' in row:
        counts = counts_of(row, 'standard')
        facts.append(f'{counts.intersection} of {counts.truth} pixels found')
    words = [
        f'<p class="query">{html.escape(row.get("query", ""))}</p>',
        f'<p class="fact">{html.escape("; ".join(facts))}</p>',
        f'<p>{html.escape(row.get("reasoning", ""))}</p>',
    ]
    if isinstance(sample, Sample) and sample.answers:
        words.append(f'<p>Right: {html.escape(", ".join(sample.answers))}</p>')
    if row.get('text'):
        raw = html.escape(row['text'])
        words.append(f'<details><summary>everything it wrote</summary><pre>{raw}</pre></details>')
    pictures = _pictures(row, sample) if isinstance(sample, Sample) else ''
    return f'<article>{"".join(words)}<div class="pictures">{pictures}</div></article>'


def _pictures(row: dict[str, Any], sample: Sample) -> str:
    try:
        image = sample.load_image()
    except ImageError as error:
        return f'<p class="fact">{html.escape(str(error))}</p>'
    factor = min(1.0, _SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    small: Image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    found = [_figure('image', small)]
    if row.get('mask'):
        height, width = row['mask']['size']
        mask = Rle(Size(width, height), row['mask']['counts']).mask
        drawn = _tinted(small, mask, ACCENT)
        _draw_prompt(drawn, row, factor)
        found.append(_figure('answer: mask, box and points', drawn))
    if sample.truth is not None:
        drawn = _tinted(small, sample.truth.mask, _TRUTH)
        words = 'truth'
        if sample.ignore is not None:
            drawn = _tinted(drawn, sample.ignore.mask, _IGNORED)
            words = 'truth; grey is ignored'
        found.append(_figure(words, drawn))
    return ''.join(found)


def _tinted(image: Image, mask: Mask, colour: tuple[int, int, int]) -> Image:
    """Return a copy of the picture with a mask of any size drawn over it."""
    drawn = image.copy()
    inside = mask.astype(np.uint8)
    small = cv2.resize(inside, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    drawn[small > 0] = 0.5 * drawn[small > 0] + 0.5 * np.array(colour)
    edges, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, edges, -1, colour, 1, cv2.LINE_AA)
    return drawn


def _draw_prompt(image: Image, row: dict[str, Any], factor: float) -> None:
    def scaled(numbers: Sequence[float]) -> list[int]:
        # The released evaluation keeps any number, but OpenCV draws only small ones.
        return [round(min(max(number * factor, -_FAR), _FAR)) for number in numbers]

    if row['box']:
        x1, y1, x2, y2 = scaled(row['box'])
        cv2.rectangle(image, (x1, y1), (x2, y2), ACCENT, 1, cv2.LINE_AA)
    for point in row['points']:
        x, y = scaled(point)
        cv2.circle(image, (x, y), 4, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(image, (x, y), 3, ACCENT, -1, cv2.LINE_AA)


def _figure(caption: str, image: Image) -> str:
    packed = cv2.imencode('.jpg', image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    data = base64.b64encode(packed.tobytes()).decode('ascii')
    height, width = image.shape[:2]
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        f'alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )
