# SPDX-License-Identifier: Apache-2.0
"""The lens of a calibration message, also if the driver left some fields empty."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from segzero_core.errors import CalibrationError, TargetError
from segzero_core.grasping.camera_model import Distortion, read_lens
from segzero_core.types import Intrinsics, Size

SIZE = Size(64, 48)
BENT = Distortion('plumb_bob', (-0.2, 0.1, 0.0, 0.0, 0.0))


@dataclass
class Roi:
    """The fields of ``sensor_msgs/RegionOfInterest``."""

    x_offset: int = 0
    y_offset: int = 0
    width: int = 0
    height: int = 0


def pinhole():
    """A message of a driver that fills in everything; no ROS is needed to read it."""
    return SimpleNamespace(
        width=SIZE.width,
        height=SIZE.height,
        distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=[60.0, 0.0, 31.5, 0.0, 66.0, 23.5, 0.0, 0.0, 1.0],
        p=[60.0, 0.0, 31.5, 0.0, 0.0, 66.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0],
        binning_x=0,
        binning_y=0,
        roi=Roi(),
    )


def bent_info(**changes):
    """A calibration whose K and P differ, as those of a distorted camera do."""
    info = pinhole()
    info.d = list(BENT.coefficients)
    info.p[0], info.p[5], info.p[2], info.p[6] = 50.0, 55.0, 30.0, 20.0
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def test_raw_images_have_k_and_d_rectified_ones_have_p():
    info = bent_info()
    assert read_lens(info, SIZE, rectified=False) == (Intrinsics(60, 66, 31.5, 23.5), BENT)
    assert read_lens(info, SIZE, rectified=True) == (Intrinsics(50, 55, 30, 20), None)


def test_without_distortion_and_with_one_pinhole_both_agree():
    info = pinhole()
    assert read_lens(info, SIZE, rectified=False) == read_lens(info, SIZE, rectified=True)


def test_rectified_images_have_k_where_the_driver_leaves_p_empty():
    info = bent_info(p=[0.0] * 12)
    assert read_lens(info, SIZE, rectified=True) == (Intrinsics(60, 66, 31.5, 23.5), None)


@pytest.mark.parametrize('rectified', [False, True])
def test_roi_comes_before_binning(rectified):
    info = bent_info(binning_x=2, binning_y=4)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 10, 12, 40, 32
    whole, distortion = read_lens(bent_info(), SIZE, rectified)
    part, same = read_lens(info, Size(20, 8), rectified)
    assert same == distortion  # at focal length one: it knows no pixels
    assert part == Intrinsics(whole.fx / 2, whole.fy / 4, (whole.cx - 10) / 2, (whole.cy - 12) / 4)


@pytest.mark.parametrize('binning', [0, 1])
def test_no_binning_has_two_names(binning):
    info = bent_info(binning_x=binning, binning_y=binning)
    assert read_lens(info, SIZE, rectified=False)[0] == Intrinsics(60, 66, 31.5, 23.5)


@pytest.mark.parametrize(
    ('changes', 'size', 'message'),
    [
        ({}, Size(128, 96), '64 x 48 pixels, the image has 128 x 96'),
        ({'binning_x': 2, 'binning_y': 2}, SIZE, '32 x 24 pixels, the image has 64 x 48'),
        ({'roi': Roi(width=10, height=8)}, SIZE, '10 x 8 pixels, the image has'),
    ],
)
def test_the_calibration_of_another_image_size_is_refused(changes, size, message):
    with pytest.raises(TargetError, match=message) as error:
        read_lens(bent_info(**changes), size, rectified=False)
    assert error.value.kind == 'size_mismatch'


EMPTY = {'k': [0.0] * 9, 'p': [0.0] * 12, 'd': []}


@pytest.mark.parametrize('rectified', [False, True])
@pytest.mark.parametrize(
    'changes',
    [
        {**EMPTY, 'width': 0, 'height': 0},  # camera_info_manager without a calibration
        EMPTY,
        {**EMPTY, 'width': 0},
        {**EMPTY, 'distortion_model': ''},
        {**EMPTY, 'width': 640, 'height': 480},
        {'k': [60.0, 0, 0, 0, 60.0, 0, 0, 0, 1], 'p': [0.0] * 12, 'd': []},  # no principal point
    ],
)
def test_a_camera_without_calibration_is_said_to_have_none(changes, rectified):
    with pytest.raises(CalibrationError, match='is the camera calibrated') as error:
        read_lens(bent_info(**changes), SIZE, rectified)
    assert error.value.kind == 'bad_intrinsics'


@pytest.mark.parametrize('changes', [{'width': 0, 'height': 0}, {'width': 0}, {'height': 0}])
def test_a_size_that_is_left_empty_fits_any_image(changes):
    expected = read_lens(bent_info(), SIZE, rectified=False)
    assert read_lens(bent_info(**changes), SIZE, rectified=False) == expected


def test_one_side_that_is_given_must_still_fit():
    with pytest.raises(TargetError, match=r'for 60 x \? pixels, the image has 64 x 48'):
        read_lens(bent_info(width=60, height=0), SIZE, rectified=False)


def test_raw_images_have_p_where_the_driver_leaves_k_empty_and_nothing_is_bent():
    info = pinhole()
    info.k = [0.0] * 9
    assert read_lens(info, SIZE, rectified=False) == (Intrinsics(60, 66, 31.5, 23.5), None)


def test_distortion_without_k_cannot_be_used():
    with pytest.raises(CalibrationError, match='K of camera_info'):
        read_lens(bent_info(k=[0.0] * 9), SIZE, rectified=False)


def test_distortion_of_a_model_without_a_name_is_refused():
    with pytest.raises(CalibrationError, match='no distortion_model'):
        read_lens(bent_info(distortion_model=''), SIZE, rectified=False)
    assert read_lens(bent_info(distortion_model=''), SIZE, rectified=True)[1] is None
