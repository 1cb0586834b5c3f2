# SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes in published layouts: the readers return the drawn scenes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segzero_core.data import Sample, read_samples
from segzero_core.errors import ConfigError
from training import make_synthetic_set

pytest.importorskip('pycocotools', reason='needs pycocotools: requirements/train.txt')


@pytest.mark.parametrize('layout', ['refcoco', 'reasonseg'])
def test_every_sentence_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    arguments = [layout, str(tmp_path), '--scenes', '10', '--width', '128', '--height', '96']
    assert make_synthetic_set.main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    images: list[set[str]] = []
    for line in said:
        name, words = line.split(': ')
        samples = read_samples(name, tmp_path, 'expression')
        assert len(samples) == int(words.split()[0])
        images.append(set(samples.image_ids))
        for sample in samples:
            assert isinstance(sample, Sample), sample
            assert sample.truth is not None
            assert sample.truth.area > 20
            assert sample.load_image().shape == (96, 128, 3)
    assert sum(map(len, images)) == len(set().union(*images)) == 10


RED = re.compile(r'((pick up|find|where is|show me) )?the ((small|large) )?red \w+')


def test_sentences_mean_what_is_shown(tmp_path: Path) -> None:
    """A thing said to be red is red where its mask is; the mask is neither shifted nor swollen."""
    make_synthetic_set.main(['refcoco', str(tmp_path), '--scenes', '16'])
    checked = 0
    for sample in read_samples('refcoco:train', tmp_path, 'expression'):
        assert isinstance(sample, Sample)
        assert sample.truth is not None
        if RED.fullmatch(sample.query):
            pixels = sample.load_image()[sample.truth.mask].astype(int)
            red = (pixels[:, 0] > 1.4 * pixels[:, 1]) & (pixels[:, 0] > 1.4 * pixels[:, 2])
            assert red.mean() > 0.8, sample.query
            checked += 1
    assert checked > 3


def test_reasonseg_has_doubtful_pixels_around_the_truth(tmp_path: Path) -> None:
    make_synthetic_set.main(['reasonseg', str(tmp_path), '--scenes', '5'])
    for sample in read_samples('reasonseg:train', tmp_path):
        assert isinstance(sample, Sample)
        assert sample.truth is not None
        assert sample.ignore is not None
        assert not (sample.truth.mask & sample.ignore.mask).any()
        truth, around = sample.truth.box, sample.ignore.box
        assert truth is not None
        assert around is not None
        assert around.x1 <= truth.x1
        assert around.y2 >= truth.y2
        assert sample.group in ('short', 'long')


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='file'):
        make_synthetic_set.main(['refcoco', str(tmp_path / 'file')])


@pytest.mark.parametrize('option', [('--scenes', '0'), ('--width', '5')])
def test_no_scene_and_none_too_small(tmp_path: Path, option: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match='at least one scene of 32 x 32 pixels is needed'):
        make_synthetic_set.main(['refcoco', str(tmp_path / 'set'), *option])
    assert not (tmp_path / 'set').exists()
