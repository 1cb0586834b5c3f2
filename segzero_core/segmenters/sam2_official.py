# SPDX-License-Identifier: Apache-2.0
"""Meta's own ``sam2`` package and its ``.pt`` checkpoints."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segzero_core.errors import EngineOptionError, ModelLoadError
from segzero_core.runtime.checkpoints import choose_device
from segzero_core.segmenters.base import MaskResult
from segzero_core.types import Box, Image, Point

# Published checkpoint name -> configuration inside the package.
CONFIGS = {
    f'{version}_hiera_{size}': f'configs/{version}/{version}_hiera_{letter}.yaml'
    for version in ('sam2', 'sam2.1')
    for size, letter in (('tiny', 't'), ('small', 's'), ('base_plus', 'b+'), ('large', 'l'))
}


class OfficialSam2Segmenter:
    """``SAM2ImagePredictor`` as Meta publishes it.

    The model runs in bfloat16 autocast on CUDA, and in float32 elsewhere. Use this engine for
    checkpoints that exist only as ``.pt`` files, and for comparison. The ``sam2`` engine makes the
    same masks faster, and needs neither this package nor torchvision.
    """

    needs_warm_up = True

    def __init__(self, model: str = '', device: str = '', config: str = '') -> None:
        """Load a checkpoint.

        Args:
            model: A ``.pt`` file.
            device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ...; '' = CUDA if there is a GPU.
            config: Name of a configuration of the package, such as
                ``configs/sam2.1/sam2.1_hiera_l.yaml``; '' = the one of the file's name.

        Raises:
            EngineOptionError: No file is given, or no configuration belongs to its name.
            ModelLoadError: The package or the file is missing, the file holds anything but
                tensors, or they do not fit the configuration.
        """
        if not model:
            raise EngineOptionError(
                "segmenter 'sam2_official' needs option model: a .pt file such as "
                "'sam2.1_hiera_large.pt'"
            )
        self.device = choose_device(device)
        file = Path(model).expanduser()
        config = config or _config_of(file)
        build_sam2, predictor_class = _import_package(config)
        weights = _read_weights(file)
        network = build_sam2(config, ckpt_path=None, device=str(self.device))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelLoadError(
                f'the weights in {file} do not fit {config}: give option config the '
                f'configuration they belong to ({", ".join(CONFIGS.values())})'
            ) from error
        self._predictor: Any = predictor_class(network.eval().requires_grad_(False))

    @torch.inference_mode()
    def embed(self, image: Image) -> Any:
        """Run the image encoder on ``image``, (H, W, 3) uint8 RGB."""
        # A predictor holds one image, so each embedding is a shallow copy of the predictor.
        predictor = copy.copy(self._predictor)
        with self._autocast():
            predictor.set_image(np.ascontiguousarray(image))
        return predictor

    @torch.inference_mode()
    def segment(self, embedding: Any, box: Box | None, points: Sequence[Point]) -> MaskResult:
        """Return the best of three masks at the image's own size, with its predicted IoU."""
        with self._autocast():
            masks, scores, _ = embedding.predict(
                point_coords=np.array(points, dtype=np.float32) if points else None,
                point_labels=np.ones(len(points), dtype=np.int32) if points else None,
                box=None if box is None else np.array(box, dtype=np.float32),
                multimask_output=True,
            )
        best = int(scores.argmax())
        return MaskResult(masks[best].astype(bool), float(scores[best]))

    def close(self) -> None:
        """Free the model's memory."""
        self._predictor = None
        gc.collect()
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == 'cuda')


def _config_of(file: Path) -> str:
    try:
        return CONFIGS[file.stem]
    except KeyError:
        raise EngineOptionError(
            f'cannot tell from its name which SAM 2 {file.name!r} is (known: '
            f'{", ".join(CONFIGS)}): give option config, such as {CONFIGS["sam2.1_hiera_large"]!r}'
        ) from None


def _import_package(config: str) -> tuple[Any, Any]:
    """Return ``build_sam2`` and ``SAM2ImagePredictor`` of a package that has ``config``."""
    try:
        import sam2
        from sam2.build_sam import build_sam2
        from sam2.sam2_image_predictor import SAM2ImagePredictor
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise ModelLoadError(
            f"segmenter 'sam2_official' needs Meta's sam2 package and torchvision, which cannot "
            f'be imported here ({error}). Install them with: SAM2_BUILD_CUDA=0 pip install '
            "--no-build-isolation -r requirements/sam2.txt; or use segmenter 'sam2', which "
            'needs neither'
        ) from error
    if not (Path(sam2.__file__).parent / config).is_file():
        raise EngineOptionError(
            f'the sam2 package has no configuration {config!r}; it has '
            f'{", ".join(CONFIGS.values())}'
        )
    return build_sam2, SAM2ImagePredictor


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in ``file`` without executing code that it may contain."""
    if not file.is_file():
        raise ModelLoadError(f'no such model file: {file}. Give a SAM 2 .pt checkpoint')
    try:
        content = torch.load(file, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelLoadError(
            f'cannot read {file} as plain weights ({type(error).__name__}): it is cut short, '
            'damaged, or holds more than tensors. Download it again from Meta'
        ) from error
    weights = content.get('model') if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise ModelLoadError(f"{file} is no SAM 2 checkpoint: it has no entry 'model' of tensors")
    return weights
