# SPDX-License-Identifier: Apache-2.0
"""The parameters of the segzero node, their only source, and the settings read from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from rclpy.node import Node

from segzero_core.prompts import PLACE_FAMILIES
from segzero_core.reasoners import REASONERS
from segzero_core.registry import EngineEntry
from segzero_core.segmenters import SEGMENTERS
from segzero_core.task import Answers
from segzero_ros.outcomes import Mode, QueuePolicy
from segzero_ros.parameters import Spec, read_parameters

ENGINE_DEFAULT = -1  # of a number for which 0 means something: the engine's own default


def _device(engine: str) -> Spec:
    return Spec(
        '',
        f'Device of the {engine}: cuda, cuda:1 or cpu; empty is CUDA if there is one. Ignored by '
        'engines that run no model in this process',
    )


def _model(engine: str) -> Spec:
    return Spec(
        '',
        f'Folder or Hugging Face id of the {engine}; OWNER/NAME@REVISION pins a revision; empty '
        "is the engine's own default",
    )


PARAMETERS: dict[str, Spec] = {
    'autostart': Spec(False, 'Configure and activate the node when it starts', read_only=True),
    'reasoner.engine': Spec('rules', 'Engine that reasons about the sentence', lambda: REASONERS),
    'reasoner.model': _model('reasoner'),
    'reasoner.device': _device('reasoner'),
    'reasoner.family': Spec(
        '', "Prompt family; empty is the model's own", lambda: ['', *PLACE_FAMILIES]
    ),
    'reasoner.answer': Spec(
        '',
        "Parts of an answer; empty is the checkpoint's own",
        lambda: ['', *get_args(Answers)],
    ),
    'reasoner.max_new_tokens': Spec(
        0, "Maximum length of an answer in tokens; 0 is the engine's default", low=0, high=32768
    ),
    'reasoner.thinking': Spec(
        '',
        'free: the model decides; prefilled: the answer begins with <think>; none: no thinking; '
        'empty is free',
        lambda: ['', 'free', 'none', 'prefilled'],
    ),
    'reasoner.max_think_tokens': Spec(
        0, 'Maximum length of the thinking in tokens; 0 is no limit', low=0, high=32768
    ),
    'reasoner.image_side': Spec(
        0,
        "Side in pixels of the square image for the model (engine transformers); 0 is the model's "
        'own',
        low=0,
        high=4096,
    ),
    'reasoner.quantization': Spec(
        '',
        'Quantization of the weights by bitsandbytes (engine transformers); empty is none',
        lambda: ['', '4bit', '8bit'],
    ),
    'reasoner.num_draft_tokens': Spec(
        ENGINE_DEFAULT,
        'Maximum draft tokens per step of n-gram speculative decoding; 0 turns it off; '
        f"{ENGINE_DEFAULT} is the engine's default",
        low=ENGINE_DEFAULT,
        high=64,
    ),
    'reasoner.torch_compile': Spec(
        False, 'Compile the model when the node is configured (engine transformers)'
    ),
    'reasoner.structured_output': Spec(
        False, 'Constrain decoding to the answer format (engines vllm and openai)'
    ),
    'reasoner.gpu_memory_utilization': Spec(
        0.0,
        "Share of the GPU's memory for the engine vllm; the segmenter needs the rest; 0 is 0.8",
        low=0.0,
        high=1.0,
    ),
    'reasoner.url': Spec(
        '',
        'Address of the model server (engine openai); empty is http://127.0.0.1:8000/v1. Its API '
        'key is read from the environment variable OPENAI_API_KEY',
    ),
    'reasoner.timeout': Spec(
        0.0,
        'Seconds for one answer of the model server, retries included; 0 is 60',
        low=0.0,
        high=3600.0,
    ),
    'reasoner.startup_timeout': Spec(
        0.0,
        'Seconds to wait for the model server when the node is configured; 0 is 5',
        low=0.0,
        high=3600.0,
    ),
    'segmenter.engine': Spec('grabcut', 'Engine that makes the mask', lambda: SEGMENTERS),
    'segmenter.model': _model('segmenter'),
    'segmenter.device': _device('segmenter'),
    'segmenter.torch_compile': Spec(
        False, 'Compile the image encoder when the node is configured (engine sam2)'
    ),
    'query.mode': Spec(
        'replace',
        'A sentence that comes while another one is answered: replaces it, waits its turn, or is '
        'rejected',
        lambda: get_args(Mode),
        live=True,
    ),
    'query.queue_size': Spec(
        8, 'Maximum number of waiting sentences in mode queue', low=1, high=1000, live=True
    ),
    'query.timeout': Spec(
        120.0,
        'Seconds after which the answer to a sentence is given up with an error; 0 is no limit',
        low=0.0,
        high=86400.0,
        live=True,
    ),
    'query.continuous_rate': Spec(
        0.0,
        'Maximum rate in Hz of answering the last sentence again for new images; 0 answers it '
        'once',
        low=0.0,
        high=100.0,
        live=True,
    ),
    'image.transport': Spec(
        'raw', 'Type of the image topic: Image or CompressedImage', lambda: ['raw', 'compressed']
    ),
    'image.reliability': Spec(
        'best_effort',
        'QoS reliability of all camera topics; best_effort receives from every camera',
        lambda: ['best_effort', 'reliable'],
    ),
    'image.history': Spec(
        'keep_last', 'QoS history of all camera topics', lambda: ['keep_last', 'keep_all']
    ),
    'image.queue': Spec(
        1, 'QoS depth of all camera topics for keep_last, in messages', low=1, high=100
    ),
    'image.timeout': Spec(
        5.0,
        'Seconds without a message on a camera topic after which the node warns; 0 is never',
        low=0.0,
        high=3600.0,
        live=True,
    ),
    'image.max_arrival_age': Spec(
        2.0,
        'Seconds since its arrival after which a frame is refused (stale_frame); 0 is never',
        low=0.0,
        high=86400.0,
        live=True,
    ),
    'image.max_age': Spec(
        0.0,
        "Seconds between its stamp and the node's clock beyond which a frame is refused "
        '(stale_frame); 0 is never',
        low=0.0,
        high=86400.0,
        live=True,
    ),
    'image.codec': Spec('numpy', 'Decoder of image messages', lambda: ['numpy', 'cv_bridge']),
    'image.rectification': Spec(
        'auto',
        'Whether the image is rectified; auto: if the last part of the topic is image_rect or '
        'begins with image_rect_',
        lambda: ['auto', 'raw', 'rectified'],
    ),
    'depth.enabled': Spec(False, 'Subscribe to depth and camera_info and publish metric targets'),
    'depth.transport': Spec(
        'raw',
        'Type of the depth topic: Image, or CompressedImage with compressedDepth',
        lambda: ['raw', 'compressedDepth'],
    ),
    'depth.sync_slop': Spec(
        0.02,
        'Maximum difference in seconds between the stamps of image and depth of one frame',
        low=0.0,
        high=1.0,
    ),
    'depth.frame_mismatch': Spec(
        'warn',
        'If image, depth and camera_info name different frames: warn in the result, or refuse the '
        'metric target',
        lambda: ['warn', 'refuse'],
        live=True,
    ),
    'depth.target_frame': Spec(
        '', "tf frame of the metric targets (needs tf2_ros_py); empty is the camera's frame"
    ),
    'depth.min': Spec(0.1, 'Nearest valid depth in metres', low=0.0, high=1000.0, live=True),
    'depth.max': Spec(10.0, 'Farthest valid depth in metres', low=0.0, high=1000.0, live=True),
    'depth.min_valid': Spec(
        0.2,
        'Minimum share of the object with valid depth for a metric target',
        low=0.0,
        high=1.0,
        live=True,
    ),
}


# The names that image_proc and drivers give the topics of rectified images, and what
# image_transport may append.
_RECTIFIED_TOPIC = re.compile(r'.*/image_rect(ified)?(_[^/]*)?(/compressed)?')


@dataclass(frozen=True)
class EngineSettings:
    """An engine and the options that are set for it."""

    engine: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The engine and its model, if one is set; for people."""
        model = self.options.get('model')
        return f'{self.engine} ({model})' if model else self.engine


@dataclass(frozen=True)
class NodeSettings:
    """The values of the parameters, checked.

    Attributes:
        reasoner: Reasoner and its options.
        segmenter: Segmenter and its options.
        policy: Rules for a sentence that comes while another one is answered.
        continuous_rate: Maximum rate in Hz of answering the last sentence again; 0 = not at all.
        compressed: The image topic carries CompressedImage.
        reliable: Camera topics are subscribed reliably.
        keep_all: The QoS history of camera topics is ``keep_all``.
        queue: QoS depth of camera topics.
        timeout: Seconds of silence of a camera topic after which the node warns; 0 = never.
        max_arrival_age: Seconds since its arrival after which a frame is refused; 0 = never.
        max_age: Seconds between a frame's stamp and the node's clock beyond which the frame is
            refused; 0 = never.
        codec: ``numpy`` or ``cv_bridge``.
        compressed_depth: The depth topic carries CompressedImage.
        slop: Maximum seconds between the stamps of image and depth; ``None`` without depth.
        refuse_mismatch: Frames of different names give no metric target.
        depth_range: Nearest and farthest valid depth, metres.
        min_valid: Minimum share of the object with valid depth.
        rectified: The image has no lens distortion left.
        target_frame: tf frame of the metric targets; '' = the camera's.
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
    max_arrival_age: float
    max_age: float
    codec: str
    compressed_depth: bool
    slop: float | None
    refuse_mismatch: bool
    depth_range: tuple[float, float]
    min_valid: float
    rectified: bool
    target_frame: str


def conflicts(values: Mapping[str, Any]) -> list[str]:
    """Return the reasons why values that are valid by themselves cannot be combined."""
    low, high = values['depth.min'], values['depth.max']
    return [] if low < high else [f'depth.min must be less than depth.max, not {low} and {high}']


def read_settings(node: Node) -> NodeSettings:
    """Read the parameters of the segzero node.

    Raises:
        ParameterError: Some values cannot be used; the message names all of them.
    """
    values = read_parameters(node, PARAMETERS, conflicts)
    return NodeSettings(
        reasoner=_engine(values, 'reasoner', REASONERS),
        segmenter=_engine(values, 'segmenter', SEGMENTERS),
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
        max_arrival_age=float(values['image.max_arrival_age']),
        max_age=float(values['image.max_age']),
        codec=values['image.codec'],
        compressed_depth=values['depth.transport'] == 'compressedDepth',
        slop=float(values['depth.sync_slop']) if values['depth.enabled'] else None,
        refuse_mismatch=values['depth.frame_mismatch'] == 'refuse',
        depth_range=(float(values['depth.min']), float(values['depth.max'])),
        min_valid=float(values['depth.min_valid']),
        target_frame=values['depth.target_frame'],
        rectified=_rectified(values['image.rectification'], node.resolve_topic_name('image')),
    )


def _rectified(choice: str, topic: str) -> bool:
    """Return whether images are rectified, in mode ``auto`` by the last part of the topic."""
    if choice == 'auto':
        return _RECTIFIED_TOPIC.fullmatch(topic) is not None
    return choice == 'rectified'


def _engine(
    values: dict[str, Any], kind: str, registry: Mapping[str, EngineEntry]
) -> EngineSettings:
    """Collect the options of an engine; a parameter with its default is left to the engine."""
    prefix = f'{kind}.'
    given = {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}
    engine = given.pop('engine')
    options = {
        name: value for name, value in given.items() if value != PARAMETERS[prefix + name].default
    }
    if not registry[engine].has_device:
        options.pop('device', None)  # the launch argument names the device of both engines
    return EngineSettings(engine, options)
