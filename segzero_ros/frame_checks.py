# SPDX-License-Identifier: Apache-2.0
"""Doubts about a frame: is it fresh, do its parts belong together, does the object have depth?

A field that a driver left empty (a stamp of 0, a frame_id of '') says nothing, so it contradicts
nothing either.
"""

from __future__ import annotations

import time

import numpy as np

from segzero_core.errors import FrameMismatchError, StaleFrameError, quoted
from segzero_core.grasping.roi import Depth
from segzero_core.types import ResultWarning, Segmentation
from segzero_ros.frames import Frame, stamp_seconds
from segzero_ros.settings import NodeSettings

CLOCK_OFFSET_S = 2.0  # more than any camera takes to deliver an image
LITTLE_DEPTH = 0.5  # share of the object


def check_age(frame: Frame, settings: NodeSettings, now: float) -> None:
    """Refuse a frame that is too old. One that the sentence names is not refused for its arrival.

    Args:
        frame: From ``FrameBuffer``.
        settings: ``max_arrival_age`` and ``max_age`` are the limits.
        now: Seconds, by the node's clock.

    Raises:
        StaleFrameError: It arrived too long ago, or its stamp is too far from ``now``.
    """
    waited = _arrival_age(frame)
    if frame.is_newest and _exceeds(waited, settings.max_arrival_age):
        raise StaleFrameError(
            f'the newest frame arrived {waited:.1f} s ago, more than image.max_arrival_age = '
            f'{settings.max_arrival_age:g} s: has the camera stopped? 0 accepts frames of any age'
        )
    if not settings.max_age:
        return
    stamp = stamp_seconds(frame.image.header)
    if not stamp:
        raise StaleFrameError(
            f'the frame has no stamp, so image.max_age = {settings.max_age:g} s cannot be checked:'
            ' let the driver stamp its images, or set it to 0'
        )
    age = now - stamp
    if abs(age) > settings.max_age:
        raise StaleFrameError(
            f'the frame was stamped {_ago(age)} (at {stamp:.3f}), more than image.max_age = '
            f'{settings.max_age:g} s: has the camera stopped, is its clock set, and, for a bag, '
            'is use_sim_time?'
        )


def frame_warnings(frame: Frame, settings: NodeSettings) -> list[ResultWarning]:
    """Return the warnings about a frame that is used nevertheless."""
    found = []
    waited = _arrival_age(frame)
    if not frame.is_newest and _exceeds(waited, settings.max_arrival_age):
        message = f'the sentence is about a frame that arrived {waited:.1f} s ago'
        found.append(ResultWarning('stale_frame', message))
    if frame.offset is not None and abs(frame.offset) > CLOCK_OFFSET_S:
        found.append(
            ResultWarning(
                'clock_offset',
                f"the frame's stamp is {_ago(frame.offset)} by the node's clock: do camera and "
                'node share one clock, and, for a bag or a simulation, is use_sim_time set?',
            )
        )
    if mismatch := _frame_id_mismatch(frame):
        found.append(ResultWarning('frame_id_mismatch', mismatch))
    return found


def check_frame_ids(frame: Frame) -> None:
    """Refuse a frame whose image, depth and camera_info name different frames.

    Raises:
        FrameMismatchError: They do.
    """
    if mismatch := _frame_id_mismatch(frame):
        raise FrameMismatchError(mismatch)


def depth_warnings(
    found: Segmentation, depth: Depth, depth_range: tuple[float, float]
) -> list[ResultWarning]:
    """Return a warning if less than ``LITTLE_DEPTH`` of the object has valid depth.

    Args:
        found: Its mask is as large as ``depth``.
        depth: (H, W) float32, metres.
        depth_range: Nearest and farthest valid depth, metres.
    """
    values = depth[found.mask]
    valid = (values >= depth_range[0]) & (values <= depth_range[1])  # NaN is neither
    share = np.count_nonzero(valid) / valid.size
    if share >= LITTLE_DEPTH:
        return []
    message = f'only {share:.0%} of the object has valid depth: the target rests on few pixels'
    return [ResultWarning('little_depth', message)]


def _frame_id_mismatch(frame: Frame) -> str:
    messages = {'image': frame.image, 'depth': frame.depth, 'camera_info': frame.info}
    names = {
        topic: message.header.frame_id.lstrip('/')  # as ROS 1 wrote it
        for topic, message in messages.items()
        if message is not None
    }
    if len({name for name in names.values() if name}) < 2:
        return ''
    given = ', '.join(f'{topic} in {quoted(name)}' for topic, name in names.items() if name)
    return (
        f'{given}: the target is only right if depth is registered to the image and camera_info '
        'is its calibration; depth_image_proc registers depth'
    )


def _arrival_age(frame: Frame) -> float:
    return time.monotonic() - frame.received


def _exceeds(seconds: float, limit: float) -> bool:
    return bool(limit) and seconds > limit


def _ago(seconds: float) -> str:
    return f'{seconds:.3f} s ago' if seconds > 0 else f'{-seconds:.3f} s in the future'
