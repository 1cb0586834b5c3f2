# SPDX-License-Identifier: Apache-2.0
"""The parameters of the segzero node, and the settings they are read into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from rclpy.node import Node

from segzero_core.prompts import FAMILIES
from segzero_core.reasoners import REASONERS
from segzero_core.segmenters import SEGMENTERS
from segzero_ros.parameters import Spec, read_parameters
from segzero_ros.worker import Mode, QueuePolicy


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
    'reasoner.num_draft_tokens': Spec(
        -1,
        'Maximum draft tokens per step (speculative decoding with n-grams); 0 turns drafts off, '
        "-1 is the engine's own default",
        low=-1,
        high=64,
    ),
    'reasoner.torch_compile': Spec(
        False, 'The transformers engine compiles what a token is computed with at configure'
    ),
    'reasoner.structured_output': Spec(
        False, 'The engines vllm and openai let the model write nothing but the answer format'
    ),
    'reasoner.gpu_memory_utilization': Spec(
        0.0,
        "Of the GPU's memory, for the vllm engine; the segmenter needs the rest; 0 is 0.8",
        low=0.0,
        high=1.0,
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
    'segmenter.torch_compile': Spec(
        False, 'The sam2 engine compiles its image encoder at configure'
    ),
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
        'Seconds without a message of a camera topic after which the node warns; 0 is never',
        low=0.0,
        high=3600.0,
        live=True,
    ),
    'image.max_age': Spec(
        0.0,
        "Seconds from its stamp to the node's clock beyond which a frame is refused; 0 is never",
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
class NodeSettings:
    """What the parameters say, checked.

    Attributes:
        reasoner: What reasons.
        segmenter: What makes the mask.
        policy: What becomes of a sentence that comes while another is answered.
        continuous_rate: How often per second to answer a sentence again; 0 = not at all.
        compressed: The image topic carries CompressedImage.
        reliable: Camera topics are subscribed reliably.
        keep_all: All messages of camera topics wait to be taken, not the newest ``queue``.
        queue: How many messages of each camera topic wait to be taken.
        timeout: Seconds of a camera topic's silence after which the node warns; 0 is never.
        max_age: Seconds from a frame's stamp to now beyond which it is refused; 0 is never.
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
    policy: QueuePolicy
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


def conflicts(values: Mapping[str, Any]) -> list[str]:
    """Return which values, each of them usable, cannot go together."""
    low, high = values['depth.min'], values['depth.max']
    return [] if low < high else [f'depth.min must be less than depth.max, not {low} and {high}']


def read_settings(node: Node) -> NodeSettings:
    """Read the parameters of the segzero node.

    Raises:
        ParameterError: Some cannot be used; the message names all of them.
    """
    values = read_parameters(node, PARAMETERS, conflicts)
    return NodeSettings(
        reasoner=_engine(values, 'reasoner'),
        segmenter=_engine(values, 'segmenter'),
        policy=QueuePolicy(
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
    """Return an engine's options; what has the parameter's default is left to the engine."""
    prefix = f'{kind}.'
    given = {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}
    engine = given.pop('engine')
    set_here = {
        name: value for name, value in given.items() if value != PARAMETERS[prefix + name].default
    }
    return EngineSettings(engine, set_here)
