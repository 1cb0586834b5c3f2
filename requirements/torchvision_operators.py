# SPDX-License-Identifier: Apache-2.0
"""Declares the operators that torchvision lacks when it was built for another torch.

install_vllm_cpu.sh copies it into .venv-vllm, where every Python process imports it at start.
"""

import torch

# A module variable, because the declarations last only as long as this object.
LIBRARY = torch.library.Library('torchvision', 'DEF')
LIBRARY.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
LIBRARY.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
