# SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes written in the layouts of RefCOCO and of ReasonSeg."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as PilImage

from segzero_core.data.rle import encode_mask
from segzero_core.data.scenes import HELD_OUT_COLOURS, HELD_OUT_SHAPES
from segzero_core.synthetic import COLOURS, SHAPES, Query, Scene, make_scene
from segzero_core.types import Mask, Size

LAYOUTS = ('refcoco', 'reasonseg')
_SEED = 7 * 10**9  # no split of the synthetic data contains these scenes
_SPLITS = {'refcoco': ('train', 'val', 'testA', 'testB'), 'reasonseg': ('train', 'val', 'test')}
_MOST_SENTENCES = 3
_FINE = 4  # scale of the mask that is outlined, because COCO's outlines run along pixel edges
_DOUBT = 2  # width of the ignored rim around an object, pixels


def write_layout(layout: str, root: Path, count: int, size: Size) -> dict[str, int]:
    """Write ``count`` scenes and return the number of sentences in each split.

    Six scenes of ten are in ``train``; the other splits share the rest.

    Args:
        layout: One of ``LAYOUTS``.
        root: The folder to write to; ``read_samples`` takes it as its root.
        count: Number of scenes.
        size: Size of the images, pixels.
    """
    splits = _SPLITS[layout]
    scenes = (_scene(index, size) for index in range(count))
    chosen = [
        splits[0] if index % 10 < 6 else splits[1 + index % (len(splits) - 1)]
        for index in range(count)
    ]
    write = _write_refcoco if layout == 'refcoco' else _write_reasonseg
    return write(root, zip(chosen, scenes, strict=True))


def _scene(index: int, size: Size) -> Scene:
    shapes = [shape for shape in SHAPES if shape not in HELD_OUT_SHAPES]
    colours = [colour for colour in COLOURS if colour not in HELD_OUT_COLOURS]
    for seed in range(50):  # some scenes have no object that a sentence can single out
        scene = make_scene(_SEED + 50 * index + seed, size, (2, 5), shapes=shapes, colours=colours)
        if scene.queries():
            return scene
    raise AssertionError('fifty scenes without a sentence')


def _by_object(scene: Scene) -> dict[int, list[Query]]:
    found: dict[int, list[Query]] = {}
    for query in scene.queries():
        found.setdefault(query.target, []).append(query)
    return found


def _write_refcoco(root: Path, scenes: Iterator[tuple[str, Scene]]) -> dict[str, int]:
    folder, pictures = root / 'refcoco', root / 'images/mscoco/images/train2014'
    folder.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    for image_id, (split, scene) in enumerate(scenes, start=1):
        name = f'COCO_train2014_{image_id:012}.jpg'
        PilImage.fromarray(scene.image).save(pictures / name, quality=95)
        width, height = scene.camera.size
        images.append({'id': image_id, 'file_name': name, 'width': width, 'height': height})
        for target, said in _by_object(scene).items():
            annotation = _annotation(len(annotations) + 1, image_id, scene.mask(target))
            annotations.append(annotation)
            refs.append(_ref(len(refs) + 1, annotation, name, split, said[:_MOST_SENTENCES]))
    instances = {
        'images': images,
        'annotations': annotations,
        'categories': [{'id': 1, 'name': 'thing', 'supercategory': 'thing'}],
    }
    (folder / 'instances.json').write_text(json.dumps(instances))
    (folder / 'refs(unc).p').write_bytes(pickle.dumps(refs, protocol=2))
    splits = _SPLITS['refcoco']
    return {s: sum(len(r['sentences']) for r in refs if r['split'] == s) for s in splits}


def _annotation(ann_id: int, image_id: int, mask: Mask) -> dict[str, Any]:
    rle = encode_mask(mask)
    box = rle.box
    assert box is not None
    fine = mask.repeat(_FINE, axis=0).repeat(_FINE, axis=1)
    outlines, holes = _outlines(fine)
    whole = {'size': list(mask.shape), 'counts': rle.counts}
    polygons = [((outline + 0.5) / _FINE).ravel().tolist() for outline in outlines]
    return {
        'id': ann_id,
        'image_id': image_id,
        'category_id': 1,
        # As in COCO, a polygon cannot have holes.
        'segmentation': whole if holes else polygons,
        'iscrowd': 0,
        'area': float(rle.area),
        'bbox': [box.x1, box.y1, box.x2 - box.x1 + 1, box.y2 - box.y1 + 1],
    }


def _ref(
    ref_id: int, annotation: dict[str, Any], name: str, split: str, said: Sequence[Query]
) -> dict[str, Any]:
    sentences = [
        {
            'sent_id': 10 * ref_id + place,
            'sent': query.text.lower(),
            'raw': query.text,
            'tokens': query.text.lower().split(),
        }
        for place, query in enumerate(said)
    ]
    return {
        'ref_id': ref_id,
        'ann_id': annotation['id'],
        'image_id': annotation['image_id'],
        'category_id': 1,
        'file_name': name.replace('.jpg', f'_{annotation["id"]}.jpg'),
        'split': split,
        'sent_ids': [sentence['sent_id'] for sentence in sentences],
        'sentences': sentences,
    }


def _write_reasonseg(root: Path, scenes: Iterator[tuple[str, Scene]]) -> dict[str, int]:
    written = dict.fromkeys(_SPLITS['reasonseg'], 0)
    for number, (split, scene) in enumerate(scenes, start=1):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        said = _by_object(scene)
        target = sorted(said)[number % len(said)]
        texts = [query.text for query in said[target]]
        kept = texts[:_MOST_SENTENCES] if split == 'train' else texts[-1:]
        mask = scene.mask(target)
        content = {
            'text': kept,
            'is_sentence': len(kept[0].split()) > 4,
            'shapes': [*_shapes(_grow(mask), 'ignore'), *_shapes(mask, 'target')],
        }
        PilImage.fromarray(scene.image).save(folder / f'{number:06}.jpg', quality=95)
        (folder / f'{number:06}.json').write_text(json.dumps(content))
        written[split] += len(kept)
    return written


def _shapes(mask: Mask, label: str) -> list[dict[str, Any]]:
    outlines, _ = _outlines(mask)
    return [
        {'label': label, 'shape_type': 'polygon', 'points': outline.tolist()}
        for outline in outlines
    ]


def _outlines(mask: Mask) -> tuple[list[Any], bool]:
    """Return the (n, 2) outline of every connected part, and whether the mask has holes."""
    found, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [
        outline[:, 0] for outline, (*_, parent) in zip(found, tree[0], strict=True) if parent < 0
    ]
    return outer, len(outer) < len(found)


def _grow(mask: Mask) -> Mask:
    side = 2 * _DOUBT + 1
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8))
    return np.asarray(grown, dtype=np.bool_)
