# SPDX-License-Identifier: Apache-2.0
"""Declares the operators of a torchvision that was built for another torch.

Copied into .venv-vllm by install_vllm_cpu.sh, where every Python imports it when it starts.
"""

import torch

# Kept for as long as the process lives: the declarations go with it.
LIBRARY = torch.library.Library('torchvision', 'DEF')
LIBRARY.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
LIBRARY.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
