# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declared with descriptions, checked, read into one object."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from segzero_core.errors import SegZeroError
from segzero_core.prompts import FAMILIES
from segzero_core.reasoners import REASONERS
from segzero_core.segmenters import SEGMENTERS
from segzero_ros.worker import Mode, Rules


class ParameterError(SegZeroError):
    """A parameter has a value the node cannot use. The message names it and what it may be."""

    kind = 'bad_parameter'


@dataclass(frozen=True)
class Spec:
    """What a parameter may be.

    Attributes:
        default: Its type is the parameter's; where it is a float, whole numbers will do too.
        description: What ``ros2 param describe`` shows.
        choices: Returns the values allowed, if only some are.
        low: Smallest value of a number.
        high: Largest value of a number.
        read_only: Can only be set when the node starts.
        live: Can be set at any time; the others only until they are read.
    """

    default: bool | int | float | str
    description: str
    choices: Callable[[], Iterable[str]] | None = None
    low: float = -math.inf
    high: float = math.inf
    read_only: bool = False
    live: bool = False

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with ``value``; ``None`` if nothing is."""
        kind = type(self.default)
        # bool is an int to Python, but `true` is no number to anybody else.
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits:
            return f'must be of type {kind.__name__}'
        if self.choices is not None and value not in (names := sorted(self.choices())):
            return f'must be one of {", ".join(repr(name) for name in names)}'
        if kind in (int, float) and not self.low <= value <= self.high:
            return f'must be from {self.low:g} to {self.high:g}'
        return None

    def descriptor(self) -> ParameterDescriptor:
        """Return what rclpy declares the parameter with."""
        constraints = ''
        if self.choices is not None:
            constraints = f'One of: {", ".join(sorted(self.choices()))}'
        elif math.isfinite(self.low):
            constraints = f'From {self.low:g} to {self.high:g}'
        # With a fixed type or range, rclpy raises in the middle of the node's constructor. Our
        # own check comes with the configure transition and says more.
        return ParameterDescriptor(
            description=self.description,
            additional_constraints=constraints,
            read_only=self.read_only,
            dynamic_typing=True,
        )


def _device(engine: str) -> Spec:
    return Spec('', f'Where the {engine} runs: cuda, cuda:1, cpu; empty is CUDA if there is one')


def _model(engine: str) -> Spec:
    return Spec('', f"The {engine}'s hub id or folder; empty is the engine's own default")


PARAMETERS: dict[str, Spec] = {
    'autostart': Spec(False, 'Configure and activate the node when it starts', read_only=True),
    'reasoner.engine': Spec('rules', 'What reasons about the sentence', lambda: REASONERS),
    'reasoner.model': _model('reasoner'),
    'reasoner.device': _device('reasoner'),
    'reasoner.family': Spec(
        '', 'Prompt family; empty is chosen from the model', lambda: ['', *FAMILIES]
    ),
    'reasoner.max_new_tokens': Spec(
        0, "Longest answer in tokens; 0 is the engine's own default", low=0, high=32768
    ),
    'reasoner.thinking': Spec(
        '',
        'free; prefilled: begun with <think>; none: straight to the answer; empty is free',
        lambda: ['', 'free', 'none', 'prefilled'],
    ),
    'reasoner.max_think_tokens': Spec(
        0, 'Tokens of thought after which the answer is begun; 0 is no limit', low=0, high=32768
    ),
    'reasoner.image_side': Spec(
        0,
        "Side in pixels of the square the transformers engine's model sees; 0 is the model's own",
        low=0,
        high=4096,
    ),
    'reasoner.quantization': Spec(
        '', 'Weights of the transformers engine in fewer bits', lambda: ['', '4bit', '8bit']
    ),
    'reasoner.url': Spec(
        '', 'Model server of the openai engine, such as http://127.0.0.1:8000/v1'
    ),
    'reasoner.timeout': Spec(
        0.0,
        "Seconds for one answer of a model server; 0 is the engine's own",
        low=0.0,
        high=3600.0,
    ),
    'reasoner.startup_timeout': Spec(
        0.0,
        "Seconds to wait at configure for a model server; 0 is the engine's own",
        low=0.0,
        high=3600.0,
    ),
    'segmenter.engine': Spec('grabcut', 'What makes the mask', lambda: SEGMENTERS),
    'segmenter.model': _model('segmenter'),
    'segmenter.device': _device('segmenter'),
    'query.mode': Spec(
        'replace',
        'A sentence that comes while another is answered: replaces it, waits its turn, or is '
        'rejected',
        lambda: get_args(Mode),
        live=True,
    ),
    'query.queue_size': Spec(
        8, 'Sentences that may wait in mode queue; more are rejected', low=1, high=1000, live=True
    ),
    'query.timeout': Spec(
        120.0,
        'Seconds after which a sentence that is being answered ends in an error; 0 is never',
        low=0.0,
        high=86400.0,
        live=True,
    ),
    'query.continuous_rate': Spec(
        0.0,
        'Answer the last sentence again for new images, at most so often per second; 0 is once',
        low=0.0,
        high=100.0,
        live=True,
    ),
    'image.transport': Spec(
        'raw', 'Type of the image topic: Image or CompressedImage', lambda: ['raw', 'compressed']
    ),
    'image.reliability': Spec(
        'best_effort',
        'QoS of all camera topics; best_effort receives from either kind of camera',
        lambda: ['best_effort', 'reliable'],
    ),
    'image.history': Spec(
        'keep_last',
        'QoS of all camera topics: how many messages wait to be taken',
        lambda: ['keep_last', 'keep_all'],
    ),
    'image.queue': Spec(
        1, 'QoS of all camera topics: the depth of keep_last, messages', low=1, high=100
    ),
    'image.timeout': Spec(
        5.0,
        'Seconds without an image after which the node warns; 0 is never',
        low=0.0,
        high=3600.0,
        live=True,
    ),
    'image.max_age': Spec(
        0.0,
        "Seconds since its stamp, by the node's clock, after which a frame is refused; 0 is never",
        low=0.0,
        high=3600.0,
        live=True,
    ),
    'image.codec': Spec('numpy', 'What reads image messages', lambda: ['numpy', 'cv_bridge']),
    'image.rectification': Spec(
        'auto',
        'Whether the lens distorts the image; auto: not on topics named image_rect...',
        lambda: ['auto', 'raw', 'rectified'],
    ),
    'depth.enabled': Spec(False, 'Subscribe depth and camera_info, publish metric targets'),
    'depth.transport': Spec(
        'raw',
        'Type of the depth topic: Image, or CompressedImage as image_transport compresses depth',
        lambda: ['raw', 'compressedDepth'],
    ),
    'depth.sync_slop': Spec(
        0.02,
        'Seconds between the stamps of image and depth that still count as one frame',
        low=0.0,
        high=1.0,
    ),
    'depth.target_frame': Spec(
        '', "Frame of the metric targets, through tf2_ros; empty is the camera's"
    ),
    'depth.min': Spec(0.1, 'Nearest depth to believe, metres', low=0.0, high=1000.0, live=True),
    'depth.max': Spec(10.0, 'Farthest depth to believe, metres', low=0.0, high=1000.0, live=True),
    'depth.min_valid': Spec(
        0.2,
        'Share of the object that must have depth to get metric targets',
        low=0.0,
        high=1.0,
        live=True,
    ),
}


@dataclass(frozen=True)
class EngineSettings:
    """Which engine, and the options that are set."""

    engine: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The engine, and its model where one is named: for people."""
        model = self.options.get('model')
        return f'{self.engine} ({model})' if model else self.engine


@dataclass(frozen=True)
class Settings:
    """What the parameters say, checked.

    Attributes:
        reasoner: What reasons.
        segmenter: What makes the mask.
        rules: What becomes of a sentence that comes while another is answered.
        continuous_rate: How often per second to answer a sentence again; 0 = not at all.
        compressed: The image topic carries CompressedImage.
        reliable: Camera topics are subscribed reliably.
        keep_all: All messages of camera topics wait to be taken, not the newest ``queue``.
        queue: How many messages of each camera topic wait to be taken.
        timeout: Seconds without an image after which the node warns; 0 is never.
        max_age: Seconds since a frame's stamp after which it is refused; 0 is never.
        codec: ``numpy`` or ``cv_bridge``.
        compressed_depth: The depth topic carries CompressedImage.
        slop: Seconds between stamps of image and depth; ``None`` without depth.
        depth_range: Nearest and farthest depth to believe, metres.
        min_valid: Share of the object that must have depth.
        rectified: The image has no lens distortion left.
        target_frame: Frame of the metric targets; '' = the camera's.
    """

    reasoner: EngineSettings
    segmenter: EngineSettings
    rules: Rules
    continuous_rate: float
    compressed: bool
    reliable: bool
    keep_all: bool
    queue: int
    timeout: float
    max_age: float
    codec: str
    compressed_depth: bool
    slop: float | None
    depth_range: tuple[float, float]
    min_valid: float
    rectified: bool
    target_frame: str


def declare_parameters(
    node: Node, specs: Mapping[str, Spec], settled: Callable[[], str | None] = lambda: None
) -> None:
    """Declare every parameter; from then on the node refuses values it could not use.

    Args:
        node: Gets the parameters.
        specs: What they may be.
        settled: Returns why those that are not live cannot change now; ``None`` if they can.
    """
    for name, spec in specs.items():
        node.declare_parameter(name, spec.default, spec.descriptor())

    def judge(parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        given = {p.name: p.value for p in parameters if p.name in specs}
        values = {name: node.get_parameter(name).value for name in specs}
        changed = {name: value for name, value in given.items() if value != values[name]}
        problems = _problems(specs, given) or _conflicts({**values, **given})
        if why := settled():
            problems += [f'{name} {why}' for name in changed if not specs[name].live]
        return SetParametersResult(successful=not problems, reason='; '.join(problems))

    node.add_on_set_parameters_callback(judge)


def read_parameters(node: Node, specs: Mapping[str, Spec]) -> dict[str, Any]:
    """Return the values of the parameters that were declared.

    Raises:
        ParameterError: Some cannot be used; the message names all of them.
    """
    values = {name: node.get_parameter(name).value for name in specs}
    if problems := _problems(specs, values) or _conflicts(values):
        raise ParameterError('; '.join(problems))
    return values


def read_settings(node: Node) -> Settings:
    """Read the parameters of the segzero node.

    Raises:
        ParameterError: Some cannot be used; the message names all of them.
    """
    values = read_parameters(node, PARAMETERS)
    return Settings(
        reasoner=_engine(values, 'reasoner'),
        segmenter=_engine(values, 'segmenter'),
        rules=Rules(
            mode=values['query.mode'],
            queue_size=values['query.queue_size'],
            timeout=float(values['query.timeout']),
        ),
        continuous_rate=float(values['query.continuous_rate']),
        compressed=values['image.transport'] == 'compressed',
        reliable=values['image.reliability'] == 'reliable',
        keep_all=values['image.history'] == 'keep_all',
        queue=values['image.queue'],
        timeout=float(values['image.timeout']),
        max_age=float(values['image.max_age']),
        codec=values['image.codec'],
        compressed_depth=values['depth.transport'] == 'compressedDepth',
        slop=float(values['depth.sync_slop']) if values['depth.enabled'] else None,
        depth_range=(float(values['depth.min']), float(values['depth.max'])),
        min_valid=float(values['depth.min_valid']),
        target_frame=values['depth.target_frame'],
        rectified=_rectified(values['image.rectification'], node.resolve_topic_name('image')),
    )


def _rectified(choice: str, topic: str) -> bool:
    """Whether images are rectified; by the names that image_proc gives its topics."""
    return choice == 'rectified' or (choice == 'auto' and '/image_rect' in topic)


def _engine(values: dict[str, Any], kind: str) -> EngineSettings:
    """Gather an engine's options; what is empty or zero is left to the engine."""
    prefix = f'{kind}.'
    given = {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}
    engine = given.pop('engine')
    return EngineSettings(engine, {name: value for name, value in given.items() if value})


def _problems(specs: Mapping[str, Spec], values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with values; those of other parameters are not our business."""
    return [
        f'{name} {problem}, not {value!r}'
        for name, value in values.items()
        if name in specs and (problem := specs[name].problem(value))
    ]


def _conflicts(values: Mapping[str, Any]) -> list[str]:
    """Return which values, each of them usable, cannot go together."""
    low, high = values.get('depth.min', 0.0), values.get('depth.max', math.inf)
    return [] if low < high else [f'depth.min must be less than depth.max, not {low} and {high}']
