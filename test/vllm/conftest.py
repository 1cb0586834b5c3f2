# SPDX-License-Identifier: Apache-2.0
"""vLLM reads these when it is imported."""

import os

os.environ.setdefault('VLLM_CPU_KVCACHE_SPACE', '1')  # GiB; by default half of the machine's
os.environ.setdefault('VLLM_NO_USAGE_STATS', '1')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
