# SPDX-License-Identifier: Apache-2.0
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: pip install -r requirements/models.txt')

import torch

from segzero_core.errors import EngineOptionError, ModelLoadError
from segzero_core.segmenters import load_segmenter
from segzero_core.segmenters.sam2_official import CONFIGS, _read_weights
from segzero_core.types import Box, Point

needs_package = pytest.mark.skipif(
    importlib.util.find_spec('sam2') is None,
    reason="needs Meta's sam2 package: pip install -r requirements/sam2.txt",
)


def test_which_configuration_a_published_name_means():
    assert CONFIGS['sam2_hiera_tiny'] == 'configs/sam2/sam2_hiera_t.yaml'
    assert CONFIGS['sam2.1_hiera_base_plus'] == 'configs/sam2.1/sam2.1_hiera_b+.yaml'
    assert len(CONFIGS) == 8


def test_a_file_is_needed():
    with pytest.raises(EngineOptionError, match='needs option model'):
        load_segmenter('sam2_official')


def test_a_name_that_implies_no_configuration():
    with pytest.raises(EngineOptionError, match=r"'mine\.pt' is .*give option config"):
        load_segmenter('sam2_official', model='folder/mine.pt')


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sam2', None)
    with pytest.raises(ModelLoadError, match=r'pip install .*-r requirements/sam2\.txt'):
        load_segmenter('sam2_official', model='sam2.1_hiera_tiny.pt')


class Harmful:
    """An object in a malicious checkpoint: unpickling it calls a function."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_files_that_hold_more_than_tensors_are_never_run(tmp_path):
    file = tmp_path / 'sam2.1_hiera_tiny.pt'
    torch.save({'model': Harmful(tmp_path / 'harm')}, file)
    with pytest.raises(ModelLoadError, match='holds more than tensors'):
        _read_weights(file)
    assert not (tmp_path / 'harm').exists()


def test_files_that_are_no_checkpoints(tmp_path):
    file = tmp_path / 'sam2.1_hiera_tiny.pt'
    with pytest.raises(ModelLoadError, match='no such model file'):
        _read_weights(file)
    file.write_bytes(b'')
    with pytest.raises(ModelLoadError, match=r'cannot read .* as plain weights'):
        _read_weights(file)
    torch.save({'weights': torch.zeros(1)}, file)
    with pytest.raises(ModelLoadError, match="no entry 'model'"):
        _read_weights(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelLoadError, match='cut short'):
        _read_weights(file)


@pytest.fixture(scope='module')
def random_checkpoint(tmp_path_factory) -> Path:
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    network = build_sam2(CONFIGS['sam2.1_hiera_tiny'], ckpt_path=None, device='cpu')
    file = tmp_path_factory.mktemp('official') / 'sam2.1_hiera_tiny.pt'
    torch.save({'model': network.state_dict()}, file)
    return file


@needs_package
def test_masks_of_the_real_package(random_checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (61, 93, 3), dtype=np.uint8)
    segmenter = load_segmenter('sam2_official', model=str(random_checkpoint), device='cpu')
    embedding = segmenter.embed(image)
    other = segmenter.embed(np.zeros((50, 40, 3), dtype=np.uint8))
    box, points = Box(10, 10, 70, 50), (Point(30, 30), Point(50, 20))
    found = segmenter.segment(embedding, box, points)
    assert found.mask.shape == (61, 93)
    assert found.mask.dtype == np.bool_
    assert 0 <= found.score <= 1
    assert segmenter.segment(other, box, ()).mask.shape == (50, 40)
    again = segmenter.segment(embedding, box, points)  # the first embedding is still valid
    assert np.array_equal(again.mask, found.mask)
    segmenter.close()


@needs_package
@pytest.mark.parametrize(
    ('config', 'error', 'message'),
    [
        ('configs/none.yaml', EngineOptionError, "no configuration 'configs/none.yaml'"),
        (CONFIGS['sam2.1_hiera_small'], ModelLoadError, 'do not fit'),
    ],
)
def test_configurations_that_do_not_belong_to_the_file(random_checkpoint, config, error, message):
    with pytest.raises(error, match=message):
        load_segmenter('sam2_official', model=str(random_checkpoint), config=config)
