# SPDX-License-Identifier: Apache-2.0
"""Every error segzero raises on purpose.

Each names the value at fault and what to do about it, and has a ``kind``: a short, stable word
that programs can compare (it is what ``/segzero/result`` reports).
"""

from __future__ import annotations


class SegZeroError(Exception):
    """Base of all errors raised on purpose. ``kind`` is a stable word for programs."""

    kind = 'error'


class QueryError(SegZeroError):
    """The sentence cannot be used: empty, or longer than the limit."""

    kind = 'bad_query'


class ImageError(SegZeroError):
    """The image cannot be used: unreadable, wrong shape, type or encoding."""

    kind = 'bad_image'


class EmptyMaskError(SegZeroError, ValueError):
    """A mask without a single pixel, where one is needed."""

    kind = 'empty_mask'


class MetricError(SegZeroError, ValueError):
    """A metric cannot be computed: no samples, or prediction and truth do not match."""

    kind = 'bad_metric'


class UnknownNameError(SegZeroError):
    """A name that is in no registry. The message lists the valid ones."""

    kind = 'unknown_name'


class EngineOptionError(SegZeroError):
    """An option an engine does not take, or a value it cannot use."""

    kind = 'bad_option'


class ModelLoadError(SegZeroError):
    """A model that cannot be loaded. The message names the folder or id and the remedy."""

    kind = 'model_load'


class ServerError(SegZeroError):
    """A model server that cannot be asked, or did not answer. The message holds its address.

    Attributes:
        kind: One of ``ServerError.KINDS``.
    """

    KINDS = (
        'server_unreachable',  # no server listens there, or the connection broke before any text
        'server_timeout',  # no whole answer in time
        'server_refused',  # it answered, with an error
        'server_broken',  # what it sent is not the protocol, or it broke off
    )

    def __init__(self, kind: str, message: str) -> None:
        """Remember ``kind``.

        Raises:
            ValueError: ``kind`` is not in ``KINDS``.
        """
        if kind not in self.KINDS:
            raise ValueError(f'unknown ServerError kind {kind!r}; one of {", ".join(self.KINDS)}')
        super().__init__(message)
        self.kind = kind


class OutOfMemoryError(SegZeroError):
    """The device has not enough memory for this model and image."""

    kind = 'out_of_memory'


class BagError(SegZeroError):
    """A bag that cannot be read or written. The message names the file and what helps."""

    kind = 'bad_bag'


class DemoError(SegZeroError):
    """The demo cannot continue; the message names the missing part."""

    kind = 'demo'


class RosStartError(SegZeroError):
    """ROS 2 cannot be initialised, or a node cannot be created. The message says what helps."""

    kind = 'ros_start'


class CommandError(SegZeroError):
    """A program that is to be started does not exist or cannot be executed."""

    kind = 'bad_command'


class CancelledError(SegZeroError):
    """The query was cancelled before it was answered."""

    kind = 'cancelled'


class DataError(SegZeroError):
    """A dataset, or one row of it, that cannot be used."""

    kind = 'bad_data'


class ConfigError(SegZeroError):
    """A setting that does not exist, has the wrong type, or cannot go with another."""

    kind = 'bad_config'


class TrainingError(SegZeroError):
    """Training cannot continue. The message names the step and the last good checkpoint."""

    kind = 'training'


class SceneError(SegZeroError):
    """A scene that cannot be made from these arguments."""

    kind = 'bad_scene'


class CalibrationError(SegZeroError):
    """The calibration cannot be used. The message names the values at fault."""

    kind = 'bad_intrinsics'


class TargetError(SegZeroError):
    """There is no metric target.

    Attributes:
        kind: One of ``TargetError.KINDS``.
    """

    KINDS = (
        'no_depth',  # no depth image belongs to the frame
        'no_camera_info',  # no calibration has come
        'size_mismatch',  # depth and mask differ in size: the depth is not registered
        'empty_mask',  # nothing was segmented
        'no_valid_depth',  # the sensor measured nothing in range on the object
        'too_few_pixels',  # the object is too small, or too little of it was measured
        'sparse_depth',  # too small a share of it was measured
        'no_transform',  # tf does not know the frame that targets are wanted in
        'width_cut',  # there is a target, but the border cuts the object in every direction
        'width_unmeasured',  # there is a target, but no depth at the object's ends
    )

    def __init__(self, kind: str, message: str) -> None:
        """Remember ``kind``.

        Raises:
            ValueError: ``kind`` is not in ``KINDS``.
        """
        if kind not in self.KINDS:
            raise ValueError(f'unknown TargetError kind {kind!r}; one of {", ".join(self.KINDS)}')
        super().__init__(message)
        self.kind = kind


class AnswerError(SegZeroError):
    """The reasoner's text holds no usable answer.

    Attributes:
        kind: One of ``AnswerError.KINDS``.
        text: The raw text the reasoner wrote.
    """

    KINDS = (
        'empty_text',  # the reasoner wrote nothing
        'no_json',  # no JSON object anywhere an answer may stand
        'bad_json',  # something like JSON that no repair makes readable
        'missing_key',  # bbox, points_1 or points_2 is absent
        'bad_box',  # bbox is not four finite numbers, or is under a pixel wide after clamping
        'bad_point',  # a point is not two finite numbers
        'out_of_image',  # the whole box lies outside the image
        'wrong_space',  # the numbers are in another space than the one asked for
        'prompt_example',  # the answer is the example of the prompt, copied
        'token_limit',  # the reply was cut off by the limit of tokens before a usable answer
        'nothing_found',  # the reasoner says explicitly that nothing matches
        'unknown_word',  # the sentence has a word that the engine ``rules`` does not know
    )

    def __init__(self, kind: str, message: str, text: str) -> None:
        """Remember ``kind`` and the raw ``text``.

        Raises:
            ValueError: ``kind`` is not in ``KINDS``.
        """
        if kind not in self.KINDS:
            raise ValueError(f'unknown AnswerError kind {kind!r}; one of {", ".join(self.KINDS)}')
        super().__init__(message)
        self.kind = kind
        self.text = text


class BusyError(SegZeroError):
    """A sentence that is not accepted because another one is being answered."""

    kind = 'busy'


class StalledError(SegZeroError):
    """No answer within ``query.timeout``."""

    kind = 'timeout'


class NoImageError(SegZeroError):
    """A sentence that came before the first image of the camera."""

    kind = 'no_image'


class StaleFrameError(SegZeroError):
    """The newest frame is older than the node may use."""

    kind = 'stale_frame'


class UnknownFrameError(SegZeroError):
    """A sentence about the frame of a stamp that is no longer kept."""

    kind = 'unknown_frame'


class FrameMismatchError(SegZeroError):
    """Image, depth and camera_info name different frames, and ``depth.frame_mismatch`` refuses."""

    kind = 'frame_id_mismatch'


class CodecError(SegZeroError):
    """The image codec cannot be used on this machine."""

    kind = 'bad_codec'


class ParameterError(SegZeroError):
    """ROS parameters with values that cannot be used. The message names all of them."""

    kind = 'bad_parameter'


def first_line(error: object, most: int = 300) -> str:
    """Return the first line of a message, for quoting it inside another one.

    Args:
        error: An exception, or any object with a text. An exception without a message is named
            by its type.
        most: Characters to keep. A longer line ends in ``...``.
    """
    lines = str(error).strip().splitlines()
    line = next((line.strip() for line in lines if line.strip()), type(error).__name__)
    return line if len(line) <= most else line[: most - 3] + '...'


def quoted(value: object, most: int = 80) -> str:
    """Return ``repr(value)`` on one line of at most ``most`` characters, for messages."""
    # A value can hold a whole image: its representation is made of the beginning alone.
    short = value[: most + 1] if isinstance(value, (str, bytes)) else value
    text = ' '.join(repr(short).split())
    return text if len(text) <= most else text[: most - 3] + '...'
